"""Entries meet structures: which groups of channels a ``config_list`` reaches, and what is asked of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from torch import nn

from torchpare.config.entries import Entry
from torchpare.config.layers import type_name
from torchpare.errors import ConfigError
from torchpare.graph.structures import LAYERS, STRUCTURES, Group

__all__ = ["Allocation", "allocate", "layers_within"]


@dataclass
class Allocation:
    """By variable of a group, the entry that won; and the groups that must stay whole."""

    entries: dict[int, Entry] = field(default_factory=dict)
    excluded: set[int] = field(default_factory=set)

    @property
    def sparsity(self) -> dict[int, float]:
        """By variable, the share to remove."""
        return {variable: entry.sparsity or 0.0 for variable, entry in self.entries.items()}

    @property
    def round_to(self) -> dict[int, int]:
        """By variable, the multiple to keep, where an entry asks for one."""
        return {variable: entry.round_to for variable, entry in self.entries.items() if entry.round_to is not None}

    def target(self, group: Group) -> int:
        """How many of a group's channels should stay."""
        return max(1, group.size - int(group.size * self.sparsity.get(group.variable, 0.0) + 1e-6))


def allocate(
    entries: Sequence[Entry], groups: Sequence[Group], model: nn.Module, elsewhere: Collection[int] = ()
) -> Allocation:
    """Match entries with groups; later entries win.

    Args:
        entries: of a ``config_list``. One without ``op_names`` and ``op_types`` reaches the whole model; with them it
            reaches the groups all of whose makers it names, or, if it excludes, of any of them.
        groups: of the model's analysis.
        model: whose modules entries name.
        elsewhere: positions of entries that need not reach a group, for they say something of experts behind a router.

    ``"all"`` takes whole heads and whole groups of convolutions where there are enough of them, and what lies inside
    (the width of a head, the slots of a group) only where there are not: one level, so that half means half.

    Raises:
        ConfigError: an entry names a structure or layer that is not there, or reaches nothing.
    """
    asked = Allocation()
    for at, entry in enumerate(entries):
        if entry.structures == (LAYERS,):
            continue  # it may name blocks that are gone by now
        for group in _reached(entry, groups, model, f"config_list[{at}]", elsewhere=at in elsewhere):
            variable = group.variable
            asked.entries.pop(variable, None)
            asked.excluded.discard(variable)
            if entry.exclude:
                asked.excluded.add(variable)
            else:
                asked.entries[variable] = entry
    return asked


def _reached(entry: Entry, groups: Sequence[Group], model: nn.Module, where: str, *, elsewhere: bool) -> list[Group]:
    kinds = _kinds(entry, where)
    names = layers_within(entry, model, where)
    found = []
    for group in groups:
        if group.kind not in kinds:
            continue
        if names is not None:
            inside = [layer in names for layer in group.layers]
            if not (any(inside) if entry.exclude else inside and all(inside)):
                continue
        found.append(group)
    if "all" in (entry.structures or ("all",)) and not entry.exclude:
        found = _one_level(found, groups, entry.sparsity or 0.0)
    if not found and groups and not elsewhere:
        there = ", ".join(sorted({repr(group.kind) for group in groups}))
        what = f"no group of channels of the kind {', '.join(map(repr, entry.structures or ('all',)))}"
        raise ConfigError(
            f"{where} reaches {what}{' made by the layers it names alone' if names is not None else ''}; this model "
            f"has groups of the kinds {there}. "
            "print(torchpare.plan(model, [{'sparsity': 0.5, 'structures': ['all']}], inputs)) shows them"
        )
    return found


def _kinds(entry: Entry, where: str) -> Collection[str]:
    if entry.structures is None:
        return STRUCTURES.keys()
    for at, kind in enumerate(entry.structures):
        if kind not in STRUCTURES and kind != "all":
            near = get_close_matches(kind, [*STRUCTURES, "all"], n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"{where}['structures'][{at}]: there is no structure {kind!r}; {hint}"
                f"Structures are {', '.join(map(repr, STRUCTURES))} and 'all'"
            )
    return STRUCTURES.keys() if "all" in entry.structures else set(entry.structures)


def layers_within(entry: Entry, model: nn.Module, where: str) -> set[str] | None:
    """The layers that an entry reaches by name (containers bring what they contain) and type; None for all."""
    if entry.op_names is None and entry.op_types is None:
        return None
    modules = dict(model.named_modules(remove_duplicate=False))
    names = set(modules)
    if entry.op_names is not None:
        names = set()
        for at, given in enumerate(entry.op_names):
            if given not in modules:
                near = get_close_matches(given, modules, n=3, cutoff=0.5)
                hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
                raise ConfigError(f"{where}['op_names'][{at}]: {given!r} names no module of {type_name(model)}{hint}")
            names |= {name for name in modules if name == given or name.startswith(f"{given}." if given else "")}
    if entry.op_types is not None and "default" not in entry.op_types:
        types = {type_name(module) for module in modules.values()}
        for at, kind in enumerate(entry.op_types):
            if kind not in types:
                raise ConfigError(f"{where}['op_types'][{at}]: no module of {type_name(model)} is of type {kind!r}")
        names = {name for name in names if type_name(modules[name]) in entry.op_types}
    return names


def _one_level(found: Sequence[Group], groups: Sequence[Group], share: float) -> list[Group]:
    """Leave out what lies inside a head or group that can itself lose its share."""
    by_layer: Mapping[str, list[Group]] = {}
    holders = [group for group in groups if group.kind in ("heads", "groups") and int(group.size * share + 1e-6) > 0]
    by_layer = {
        layer: [holder for holder in holders if layer in holder.layers] for group in found for layer in group.layers
    }
    result = []
    for group in found:
        outer = {holder.variable for layer in group.layers for holder in by_layer.get(layer, [])}
        inside = group.rows > 1 or group.kind == "head_dim"
        if not (inside and outer - {group.variable}):
            result.append(group)
    return result
