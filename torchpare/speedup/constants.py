"""What a removed channel still contributed.

A mask that covers a convolution alone (a mask file of the original toolkit, a mask made by hand) silences the filter,
but the batch norm after it still sends its shift on: the channel is a constant, and removing it changes the function.
Where a reader of that channel is exact about it (a linear or a recurrent layer, a convolution without zero padding) the
constant moves into the reader's bias, and nothing changes. Elsewhere the change is real, and is reported by name.
"""

# ruff: noqa: SLF001 - registered parameters are read and replaced where nn.Module keeps them

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from torchpare.graph import Removal
from torchpare.speedup.report import FunctionChange
from torchpare.speedup.runs import run_exact, type_in_run
from torchpare.speedup.transaction import Transaction

__all__ = ["Leftover", "find_leftovers", "fold", "reads_input"]

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Reader:
    """One weight of a layer, by its key in it, and the channels it reads that go.

    Attributes:
        columns: the places of those channels.
        steady: whether they are constants whatever the input.
    """

    path: str
    module: nn.Module
    weight: str
    columns: NDArray[np.int64]
    steady: bool

    @property
    def bias(self) -> str:
        """The key of the bias that is added to what the weight makes."""
        return self.weight.replace("weight", "bias")


@dataclass(frozen=True)
class Leftover:
    """The constants that one layer reads from channels that go, where its bias can take them over exactly."""

    reader: Reader
    constant: Tensor


def find_leftovers(
    model: nn.Module,
    dummy_input: Any,
    removal: Removal,
    masks: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float64,
) -> tuple[list[Leftover], list[FunctionChange]]:
    """Run the masked model twice, on different numbers, and look at what each reader gets from channels that go.

    Returns:
        What can be moved into biases, and the places where the function changes by nature.
    """
    readers = tuple(_readers(model, removal, masks))
    seen: list[list[Tensor]] = [[] for _ in readers]
    for offset in (0.0, 1.0):
        generator = torch.Generator().manual_seed(0)

        def vary(tensor: Tensor, offset: float = offset, generator: torch.Generator = generator) -> Tensor:
            wide = _wide(tensor)
            return wide + offset * torch.randn(tensor.shape, generator=generator, dtype=wide.dtype).to(tensor.device)

        varied = pytree.tree_map_only(
            Tensor, lambda t: vary(t) if t.is_floating_point() or t.is_complex() else t, dummy_input
        )
        with _collecting(readers, seen):
            run_exact(model, varied, masks, dtype=dtype)
    leftovers, changes = [], []
    for reader, inputs in zip(readers, seen, strict=True):
        if not inputs or all(not tensor.any() for tensor in inputs):
            continue
        if not reader.steady:
            changes.append(_signal(reader))
            continue
        # (N, channels, everything else) -> one row of values a channel, over both runs
        values = torch.cat([tensor.movedim(1, 0).flatten(1) for tensor in inputs], dim=1)
        constant = values[:, 0]
        scale = values.abs().max()
        if (values - constant[:, None]).abs().max() > _ROUNDING * scale:
            changes.append(_signal(reader))
            continue
        reads_once = len(inputs) == 2
        if reads_once and _is_exact(reader.module):
            leftovers.append(Leftover(reader, constant))
        else:
            kind = "a constant at a padded border" if isinstance(reader.module, _ConvNd) else "a constant"
            changes.append(
                FunctionChange(
                    kind,
                    reader.path,
                    len(reader.columns),
                    f"channels that go still carry a constant (up to {float(constant.abs().max()):.3g}), such as the "
                    "shift of a batch norm that the masks do not cover",
                )
            )
    return leftovers, changes


