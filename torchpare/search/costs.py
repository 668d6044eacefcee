"""What a candidate costs: asked often, so each answer is kept; what was measured is kept on disk too."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from math import prod

from torch import nn

from torchpare.graph import PruningSpace, Removal, group_masks
from torchpare.graph.costs import macs_of
from torchpare.numerics import drop_count
from torchpare.search.journal import Journal, digest
from torchpare.search.latency import latency, prepared, relative_latency
from torchpare.search.objective import Objective
from torchpare.search.trial import Bench, masked_copy, shrunk
from torchpare.search.variables import Layer
from torchpare.types import Masks

__all__ = ["Costs"]


class Costs:
    """The cost of pruning the selected layers to some sparsities.

    Args:
        objective: the metric.
        layers: the selected layers.
        own_masks: the masks of given sparsities, as the criterion chooses them now; of the layers alone.
        bench: whose model is pruned.
        space: its analysis; needed for all metrics but ``"sparsity"``.
        journal: where measured times are kept.
    """

    def __init__(
        self,
        objective: Objective,
        layers: Mapping[str, Layer],
        own_masks: Callable[[Mapping[str, float]], Masks],
        bench: Bench,
        space: PruningSpace | None,
        journal: Journal,
    ) -> None:
        self._objective, self._layers, self._own_masks = objective, layers, own_masks
        self._bench, self._space, self._journal = bench, space, journal
        self._known: dict[tuple[int, ...], float] = {}
        self._dense: Callable[[], object] | None = None
        if self.is_measured:  # now, while the model is still dense
            self._dense = prepared(copy.deepcopy(bench.model), bench.example, objective.runtime)

    def drops(self, sparsities: Mapping[str, float]) -> tuple[int, ...]:
        """How many units each selected layer loses: candidates that agree here are the same."""
        return tuple(drop_count(layer.units, sparsities[name]) for name, layer in self._layers.items())

    def of(self, sparsities: Mapping[str, float]) -> float:
        """The cost, in the unit of the metric."""
        drops = self.drops(sparsities)
        if drops not in self._known:
            self._known[drops] = self._found(sparsities, drops)
        return self._known[drops]

    @property
    def is_measured(self) -> bool:
        """Whether a cost takes time to find, and is not twice the same."""
        return self._objective.metric == "latency"

    def forget(self) -> None:
        """Weights have changed: which units go may be others now, and other layers may follow them."""
        self._known.clear()

    def masks(self, sparsities: Mapping[str, float]) -> Masks:
        """The masks of a candidate, of whole groups where these are known."""
        masks = self._own_masks(sparsities)
        return masks if self._space is None else group_masks(self._removal(masks), masks, unmask_returned=True)

    def _removal(self, masks: Masks) -> Removal:
        assert self._space is not None
        weights = dict(self._bench.model.named_parameters(remove_duplicate=False))
        return self._space.decide(masks, weights=weights)

    def _found(self, sparsities: Mapping[str, float], drops: tuple[int, ...]) -> float:
        metric = self._objective.metric
        if metric == "sparsity":
            return _share_left(self._layers, drops)
        if metric == "latency":
            return self._measured(sparsities, drops)
        removal = self._removal(self._own_masks(sparsities))
        assert self._space is not None
        if metric == "macs":
            return float(macs_of(self._space.program.ops, removal.shape))
        seen = {value.uid: value for value in self._space.values.values() if value.kind == "parameter"}
        gone = sum(prod(value.shape) - prod(removal.shape(uid)) for uid, value in seen.items())
        return float(sum(parameter.numel() for parameter in self._bench.model.parameters()) - gone)

    def _measured(self, sparsities: Mapping[str, float], drops: tuple[int, ...]) -> float:
        key = digest("latency", drops)
        if key in self._journal:
            return self._journal.number(key, "seconds")
        seconds = self._time_of(sparsities) if any(drops) else self._time_of_dense()
        self._journal.write(key, seconds=seconds)
        return seconds

    def _time_of_dense(self) -> float:
        assert self._dense is not None
        return latency(self._dense, self._objective.runs)

    def _time_of(self, sparsities: Mapping[str, float]) -> float:
        assert self._dense is not None
        model: nn.Module = masked_copy(self._bench, self.masks(sparsities))
        shrunk(model, self._bench.example)
        run = prepared(model, self._bench.example, self._objective.runtime)
        whole = self.of(dict.fromkeys(self._layers, 0.0))
        return whole * relative_latency(run, self._dense, self._objective.runs)


def _share_left(layers: Mapping[str, Layer], drops: tuple[int, ...]) -> float:
    whole = sum(layer.weights for layer in layers.values())
    left = sum(
        layer.weights * (layer.units - drop) / layer.units for layer, drop in zip(layers.values(), drops, strict=True)
    )
    return left / whole
