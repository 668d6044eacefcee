"""What a checkpoint will do to a freshly built model: decided in full first, then done, all of it or nothing.

Every name, shape, dtype and number of the file is held against the fresh model. A shrunk tensor is one of the model's
own with some indices left out, so each of its sizes is at most the model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchpare.errors import CheckpointError
from torchpare.files.leaf_attributes import leaf_attributes
from torchpare.files.structure import Record, attribute_edits
from torchpare.files.wording import listed
from torchpare.layers import MultiheadAttention, adopt
from torchpare.layers.tables import tables_of

__all__ = ["Slot", "Step", "carry_out", "plan_restore", "slots_of"]


class Slot(NamedTuple):
    """A place in a module for a parameter, buffer or table; `tensor` is None where the place is kept free."""

    module: nn.Module
    leaf: str
    tensor: Tensor | None
    is_parameter: bool
    persistent: bool


class Step(NamedTuple):
    """One attribute of one module, and what it will be."""

    module: nn.Module
    name: str
    value: Any


def slots_of(model: nn.Module) -> dict[str, Slot]:
    """Every place for a tensor by qualified name; a shared module's places appear under each of its names."""
    return {f"{path}.{slot.leaf}" if path else slot.leaf: slot for path, slot in _walk(model)}


def _walk(model: nn.Module) -> Iterator[tuple[str, Slot]]:
    for path, module in model.named_modules(remove_duplicate=False):
        # The dicts themselves: the public iterators leave out what is None, and do not tell what is persistent.
        for leaf, parameter in module._parameters.items():  # noqa: SLF001
            yield path, Slot(module, leaf, parameter, is_parameter=True, persistent=True)
        passing = module._non_persistent_buffers_set  # noqa: SLF001
        for leaf, buffer in module._buffers.items():  # noqa: SLF001
            yield path, Slot(module, leaf, buffer, is_parameter=False, persistent=leaf not in passing)
        for leaf, tensor in tables_of(module):
            yield path, Slot(module, leaf, tensor, is_parameter=False, persistent=False)


def plan_restore(model: nn.Module, tensors: Mapping[str, Tensor], record: Record, source: str) -> list[Step]:
    """The steps that turn `model` into the saved one; nothing is changed yet.

    Args:
        model: the fresh model.
        tensors: the tensors of the file by name, each shared one once.
        record: what the file says beside them.
        source: what to call the file in messages.

    Raises:
        CheckpointError: the file does not fit `model`; the message names the first place.
    """
    for alias, first in record.aliases.items():
        if first not in tensors or alias in tensors:
            raise CheckpointError(
                f"{source}: it calls {alias!r} another name of {first!r}, which cannot be; save it anew"
            )
    origin = {name: name for name in tensors} | record.aliases
    slots = slots_of(model)
    _check_names(origin, slots, record, f"this {type(model).__name__}", source)
    origin = {name: origin[name] for name in slots if name in origin}  # in the model's order, which messages follow
    for name, first in origin.items():
        _check_tensor(name, tensors[first], slots[name].tensor, record, source)
    _check_sharing(origin, slots, source)
    edits = attribute_edits(record.structure, model, source) if record.structure else []
    modules = dict(model.named_modules(remove_duplicate=False))
    adopted = record.structure.adopted if record.structure else ()
    classes = [Step(modules[path], "__class__", MultiheadAttention) for path in adopted]
    return [*_tensor_steps(origin, slots, tensors), *classes, *(Step(*edit) for edit in edits)]


def carry_out(steps: Sequence[Step], model: nn.Module) -> None:
    """Does what was planned, then lets torch's own layers follow their new shapes; undoes it all if a step fails."""
    done: list[Step] = []

    def put(module: nn.Module, name: str, value: Any) -> None:
        if name == "__class__":
            before = Step(module, name, type(module))
            if type(module) is nn.MultiheadAttention:
                adopt(module)
            done.append(before)
            return
        before = Step(module, name, getattr(module, name))
        setattr(module, name, value)
        done.append(before)

    try:
        for step in steps:
            put(*step)
        told = {(id(module), name) for module, name, _ in steps}
        for module in model.modules():
            for name, value in leaf_attributes(module).items():
                if (id(module), name) not in told:
                    put(module, name, value)
    except BaseException:
        for step in reversed(done):
            setattr(*step)
        raise


