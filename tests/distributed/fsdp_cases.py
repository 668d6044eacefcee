"""What a sharded model is asked for, besides the cases that DDP goes through as well."""

from __future__ import annotations

from collections.abc import Callable
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

from tests.distributed.cases import (
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
from torchpare.pruning import AGPPruner, L1FilterPruner, LevelPruner, LotteryTicketPruner, TaylorFOWeightFilterPruner
from torchpare.quantization import LsqQuantizer, QAT_Quantizer, equalize, round_adaptively

__all__ = ["BEFORE", "gathered", "refusals", "told", "whole_weights"]

EXAMPLE = torch.zeros(2, 1, 6, 6)
FULL = StateDictOptions(full_state_dict=True)


def gathered(model: nn.Module) -> dict[str, Tensor]:
    """The whole state, in every process."""
    return {key: value.clone() for key, value in get_model_state_dict(model, options=FULL).items()}


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """All parameters, whole."""
    return {name: value for name, value in gathered(model).items() if name in dict(model.named_parameters())}


# --------------------------------------------------------------------- compressed first, with masks that change later


def taylor_told(share: Share) -> nn.Module:
    """Gradients are watched in parameters that were not there yet when watching began."""
    model = net()
    pruner = TaylorFOWeightFilterPruner(model, CONVOLUTIONS, sparsifying_training_batches=2, dummy_input=EXAMPLE)
    pruner.compress()
    together = share.together(model)
    train(together, sgd(model), share, after=pruner.step)
    return model


def taylor_following(share: Share) -> nn.Module:
    """An optimizer that could only be made behind ``fully_shard`` is followed."""
    model = net()
    pruner = TaylorFOWeightFilterPruner(model, CONVOLUTIONS, sparsifying_training_batches=2, dummy_input=EXAMPLE)
    pruner.compress()
    together = share.together(model)
    optimizer = sgd(model)
    pruner.follow(optimizer)
    train(together, optimizer, share)
    return model


def agp_before(algorithm: str, entries: Any) -> Callable[[Share], nn.Module]:
    def case(share: Share) -> nn.Module:
        model = net()
        pruner = AGPPruner(model, entries, num_iterations=3, pruning_algorithm=algorithm, dummy_input=EXAMPLE)
        pruner.compress()
        together = share.together(model)
        optimizer = sgd(model)
        for epoch in range(4):
            pruner.update_epoch(epoch)
            train(together, optimizer, share, seed=epoch, after=pruner.step)
        return model

    return case


def rewound(share: Share) -> nn.Module:
    """The start was kept whole, and is written into pieces, though a pass without gradients has put these together."""
    model = net()
    entries = [{"sparsity": 0.6, "op_types": ["Conv2d"], "prune_iterations": 2}]
    pruner = LotteryTicketPruner(model, entries)
    pruner.compress()
    together = share.together(model)
    optimizer = sgd(model)
    for number in pruner.get_prune_iterations():
        pruner.prune_iteration_start()
        train(together, optimizer, share, number=2, seed=number)
        with torch.no_grad():
            together(EXAMPLE)
    return model


def folded(share: Share) -> nn.Module:
    """A weight is quantized as the norm behind it, which may be sharded by itself, will leave it."""
    model = net()
    QAT_Quantizer(model, [EVERYTHING], None, EXAMPLE).compress()
    together = share.together(model)
    train(together, sgd(model, 0.02), share)
    return model


def masked_and_quantized(share: Share) -> nn.Module:
    model = net()
    L1FilterPruner(model, CONVOLUTIONS, dummy_input=EXAMPLE).compress()
    QAT_Quantizer(model, [EVERYTHING]).compress()
    together = share.together(model)
    train(together, sgd(model, 0.02), share)
    return model


BEFORE: dict[str, Callable[[Share], nn.Module]] = {
    "taylor by step()": taylor_told,
    "taylor by follow()": taylor_following,
    "agp level": agp_before("level", WEIGHTS),
    "agp l1": agp_before("l1", CONVOLUTIONS),
    "agp taylor by step()": agp_before("taylorfo", CONVOLUTIONS),
    "agp apoz": agp_before("apoz", CONVOLUTIONS),
    "lottery": rewound,
    "qat folded": folded,
    "masked and quantized": masked_and_quantized,
}
"""Compressed before they are sharded."""


# ------------------------------------------------------------------------------------------------ what comes of it


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
