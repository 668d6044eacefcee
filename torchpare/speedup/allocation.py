"""What a ``config_list`` asks of each group of channels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from torch import nn

from torchpare.config import Entry, type_name
from torchpare.errors import ConfigError
from torchpare.graph.structures import EXPERTS, LAYERS, STRUCTURES, Group
from torchpare.speedup.depth import Stack
from torchpare.speedup.experts import Routed

__all__ = ["Allocation", "allocate", "allocate_depth", "allocate_experts"]


@dataclass
class Allocation:
    """By variable of a group: the share to remove, the multiple to keep; and the groups that must stay whole."""

    sparsity: dict[int, float] = field(default_factory=dict)
    round_to: dict[int, int] = field(default_factory=dict)
    excluded: set[int] = field(default_factory=set)

    def target(self, group: Group) -> int:
        """How many of a group's channels should stay."""
        return max(1, group.size - int(group.size * self.sparsity.get(group.variable, 0.0) + 1e-6))


def allocate_depth(entries: Sequence[Entry], stacks: Sequence[Stack], model: nn.Module) -> dict[str, float]:
    """By path of a stack, the share of its blocks that entries with the structure ``"layers"`` ask for; the last wins.

    Raises:
        ConfigError: such an entry reaches no stack.
    """
    shares: dict[str, float] = {}
    for at, entry in enumerate(entries):
        if LAYERS not in (entry.structures or ()):
            continue
        names = _layers(entry, model, f"config_list[{at}]")
        reached = [stack.path for stack in stacks if names is None or stack.path in names]
        if not reached:
            there = ", ".join(repr(stack.path) for stack in stacks) or "none"
            raise ConfigError(
                f"config_list[{at}] reaches no stack of blocks that could go one by one; there are: {there}"
            )
        shares.update(dict.fromkeys(reached, 0.0 if entry.exclude else entry.sparsity or 0.0))
    return shares


def allocate_experts(entries: Sequence[Entry], routed: Sequence[Routed], model: nn.Module) -> dict[str, float]:
    """By path of a mixture that routes, the share of its experts that entries with ``"experts"`` ask for."""
    shares: dict[str, float] = {}
    for at, entry in enumerate(entries):
        reached = _routed_by(entry, routed, model, f"config_list[{at}]")
        shares.update(dict.fromkeys(reached, 0.0 if entry.exclude else entry.sparsity or 0.0))
    return shares


def _routed_by(entry: Entry, routed: Sequence[Routed], model: nn.Module, where: str) -> list[str]:
    if EXPERTS not in (entry.structures or ()) or not routed:
        return []
    names = _layers(entry, model, where)
    return [item.path for item in routed if names is None or names & {item.path, item.mixture.experts}]


def allocate(
    entries: Sequence[Entry], groups: Sequence[Group], model: nn.Module, routed: Sequence[Routed] = ()
) -> Allocation:
    """Match entries with groups; later entries win.

    ``"all"`` takes whole heads and whole groups of convolutions where there are enough of them, and what lies inside
    (the width of a head, the slots of a group) only where there are not: one level, so that half means half.

    Raises:
        ConfigError: an entry names a structure or layer that is not there, or reaches nothing.
    """
    asked = Allocation()
    for at, entry in enumerate(entries):
        where = f"config_list[{at}]"
        if entry.structures == (LAYERS,):
            continue
        reached = _reached(entry, groups, model, where, elsewhere=bool(_routed_by(entry, routed, model, where)))
        for group in reached:
            variable = group.variable
            asked.sparsity.pop(variable, None)
            asked.round_to.pop(variable, None)
            asked.excluded.discard(variable)
            if entry.exclude:
                asked.excluded.add(variable)
                continue
            asked.sparsity[variable] = entry.sparsity or 0.0
            if entry.round_to is not None:
                asked.round_to[variable] = entry.round_to
    return asked


def _reached(entry: Entry, groups: Sequence[Group], model: nn.Module, where: str, *, elsewhere: bool) -> list[Group]:
    kinds = _kinds(entry, where)
    names = _layers(entry, model, where)
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


def _layers(entry: Entry, model: nn.Module, where: str) -> set[str] | None:
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
