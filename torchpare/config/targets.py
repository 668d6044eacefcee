"""Entries meet a model: which layers are selected, and what is asked of each.

Entries are tried in order and the last one that reaches a layer wins, whole: nothing is inherited from earlier ones. If
the winner says ``exclude: True`` the layer is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from torch import nn

from torchpare.config.entries import Entry, read_entries
from torchpare.config.layers import plain_class, type_name
from torchpare.config.selectors import Selector
from torchpare.errors import ConfigError

__all__ = ["Target", "select"]

DEFAULT = "default"


@dataclass(frozen=True)
class Target:
    """A layer that the config_list selects, with the entry that won."""

    name: str
    """Its qualified name: the first one, where a layer is known under several."""
    module: nn.Module
    entry: Any
    """What won, of the kind that the algorithm reads."""

    @property
    def type(self) -> str:
        """Its class name, as ``op_types`` knows it."""
        return type_name(self.module)

    @property
    def sparsity(self) -> float:
        """The share to prune, in [0, 1)."""
        return self.entry.sparsity or 0.0


def select(
    model: nn.Module,
    config_list: Any,
    *,
    supported: Sequence[type[nn.Module]],
    default: Sequence[type[nn.Module]] | None = None,
    algorithm: str = "this algorithm",
    kind: type[Selector] = Entry,
) -> dict[str, Target]:
    """The layers that a ``config_list`` selects, by qualified name, in the order of the model's modules.

    Args:
        model: only read.
        config_list: see :class:`~torchpare.config.selectors.Selector`. A layer known under several names may be given
            by any of them and is selected once. The model itself is never selected, only what it contains.
        supported: the layer types that the algorithm can handle; subclasses count, when they are named.
        default: what ``op_types: ['default']`` stands for, compared by exact class; all of ``supported`` if not given.
        algorithm: its name, for messages.
        kind: what its entries may say.

    Raises:
        ConfigError: a key, value, name or type that cannot be used, an entry that reaches nothing, or one that asks for
            layers that the algorithm cannot handle, or for structures.
    """
    entries = read_entries(config_list, kind)
    for at, entry in enumerate(entries):
        if getattr(entry, "structures", None) is not None:
            raise ConfigError(f"config_list[{at}]['structures']: {algorithm} selects layers, by 'op_types' or "
                              "'op_names'; structures are for pruners of filters that give each layer its share, "
                              "for TransformerHeadPruner, and for torchpare.plan")  # fmt: skip
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model is a {type(model).__name__}, not a torch.nn.Module")
    view = _View(model, tuple(supported), tuple(supported if default is None else default), algorithm)
    winners: dict[str, Selector] = {}
    for at, entry in enumerate(entries):
        for name in view.reached(entry, f"config_list[{at}]"):
            winners[name] = entry
    chosen = ((name, module, winners.get(name)) for name, module in view.layers.items())
    return {name: Target(name, module, entry) for name, module, entry in chosen if entry and not entry.exclude}


class _View:
    """A model as entries see it: layers by first name, first names by any name, and what the algorithm can handle."""

    def __init__(
        self, model: nn.Module, supported: tuple[type, ...], default: tuple[type, ...], algorithm: str
    ) -> None:
        self.layers = {name: module for name, module in model.named_modules() if name}
        first = {id(module): name for name, module in self.layers.items()}
        every = model.named_modules(remove_duplicate=False)
        self.aliases = {name: first[id(module)] for name, module in every if id(module) in first}
        self.types = sorted({type_name(module) for module in self.layers.values()})
        self.supported, self.default = supported, default
        self.algorithm, self.root = algorithm, model

    def reached(self, entry: Selector, where: str) -> list[str]:
        """The first names of the layers that one entry reaches, all of them layers that the algorithm can handle."""
        named = self._named(entry.op_names, where) if entry.op_names is not None else self.layers
        types = self._typed(entry.op_types, where) if entry.op_types is not None else None
        names = [name for name in self.layers if name in named and (types is None or self._has_type(name, types))]
        if not names:
            raise ConfigError(
                f"{where} reaches no layer: none of the layers in 'op_names' is of a type in 'op_types' "
                f"({self._described(entry.op_names or ())}); leave one of the two keys out"
            )
        if not entry.exclude:
            for name in names:
                self._check_supported(name, entry, where)
        return names

    def _named(self, op_names: Iterable[str], where: str) -> set[str]:
        found = set()
        for at, name in enumerate(op_names):
            if name not in self.aliases:
                raise ConfigError(f"{where}['op_names'][{at}]: {name!r} names no layer of {type_name(self.root)}"
                                  + _nearest(name, self.aliases) + ". Names are full dotted paths, as in "
                                  "model.named_modules().")  # fmt: skip
            found.add(self.aliases[name])
        return found

    def _typed(self, op_types: Iterable[str], where: str) -> tuple[str, ...]:
        for at, kind in enumerate(op_types):
            if kind == DEFAULT:
                if not any(plain_class(module) in self.default for module in self.layers.values()):
                    raise ConfigError(f"{where}['op_types'][{at}]: 'default' stands for {_listed(self.default)} with "
                                      f"{self.algorithm}, and {type_name(self.root)} has no such layer"
                                      + self._alone())  # fmt: skip
            elif kind not in self.types:
                raise ConfigError(f"{where}['op_types'][{at}]: no layer of {type_name(self.root)} is of type {kind!r}"
                                  + (_nearest(kind, self.types) or f"; its types are {', '.join(self.types) or 'none'}")
                                  + self._alone())  # fmt: skip
        return tuple(op_types)

    def _has_type(self, name: str, types: tuple[str, ...]) -> bool:
        module = self.layers[name]
        return type_name(module) in types or (DEFAULT in types and plain_class(module) in self.default)

    def _check_supported(self, name: str, entry: Selector, where: str) -> None:
        module = self.layers[name]
        if isinstance(module, self.supported):
            return
        kind = type_name(module)
        if entry.op_types is not None:
            key = f"['op_types'][{entry.op_types.index(kind)}]: {kind!r}"
        else:
            at = next(i for i, given in enumerate(entry.op_names or ()) if self.aliases[given] == name)
            key = f"['op_names'][{at}]: {name!r} is of type {kind}, which"
        inside = [f"{name}.{inner}" for inner, child in module.named_modules() if isinstance(child, self.supported)]
        hint = f"; name layers inside it, such as {inside[0]!r}" if inside else ""
        verb = f"{'' if entry.op_types is None else 'is a type that '}cannot be {entry.verb}"
        raise ConfigError(f"{where}{key} {verb} by {self.algorithm}, which handles {_listed(self.supported)}{hint}")

    def _described(self, op_names: Iterable[str]) -> str:
        names = list(op_names)
        text = ", ".join(f"{name!r} is of type {type_name(self.layers[self.aliases[name]])}" for name in names[:3])
        return text + (", ..." if len(names) > 3 else "")

    def _alone(self) -> str:
        # To an algorithm that takes any module the whole model is one too, which is no mistake of the user's.
        whole = nn.Module in self.supported and next(self.root.children(), None) is not None
        if whole or not isinstance(self.root, self.supported):
            return ""
        return ". The model itself is one; only layers inside a model are selected: wrap it in nn.Sequential"


def _nearest(given: str, known: Iterable[str]) -> str:
    near = get_close_matches(given, [name for name in known if name], n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _listed(types: Iterable[type]) -> str:
    return ", ".join(kind.__name__ for kind in types)
