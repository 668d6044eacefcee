"""What may be counted on with a sharded model, and what it refuses."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

from tests.distributed.fsdp_cases import EXAMPLE, gathered, masked_and_quantized, whole_weights
from tests.distributed.share import (
    CONVOLUTIONS,
    EVERYTHING,
    WEIGHTS,
    Share,
    grids,
    masks,
    net,
    sgd,
    train,
)
from torchpare import ModelSpeedup, plan, save
from torchpare.attach import attach_mask, detach
from torchpare.errors import TorchpareError
from torchpare.pruning import L1FilterPruner, LevelPruner
from torchpare.quantization import LsqQuantizer, QAT_Quantizer, equalize, round_adaptively

__all__ = ["refusals", "told"]

FULL = StateDictOptions(full_state_dict=True)


def told(share: Share, folder: str) -> dict[str, Any]:
    """Facts for the test: each is what a user may count on."""
    return {
        "resumed": _resumed(share),
        "checkpoint": _checkpoint(share, folder),
        "baked": _baked(share),
        "halves": _half_precision(share),
        "late": _learnt_later(share),
        "read": _read_between_passes(share),
    }


def _resumed(share: Share) -> dict[str, Tensor]:
    """A sharded model takes over what another was gathered to, and gathers to the same."""
    kept = gathered(masked_and_quantized(share))
    model = net()
    L1FilterPruner(model, CONVOLUTIONS, dummy_input=EXAMPLE).compress()
    QAT_Quantizer(model, [EVERYTHING]).compress()
    share.together(model)
    set_model_state_dict(model, dict(kept), options=FULL)  # which puts pieces into what it is given
    again = gathered(model)
    assert kept.keys() == again.keys()
    return {"kept": kept, "again": again}  # type: ignore[dict-item]


def _checkpoint(share: Share, folder: str) -> dict[str, Any]:
    """A checkpoint of pieces goes into a model that is masked otherwise."""
    model = net()
    LevelPruner(model, WEIGHTS).compress()
    train(share.together(model), sgd(model), share, number=1)
    kept = gathered(model)
    dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=Path(folder, f"dcp {share.shards}"))
    other = net()
    LevelPruner(other, [{**WEIGHTS[0], "sparsity": 0.1}]).compress()
    share.together(other)
    state = {"model": get_model_state_dict(other)}
    dcp.load(state, checkpoint_id=Path(folder, f"dcp {share.shards}"))
    set_model_state_dict(other, state["model"])
    return {"kept": kept, "again": gathered(other)}


def _baked(share: Share) -> dict[str, Any]:
    """Detached: zeros lie in the pieces, the classes are those that ``fully_shard`` gave, and training goes on."""
    model = net()
    kinds = {name: type(module).__name__ for name, module in share.together(model).named_modules()}
    LevelPruner(model, WEIGHTS).compress()
    found = masks(model)
    optimizer = sgd(model)
    train(model, optimizer, share, number=1)
    detach(model, bake=True)
    weights = whole_weights(model)
    train(model, optimizer, share, number=1)
    same = {name: type(module).__name__ for name, module in model.named_modules()} == kinds
    zeros = all(bool((weights[name][~mask] == 0).all()) for name, mask in found.items())
    return {"same kinds": same, "zeros": zeros, "sharded": isinstance(model, FSDPModule), "masks": len(found)}


def _half_precision(share: Share) -> bool:
    """Weights come together in half precision, are masked there, and stay in full precision in their pieces."""
    model = net()
    model.norm = nn.Identity()  # type: ignore[assignment] - whose statistics FSDP leaves in full precision
    LevelPruner(model, WEIGHTS).compress()
    QAT_Quantizer(model, [{**EVERYTHING, "quant_types": ["weight"]}]).compress()
    fully_shard(model, mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32))
    optimizer = sgd(model)
    train(model, optimizer, share, number=2)
    return all(value.dtype == torch.float32 and bool(value.isfinite().all()) for value in whole_weights(model).values())


def _learnt_later(share: Share) -> dict[str, Tensor]:
    """Steps to learn that come into a model which is sharded already."""
    model = net()
    together = share.together(model)
    LsqQuantizer(model, [EVERYTHING]).compress()
    train(together, sgd(model, 0.02), share, number=4)
    return grids(model)


def _read_between_passes(share: Share) -> dict[str, Any]:
    """``layer.weight`` is the sharded parameter itself; ``repr`` and ``masks`` as ever."""
    model = net()
    share.together(model)
    LevelPruner(model, WEIGHTS).compress()
    return {
        "itself": model.a.weight is model.a.old_weight,
        "pieces": model.a.weight.to_local().shape[0],  # type: ignore[operator]
        "repr": repr(model.a),
        "listed": dict(model.named_parameters())["a.weight"] is model.a.old_weight,
    }


# ----------------------------------------------------------------------------------------------- what is refused


def refusals(share: Share, folder: str) -> dict[str, str]:
    """What is said where a model has to be whole."""

    def sharded(masked: bool = True) -> Any:
        model = net()
        pruner = LevelPruner(model, WEIGHTS)
        if masked:
            pruner.compress()
        share.together(model)
        return model, pruner

    def export() -> None:
        sharded()[1].export_model(f"{folder}/model.pth")

    def shrink() -> None:
        ModelSpeedup(sharded()[0], EXAMPLE)

    def ahead() -> None:
        plan(sharded(masked=False)[0], [{"sparsity": 0.5, "structures": ["channels"]}], EXAMPLE)

    def equal() -> None:
        equalize(sharded(masked=False)[0], EXAMPLE)

    def write() -> None:
        save(sharded(masked=False)[0], f"{folder}/small.safetensors")

    def calibration() -> None:
        quantizer = QAT_Quantizer(net(), [EVERYTHING])
        share.together(quantizer.compress())
        quantizer.export_model(f"{folder}/model.pth")

    def rounding() -> None:
        model = QAT_Quantizer(net(), [EVERYTHING]).compress()
        round_adaptively(share.together(model), [EXAMPLE])

    said = {}
    for what in (export, shrink, ahead, equal, write, calibration, rounding, partial(_apart, share.count)):
        try:
            what()
        except TorchpareError as error:
            said[getattr(what, "__name__", "apart")] = f"{type(error).__name__}: {error}"
    return said


def _apart(count: int) -> None:
    """A masked layer whose weight stays in pieces while it computes."""
    model = nn.Sequential(nn.Linear(4, 4))
    attach_mask(model[0], "weight", torch.ones(4, 1, dtype=torch.bool))
    parallelize_module(model, init_device_mesh("cpu", (count,)), {"0": ColwiseParallel()})
    model(torch.zeros(2, 4))
