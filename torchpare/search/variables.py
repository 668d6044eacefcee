"""What a search may turn: one sparsity for each set of layers that can only lose their units together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from torchpare.graph import PruningSpace

__all__ = ["Layer", "Variable", "variables_of"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layer:
    """A selected layer, as a search counts it."""

    units: int
    """Filters, or single weights: what goes as a whole."""
    weights: int
    """All its weights."""
    cap: float = 1.0
    """The largest share that it may lose."""


@dataclass(frozen=True)
class Variable:
    """Layers that get one sparsity."""

    layers: tuple[str, ...]
    units: int
    """Of the layer that has most: the sparsities worth trying are multiples of one over this."""
    weights: int
    """Of all its layers."""
    cap: float = 1.0
    """The largest share that each of them may lose."""

    @property
    def name(self) -> str:
        """The name of its first layer."""
        return self.layers[0]

    @property
    def most(self) -> float:
        """The largest sparsity: one unit stays."""
        return min((self.units - 1) / self.units, self.cap)


def variables_of(layers: Mapping[str, Layer], space: PruningSpace | None) -> tuple[Variable, ...]:
    """The variables of a search, in the order of the layers.

    Args:
        layers: those that the ``config_list`` selects, by name.
        space: which of them share channels; without it, each is on its own. Layers whose channels all have to stay,
            that share them with a layer that is not selected, or that the example did not reach, are left out, and
            logged.
    """
    shared = {} if space is None else _classes(space)
    owner = {label: name for name in layers for label in shared.get(name, ())}
    sets = {name: {name} for name in layers}
    for name in layers if space is not None else ():
        assert space is not None
        why = _why_not(name, layers, shared, space)
        if why:
            log.info("%s is left out of the search: %s", name, why)
            del sets[name]
            continue
        for label in shared[name]:
            other = owner[label]
            if other in sets and sets[other] is not sets[name]:
                merged = sets[other] | sets[name]
                sets.update(dict.fromkeys(merged, merged))
    found: dict[int, Variable] = {}
    for members in sets.values():
        ordered = tuple(layer for layer in layers if layer in members)
        if id(members) not in found and max(layers[layer].units for layer in ordered) > 1:
            found[id(members)] = Variable(
                ordered,
                max(layers[layer].units for layer in ordered),
                sum(layers[layer].weights for layer in ordered),
                min(layers[layer].cap for layer in ordered),
            )
    return tuple(found.values())


def _classes(space: PruningSpace) -> dict[str, set[int]]:
    """By layer, the classes of its channels that can go at all."""
    return {name: set(map(int, np.unique(space.channels(name).classes))) - {0} for name in space.producers}


def _why_not(name: str, layers: Mapping[str, Layer], shared: Mapping[str, set[int]], space: PruningSpace) -> str | None:
    if name not in shared:
        return "the example does not reach it"
    if not shared[name]:
        return space.frozen(name) or "all its channels stay"
    others = [other for other, classes in shared.items() if other not in layers and classes & shared[name]]
    return f"it shares channels with {', '.join(others)}, not in the config_list" if others else None