def fold(change: Transaction, leftovers: list[Leftover], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move constants into the biases of their (masked) readers.

    Returns:
        The new biases, twice as precise, by qualified name: the proof computes with them, for the rounding of a sum to
        float32 is not what it looks for.
    """
    biases = {}
    for leftover in leftovers:
        reader = leftover.reader
        module = reader.module
        weight = module._parameters[reader.weight]
        assert weight is not None
        prefix = f"{reader.path}." if reader.path else ""
        seen = _wide(weight.detach())
        if prefix + reader.weight in masks:
            seen = seen * masks[prefix + reader.weight].to(weight.device)
        total = _contribution(seen, leftover)
        bias = module._parameters.get(reader.bias)
        if bias is not None:
            total = total + _wide(bias.detach())
        biases[prefix + reader.bias] = total
        change.set_tensor(module, reader.bias, nn.Parameter(total.to(weight.dtype), requires_grad=weight.requires_grad))
    return biases


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(type_in_run(tensor, torch.float64))


def _signal(reader: Reader) -> FunctionChange:
    detail = "the masks do not silence what it reads, which depends on the input"
    return FunctionChange("removed channels still carry a signal", reader.path, len(reader.columns), detail)


def _readers(model: nn.Module, removal: Removal, masks: Mapping[str, Tensor]) -> Iterator[Reader]:
    """Convolutions, linear and recurrent layers that stay and read channels that go.

    A depthwise filter that goes with its channel reads nothing that matters, nor does a masked column.
    """
    modules = dict(model.named_modules())
    for (uid, axis), role in removal.space.roles.items():
        path, _, key = removal.space.program.values[uid].names[0].rpartition(".")
        module = modules.get(path)
        if role.kind != "reads" or not reads_input(module, key):
            continue
        reads = removal.lost(role.labels)
        for other, kept in enumerate(removal.kept_axes(uid)):
            if other != axis and not kept.all():
                reads = reads & kept
        name = f"{path}.{key}" if path else key
        if name in masks:
            others = tuple(other for other in range(reads.ndim) if reads.shape[other] == 1)
            reads = reads & masks[name].cpu().numpy().any(axis=others, keepdims=True)
        size = reads.shape[axis]
        groups = 1
        rows_of = removal.space.program.values[uid].shape[0]
        if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd):
            groups = module.groups  # rows are filters, group by group, and each group has slots of its own
        rows = np.moveaxis(reads, axis, -1).reshape(-1, size)
        if groups > 1:
            rows = np.broadcast_to(rows, (rows_of, size)).reshape(groups, -1, size)
            columns = np.flatnonzero(rows.any(axis=1).reshape(-1))
        else:
            columns = np.flatnonzero(rows.any(axis=0))
        if columns.size:
            steady = (uid, axis) in removal.space.steady_readers
            yield Reader(path, module, key, columns, steady)


def reads_input(module: nn.Module | None, key: str) -> TypeGuard[nn.Module]:
    """Whether a parameter of a layer reads what the layer is called with."""
    if isinstance(module, nn.RNNBase):
        return key in ("weight_ih_l0", "weight_ih_l0_reverse")
    if isinstance(module, nn.RNNCellBase):
        return key == "weight_ih"
    return isinstance(module, (_ConvNd, nn.Linear)) and key == "weight"


@contextmanager
def _collecting(readers: Sequence[Reader], seen: Sequence[list[Tensor]]) -> Iterator[None]:
    handles = []
    for reader, met in zip(readers, seen, strict=True):

        def keep(
            module: nn.Module, args: Any, met: list[Tensor] = met, columns: NDArray[np.int64] = reader.columns
        ) -> None:
            x = args[0].data if isinstance(args[0], PackedSequence) else args[0]
            axis = 1 if isinstance(module, _ConvNd) else x.dim() - 1
            picked = x.index_select(axis, torch.from_numpy(columns).to(x.device)).detach()
            met.append(picked.movedim(axis, 1) if picked.dim() > 1 else picked[None])

        handles.append(reader.module.register_forward_pre_hook(keep))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_exact(module: nn.Module) -> bool:
    """Whether a constant input channel is a constant in every output element."""
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return module.bias  # without one there is no parameter that could be added
    if not isinstance(module, _ConvNd):
        return True
    if isinstance(module, _ConvTransposeNd):
        return False  # border elements of a transposed convolution see fewer taps
    return module.padding_mode != "zeros" or module.padding == "valid" or not any(_amounts(module.padding))


def _amounts(padding: Any) -> tuple[Any, ...]:
    return ("same",) if isinstance(padding, str) else tuple(padding)


def _contribution(weight: Tensor, leftover: Leftover) -> Tensor:
    """What the constants add to each output channel."""
    constant, reader = leftover.constant.to(weight.device, weight.dtype), leftover.reader
    module = reader.module
    if not isinstance(module, _ConvNd):
        return weight[:, torch.from_numpy(reader.columns)] @ constant
    full = torch.zeros(module.in_channels, dtype=weight.dtype, device=weight.device)
    full[torch.from_numpy(reader.columns)] = constant
    taps = weight.flatten(2).sum(2)  # (O, I/G)
    per_group = full.reshape(module.groups, -1).repeat_interleave(weight.shape[0] // module.groups, dim=0)
    return (taps * per_group).sum(1)
