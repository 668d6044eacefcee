"""What a shrink did to a model besides taking values out of its tensors, checked word by word before it is done again.

The record says which plain numbers of which modules follow the new sizes (`groups`, a width a user's module remembers)
and which parameters the shrink added (a bias that takes up folded constants). It comes out of a file, so nothing in it
is believed: only numbers that are there may change, only downwards, and only where the fresh model has such a number.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, NamedTuple, TypeGuard

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, StringConstraints, ValidationError
from torch import nn

from torchpare.errors import CheckpointError
from torchpare.layers import MultiheadAttention
from torchpare.layers.settings_edits import number_at, settings_copies

__all__ = ["AttributeEdit", "Record", "Structure", "attribute_edits", "read_record"]


class Structure(BaseModel):
    """The record of a shrink, as a shrunk model carries it in `torchpare_structure`.

    `kept` tells for each dimension of each tensor which indices of the original model stayed; it informs, and restoring
    a model does not need it.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    version: Literal[1]
    attributes: dict[str, dict[str, int | float | list[int]]] = {}
    added_parameters: list[str] = []
    dropped: dict[str, list[NonNegativeInt]] = {}
    """Blocks that were taken out, by path of their stack, counted in the original. All else goes by the names that are
    left without them."""
    adopted: list[str] = []
    """Attentions with the class of `torchpare.layers`, because the stock one cannot have their heads."""
    kept: dict[str, dict[Annotated[str, StringConstraints(pattern=r"^\d{1,2}$")], list[NonNegativeInt]]] = {}


class Record(BaseModel):
    """All that a checkpoint says beside its tensors; `aliases` maps further names of shared tensors to their first."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    model: str
    structure: Structure | None
    aliases: dict[str, str]
    quantizers: dict[str, Any] | None = None
    """What hangs on the model, as `torchpare.quantization.checkpoint` has it; not looked at here."""


class AttributeEdit(NamedTuple):
    """One number, or sequence of numbers, of one module, and its new value."""

    module: nn.Module
    name: str
    value: Any


def read_record(record: Any, source: str) -> Record:
    """Checks the form of what a file or a model says of itself.

    Raises:
        CheckpointError: a key too many or too few, a version this torchpare does not know, a value of the wrong type.
    """
    try:
        return Record.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{source}: its record is not as it should be, at {where!r}: {first['msg']}") from error


def attribute_edits(structure: Structure, model: nn.Module, source: str) -> list[AttributeEdit]:
    """The edits that `structure` asks for, each one found harmless on `model`; nothing is changed yet.

    Raises:
        CheckpointError: a module or number that `model` lacks, something that is not a plain size, or a size that grew.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for path in structure.adopted:
        if type(modules.get(path)) not in (nn.MultiheadAttention, MultiheadAttention):
            raise CheckpointError(f"{source} has an attention at {path!r}, where {type(model).__name__} has none")
    edits: list[AttributeEdit] = []
    settings: dict[tuple[str, str], Any] = {}
    for path, values in structure.attributes.items():
        if path not in modules:
            raise CheckpointError(f"{source} sets numbers of module {path!r}, which {type(model).__name__} lacks")
        for name, new in values.items():
            value = _size(modules[path], path, name, new, source, adopted=path in structure.adopted)
            if "." in name:
                settings[path, name] = value
            else:
                edits.append(AttributeEdit(modules[path], name, value))
    return [*edits, *(AttributeEdit(*item) for item in settings_copies(model, settings))]


def _size(
    module: nn.Module, path: str, name: str, new: float | list[int], source: str, *, adopted: bool
) -> int | float | list[int] | tuple[int, ...]:
    """`new` in the form of the number it replaces."""
    where = f"{source} sets {path}.{name} to {new}"
    old = number_at(module, name)
    if name == "value_dim" and isinstance(module, nn.MultiheadAttention) and adopted:
        old = module.head_dim  # what it will be, once adopted
    if type(old) is float:  # the epsilon of a norm
        grows = type(new) is float and math.isfinite(new) and 0 < old <= new <= 1e6 * old
        if "eps" not in name or not grows:
            raise CheckpointError(f"{where}, but it was {old}, and such a number stays one and can only grow")
        return new
    if isinstance(new, float):
        raise CheckpointError(f"{where}, but in this {type(module).__name__} that is no number with a fraction")
    if any(part.startswith("__") for part in name.split(".")) or not _is_size(old):
        raise CheckpointError(f"{where}, but in this {type(module).__name__} that is no whole number or row of them")
    if isinstance(old, int):
        if not isinstance(new, int) or not _shrinks(old, new):
            raise CheckpointError(f"{where}, but it was {old}, and a size can only shrink")
        return new
    if isinstance(new, int) or len(new) != len(old) or not all(map(_shrinks, old, new)):
        raise CheckpointError(f"{where}, but it was {old}, and a size can only shrink")
    return type(old)(new)


def _is_size(value: Any) -> TypeGuard[int | list[int] | tuple[int, ...]]:
    # By exact type: a bool is no size, and a named tuple or an enum would not survive being rebuilt.
    return type(value) is int or (type(value) in (list, tuple, torch.Size) and all(type(item) is int for item in value))


def _shrinks(old: int, new: int) -> bool:
    return new == old or 0 <= new < old
