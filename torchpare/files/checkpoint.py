"""small.safetensors: a shrunk model on disk, to be loaded into a freshly built object of its original class.

    torchpare.save(model, "small.safetensors")
    model = torchpare.load(ResNet20(), "small.safetensors")      # in a new process: no masks, no dummy input, no pruner

The file holds the tensors as they are now and a record of what else the shrink changed. Loading compares all of it with
the fresh model first and only then touches it, so a file that does not fit leaves the model as it was. What hangs on a
model is not known here: who calls says it in words (`torchpare.quantization.checkpoint` does).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchpare.errors import CheckpointError
from torchpare.files.archive import Archive, read_archive, write_archive
from torchpare.files.dropped import STRUCTURE
from torchpare.files.restore import carry_out, plan_restore, slots_of
from torchpare.files.structure import Record, read_record
from torchpare.files.wording import listed
from torchpare.graph.caches import caches_of
from torchpare.layers.blocks import drop_blocks
from torchpare.numerics.shards import refuse_sharded

__all__ = ["load", "save"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)


Preparing = Callable[[nn.Module, dict[str, Any], Mapping[str, Tensor]], tuple[set[str], Callable[[], None]]]
"""Given the fresh model, the words on quantizers and all tensors of the file by name: checks them, changes nothing, and
returns the names of the tensors that are the quantizers', and what hangs these on the model once that is restored."""


def save(model: nn.Module, path: str | os.PathLike[str], *, quantizers: dict[str, Any] | None = None) -> None:
    """Writes a model, shrunk or not, as one safetensors file without pickle; the file appears whole or not at all.

    Parameters and persistent buffers are written with their dtypes; tensors that share memory are written once, and are
    shared again after loading.

    Args:
        model: a model without masks: shrink it first, or detach the masks.
        path: the file to write, such as `small.safetensors`.
        quantizers: what hangs on it, in words; without, a model with quantizers is refused.

    Raises:
        CheckpointError: the model still has masks, only a part of it was shrunk, it keeps state other than tensors, or
            a tensor without data or of a kind that safetensors cannot hold.
        FileError: `path` cannot be written.
    """
    name = type(model).__name__
    refuse_sharded(model, "cannot be saved", CheckpointError)
    _refuse_attached(model, f"{name} cannot be saved", quantizers=quantizers is not None)
    words = {} if quantizers is None else {"quantizers": quantizers}
    record = read_record({"model": name, "structure": _structure_of(model), "aliases": {}, **words}, f"this {name}")
    strange = set(model.state_dict())  # asked first: it brings the scales of weights up to date
    kept = record.structure.kept if record.structure else {}
    tensors: dict[str, Tensor] = {}
    for key, slot in slots_of(model).items():
        # A buffer that is not persistent is made anew by the class, but with the size it had before the shrink.
        if slot.tensor is not None and (slot.persistent or key in kept):
            if is_lazy(slot.tensor) or slot.tensor.is_meta:
                raise CheckpointError(f"{name}: {key} has no data yet; load its weights, or run the model once")
            if slot.tensor.layout is not torch.strided:
                raise CheckpointError(
                    f"{name}: {key} is a sparse tensor, which the file format cannot hold: make it dense, or, if the "
                    "class builds it anew, register it with persistent=False"
                )
            tensors[key] = slot.tensor.detach()
    if strange := strange - set(tensors):
        raise CheckpointError(
            f"{name} keeps state that is no parameter or buffer, and cannot be saved: {listed(strange)}"
        )
    aliases = _aliases(tensors)
    archived = record.model_copy(update={"aliases": aliases}).model_dump(exclude_unset=True)
    write_archive(path, Archive({key: tensors[key] for key in tensors if key not in aliases}, archived))


