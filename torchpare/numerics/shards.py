"""Tensors that lie in pieces on several processes (``DTensor``): the whole of one, and another laid out like it.

Nothing here loads torch's distributed packages: where these are not loaded, nothing lies in pieces.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from torchpare.errors import TorchpareError

__all__ = [
    "fsdp_class",
    "in_pieces",
    "is_sharded",
    "is_whole_in_passes",
    "placed_like",
    "refuse_sharded",
    "reshard",
    "whole",
]


def in_pieces(tensor: Tensor | None) -> bool:
    """Whether a tensor is a ``DTensor``, of which a process may hold a part only."""
    package: Any = sys.modules.get("torch.distributed.tensor")
    return package is not None and isinstance(tensor, package.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor; where it lies in pieces, all processes that hold one have to ask together."""
    value: Any = tensor
    return value.full_tensor() if in_pieces(tensor) else tensor


def placed_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor in the pieces in which ``like`` lies, if it does; no process sends anything.

    Args:
        value: the same in every process; of the shape of ``like``, or broadcasting to it.
        like: what it will be used with.
    """
    if not in_pieces(like) or in_pieces(value):
        return value
    from torch.distributed.tensor import DTensor, Replicate

    placed: Any = like
    mesh = placed.device_mesh
    full = DTensor.from_local(value.expand(like.shape), mesh, [Replicate()] * mesh.ndim, run_check=False)
    return full.redistribute(mesh, placed.placements)


def fsdp_class(kind: type[nn.Module]) -> tuple[type, ...]:
    """The bases of a class that ``fully_shard`` has made of another, the other one last; ``()`` of any other class."""
    package: Any = sys.modules.get("torch.distributed.fsdp")
    sharding = getattr(package, "FSDPModule", None)
    return kind.__bases__ if sharding is not None and issubclass(kind, sharding) else ()


def reshard(model: nn.Module) -> None:
    """Let every layer that ``fully_shard`` was called on have its own pieces again, which a pass may have put together.

    What is written into the whole parameter is lost; only the pieces are its state.
    """
    for module in model.modules():
        if fsdp_class(type(module)):
            sharded: Any = module
            sharded.reshard()


def is_sharded(model: nn.Module) -> bool:
    """Whether a model lies in pieces, or has layers that do between two passes."""
    return any(fsdp_class(type(module)) for module in model.modules()) or any(map(in_pieces, model.parameters()))


def is_whole_in_passes(layer: nn.Module) -> bool:
    """Whether a layer's parameters are those of ``fully_shard``: in pieces between two passes, and whole in them."""
    return getattr(layer, "_is_fsdp_managed_module", False)


def refuse_sharded(model: nn.Module, what: str, error: type[TorchpareError]) -> None:
    """Refuse a model that lies in pieces.

    Args:
        model: any.
        what: what cannot be done with it, for the message: "cannot be exported".
        error: what to raise.
    """
    if is_sharded(model):
        kind = (type(model), *fsdp_class(type(model)))[-1]
        raise error(
            f"{kind.__name__} is sharded and {what}, which takes a whole model: do it before fully_shard, or "
            "gather its state, with get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)) of "
            "torch.distributed.checkpoint.state_dict, and load that into a plain model that is compressed as this one"
        )