def _check_names(origin: Mapping[str, str], slots: Mapping[str, Slot], record: Record, model: str, source: str) -> None:
    added = set(record.structure.added_parameters) if record.structure else set()
    free = {name for name, slot in slots.items() if slot.is_parameter and slot.tensor is None}
    held = {name for name, slot in slots.items() if slot.tensor is not None}
    required = (added & free) | {name for name in held if slots[name].persistent}
    missing, extra = required - set(origin), set(origin) - held - (added & free)
    if missing or extra:
        complaint = [f"it lacks {listed(missing)}"] if missing else []
        if extra:
            near = get_close_matches(min(extra), sorted(missing or held), n=1)
            complaint.append(f"it has {listed(extra)}" + (f" (nearest here: {near[0]!r})" if near else ""))
        raise CheckpointError(
            f"{source} was saved from a {record.model} and does not fit {model}: {'; '.join(complaint)}. "
            f"Load it into a freshly built {record.model}, built with the same arguments"
        )
    if added - free:
        raise CheckpointError(
            f"{source} adds the parameter {listed(added - free)}, for which {model} keeps no free place"
        )


def _check_tensor(name: str, new: Tensor, old: Tensor | None, record: Record, source: str) -> None:
    if old is None:  # a parameter that the shrink added
        if not new.is_floating_point() or not new.numel():
            raise CheckpointError(
                f"{source} adds {name} as {new.dtype} of shape {tuple(new.shape)}: it must hold floats"
            )
        return
    if is_lazy(old):
        raise CheckpointError(f"{source}: {name} of this model has no shape yet; run the model once before loading")
    if (new.is_floating_point(), new.is_complex()) != (old.is_floating_point(), old.is_complex()):
        raise CheckpointError(
            f"{source}: {name} holds {new.dtype}, in this model {old.dtype}; was it made by this class?"
        )
    if record.structure is None:
        fits, law = new.shape == old.shape, "the saved model was not shrunk, so the two must be equal"
    else:
        fits = new.ndim == old.ndim and all(0 < n <= o or n == o for n, o in zip(new.shape, old.shape, strict=True))
        law = "shrinking leaves at least one and adds none"
        fits = fits and all(
            _is_choice(int(dim), kept, new.shape, old.shape)
            for dim, kept in record.structure.kept.get(name, {}).items()
        )
    if not fits:
        raise CheckpointError(
            f"{source}: {name} has shape {tuple(new.shape)}, in this model {tuple(old.shape)}; {law}. Build the model "
            "with the arguments of the original"
        )


def _is_choice(dim: int, kept: list[int], new: Sequence[int], old: Sequence[int]) -> bool:
    """Whether the recorded indices of one dimension can be a choice from the model's that gives the file's size."""
    return dim < len(old) and len(kept) == new[dim] and kept == sorted(set(kept)) and kept[-1] < old[dim]


def _check_sharing(origin: Mapping[str, str], slots: Mapping[str, Slot], source: str) -> None:
    """What is one tensor in the model must be one in the file; the other way round the file decides."""
    first_name: dict[int, str] = {}
    for name in origin:
        tensor = slots[name].tensor
        if tensor is None:
            continue
        known = first_name.setdefault(id(tensor), name)
        if origin[known] != origin[name]:
            raise CheckpointError(
                f"{source}: {known} and {name} are one shared tensor in this model, but two in the file"
            )


def _tensor_steps(
    origin: Mapping[str, str], slots: Mapping[str, Slot], tensors: Mapping[str, Tensor]
) -> Iterator[Step]:
    made: dict[tuple[str, bool], Tensor] = {}
    for name, first in origin.items():
        slot = slots[name]
        key = (first, slot.is_parameter)
        if key not in made:
            tensor = tensors[first].to(_device_for(slot))
            if slot.is_parameter:
                wanted = slot.tensor.requires_grad if slot.tensor is not None else True
                tensor = nn.Parameter(tensor, requires_grad=wanted)
            made[key] = tensor
        yield Step(slot.module, slot.leaf, made[key])


def _device_for(slot: Slot) -> torch.device:
    """Where the fresh model has this tensor, or its module's others; the CPU for a model built without data."""
    near = slot.tensor if slot.tensor is not None else next(slot.module.parameters(recurse=False), None)
    return torch.device("cpu") if near is None or near.is_meta else near.device