def load(model: AnyModule, path: str | os.PathLike[str], *, prepare: Preparing | None = None) -> AnyModule:
    """Makes a freshly built model of the original class into the one that :func:`save` wrote; returns the same object.

    Values, shapes and dtypes come from the file; device and `requires_grad` stay as they are in `model` (a model
    built on the meta device comes to the CPU). Parameters become new objects, so make the optimizer afterwards.

    Args:
        model: a model as its class builds it: neither shrunk nor masked, with the arguments of the original.
        path: a file of :func:`save`.
        prepare: makes the file's quantizers; without, a file with quantizers is refused.

    Raises:
        CheckpointError: the file is missing, truncated, foreign or changed, or does not fit the model: keys too many or
            too few, tensors larger than the model's, sizes that do not belong to it. The model is then as it was.
    """
    _refuse_attached(model, f"{path} cannot be loaded", quantizers=False)
    if _structure_of(model) is not None:
        raise CheckpointError(f"{path}: this {type(model).__name__} is already shrunk; load into a freshly built one")
    archive = read_archive(path)
    record = read_record(archive.record, str(path))
    if record.quantizers is not None and prepare is None:
        raise CheckpointError(f"{path} holds a model with quantizers: load it with torchpare.load")
    with _blocks_dropped(model, record, str(path)):
        taken, hang_on = set(), None
        if record.quantizers is not None and prepare is not None:
            also = {name: archive.tensors[first] for name, first in record.aliases.items() if first in archive.tensors}
            taken, hang_on = prepare(model, record.quantizers, archive.tensors | also)
        own = record.model_copy(update={"aliases": _without(record.aliases, taken)})
        carry_out(plan_restore(model, _without(archive.tensors, taken), own, str(path)), model)
    for cache in caches_of(model):
        cache.clear()  # what an earlier call worked out of the parameters that were here
    if record.structure is not None:
        setattr(model, STRUCTURE, record.structure.model_dump(exclude_unset=True))
    if hang_on is not None:
        hang_on()
    return model


def _without(named: Mapping[str, Any], taken: set[str]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if name not in taken}


@contextmanager
def _blocks_dropped(model: nn.Module, record: Record, source: str) -> Iterator[None]:
    """Take out the blocks that the saved model does without; an exception in the body puts them back."""
    dropped = record.structure.dropped if record.structure else {}
    try:
        put_back = drop_blocks(model, dropped)
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"{source} drops blocks that this {type(model).__name__} lacks: {error}") from error
    try:
        yield
    except BaseException:
        put_back()
        raise


def _structure_of(model: nn.Module) -> Any:
    for part, module in model.named_modules():
        if part and hasattr(module, STRUCTURE):
            raise CheckpointError(
                f"of this {type(model).__name__} only {part!r} was shrunk: save and load that on its own"
            )
    return getattr(model, STRUCTURE, None)


def _refuse_attached(model: nn.Module, failure: str, *, quantizers: bool) -> None:
    # Asked of the class by name: the room that attaches masks lies on this floor, so neither imports the other.
    layers: dict[str, Any] = {
        name: module for name, module in model.named_modules() if hasattr(type(module), "torchpare_masked")
    }
    masked = [name for name, layer in layers.items() if layer.torchpare_masked]
    if layers and not masked and not quantizers:
        raise CheckpointError(
            f"{failure} while quantizers hang on {listed(list(layers))}: torchpare.save writes them too, and "
            "torchpare.load wants a freshly built model"
        )
    if masked:
        raise CheckpointError(
            f"{failure} while masks are attached to {listed(masked)}: make the model smaller first "
            "(ModelSpeedup(model, dummy_input, masks).speedup_model()), or take the masks off"
        )


def _aliases(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Each further name of memory that has a name already, with that first name.

    Tensors that share memory without being the same one are copied apart in `tensors`.
    """
    first: dict[object, str] = {}
    seen: set[int] = set()
    aliases = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        # Of empty tensors the address tells nothing; each is its own.
        key = (
            (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else name
        )
        if key in first:
            aliases[name] = first[key]
        elif storage in seen:
            tensors[name] = tensor.clone()
        first.setdefault(key, name)
        seen.add(storage)
    return aliases
