"""Every quantizer, on a share of the data: what has to be the same are the scales and what was seen.

A case is a function of a `Share`, and does not know how many processes there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tests.distributed.share import EVERYTHING, Share, net, sgd, train
from torchpare.quantization import (
    BNNQuantizer,
    DoReFaQuantizer,
    LsqPlusQuantizer,
    LsqQuantizer,
    NaiveQuantizer,
    ObserverQuantizer,
    PACTQuantizer,
    QAT_Quantizer,
)

__all__ = ["QUANTIZERS"]


def quantized(kind: Any, **more: Any) -> Callable[[Share], nn.Module]:
    """Quantized, wrapped and trained."""

    def case(share: Share) -> nn.Module:
        model = net()
        # fully_shard puts others in the place of parameters, so that an optimizer can only be made behind it.
        known = None if share.shards else sgd(model, 0.02)
        kind(model, [{**EVERYTHING, **more}], known).compress()
        together = share.together(model)
        train(together, known or sgd(model, 0.02), share, number=4)
        return model

    return case


def calibrated(observer: str) -> Callable[[Share], nn.Module]:
    def case(share: Share) -> nn.Module:
        model = net()
        entry = {**EVERYTHING, "observer": {"input": observer, "output": observer}}
        return ObserverQuantizer(model, [entry]).calibrate(x for x, _ in share.batches(3))

    return case


BINARY = {"quant_bits": 1, "quant_types": ["weight", "output"], "op_types": ["Conv2d"]}

QUANTIZERS: dict[str, Callable[[Share], nn.Module]] = {
    "naive": quantized(lambda model, entries, _: NaiveQuantizer(model, entries), quant_types=["weight"]),
    "qat": quantized(QAT_Quantizer),
    "qat min_max": quantized(QAT_Quantizer, observer={"input": "min_max", "output": "min_max"}),
    "qat delayed": quantized(QAT_Quantizer, quant_start_step=2),
    "lsq": quantized(LsqQuantizer),
    "lsq+": quantized(LsqPlusQuantizer),
    "pact": quantized(PACTQuantizer, quant_types=["weight", "output"]),
    "dorefa": quantized(DoReFaQuantizer),
    "bnn": quantized(BNNQuantizer, **BINARY),
    **{f"calibrated {name}": calibrated(name) for name in ("min_max", "moving_average", "percentile", "kl", "mse")},
}
