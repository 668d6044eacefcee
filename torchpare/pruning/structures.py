"""Structures in a pruner's ``config_list``: heads, MLP widths, streams, ranked by the pruner's own criterion.

The analysis of the model finds them. A structure is made by several layers, which are the pruner's targets: their
filters are scored as ever, a head or a width is worth what its filters are, and what goes is masked over its group.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from torchpare.config import Entry, Target, type_name
from torchpare.config.structures import Allocation, allocate
from torchpare.errors import ConfigError
from torchpare.graph import PruningSpace, Removal, analyse
from torchpare.graph.choice import choose, filter_scores
from torchpare.graph.structures import LAYERS, Group, groups_of
from torchpare.numerics import Reduction, drop_count

__all__ = ["Structures", "find_structures", "shares_over_all"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Structures:
    """The structures that a ``config_list`` reaches.

    Attributes:
        space: the analysis of the model.
        groups: all groups of channels that it has.
        asked: what the entries ask of them.
        targets: the layers that make what was reached, as far as the pruner can score them, with the entry that won.
    """

    space: PruningSpace
    groups: Sequence[Group]
    asked: Allocation
    targets: dict[str, Target]

    @property
    def chosen(self) -> list[Group]:
        """The groups from which something may go."""
        return [group for group in self.groups if group.variable in self.asked.entries]

    def decide(
        self, scores: Mapping[str, Tensor], sparsities: Mapping[str, float], *, together: bool, reduction: Reduction
    ) -> Removal:
        """What goes.

        Args:
            scores: by layer ``(O,)``, of each filter of every target; larger stays, minus infinity is gone already.
            sparsities: by layer, the share that is to be gone by now.
            together: rank everything that was reached in one list; then all sparsities are equal.
            reduction: what a channel or head is worth that several filters make.
        """
        worth = filter_scores(self.space, scores, reduction)
        share = {
            group.variable: next(sparsities[layer] for layer in group.layers if layer in self.targets)
            for group in self.chosen
        }
        if together:
            most = {variable: _cap(entry) for variable, entry in self.asked.entries.items()}
            share = shares_over_all(self.space, self.chosen, worth, next(iter(share.values())), most)
        asked = self.asked
        removal = choose(self.space, self.groups, share, worth, round_to=asked.round_to, excluded=asked.excluded)
        for item in removal.restored:
            log.info("%d channels of %s stay: %s", item.channels, ", ".join(item.layers), item.why)
        return removal


def find_structures(
    name: str,
    model: nn.Module,
    entries: Sequence[Entry],
    dummy_input: Any,
    supported: tuple[type[nn.Module], ...],
) -> Structures:
    """Find what the entries reach. The model is only read.

    Args:
        name: the pruner's, for messages.
        model: what to prune.
        entries: of its ``config_list``; some say ``structures``.
        dummy_input: what to run the model on.
        supported: the layers that the pruner can score.

    Raises:
        ConfigError: an entry cannot be used or reaches nothing, or the pruner cannot score what it reaches.
        CaptureError: the model cannot be run on ``dummy_input``.
    """
    for at, entry in enumerate(entries):
        if LAYERS in (entry.structures or ()):
            raise ConfigError(f"config_list[{at}]['structures']: no mask can take whole blocks out; "
                              "torchpare.plan(model, config_list, inputs).apply() can")  # fmt: skip
        if entry.granularity is not None:
            raise ConfigError(f"config_list[{at}]['granularity'] is of single weights: it does not go with structures")
    if dummy_input is None:
        raise ConfigError(f"{name} finds structures by running the model: give dummy_input, an example input")
    space = analyse(model, dummy_input)
    groups = groups_of(space)
    asked = allocate(entries, groups, model)
    modules = dict(model.named_modules(remove_duplicate=False))
    targets: dict[str, Target] = {}
    for group in groups:
        entry = asked.entries.get(group.variable)
        if entry is None:
            continue
        layers = [name for name in group.layers if isinstance(modules[name], supported) and name in space.producers]
        if not layers:
            makers = ", ".join(f"{layer} ({type_name(modules[layer])})" for layer in group.layers) or "parameters"
            others = "torchpare.plan" + (" or TransformerHeadPruner" if group.kind == "heads" else "")
            raise ConfigError(f"{name} cannot score the {group.kind!r} of {group.name}, made by {makers}: exclude "
                              f"them, or prune them with {others}")  # fmt: skip
        for layer in layers:
            known = targets.setdefault(layer, Target(layer, modules[layer], entry))
            if known.sparsity != entry.sparsity or known.entry.round_to != entry.round_to:
                raise ConfigError(f"{name}: {layer} makes structures of two kinds ({group.kind!r} is one), of which "
                                  "the config_list asks different things: ask the same, or prune one after "
                                  "the other")  # fmt: skip
    return Structures(space, groups, asked, targets)


def shares_over_all(
    space: PruningSpace,
    groups: Sequence[Group],
    scores: np.ndarray,
    share: float,
    most: Mapping[int, float],
) -> dict[int, float]:
    """Each group's own share, where the lowest of all groups go, and each keeps one and what it has to.

    Args:
        space: the analysis of the model.
        groups: those among which to choose.
        scores: by class id.
        share: of all of them, what is to go.
        most: by variable of a group, the largest share that it may lose.
    """
    sizing = space.sizing
    units = []
    for group in groups:
        cells = [sizing.cells[cell] for cell in sizing.members(group.variable)]
        own = np.sort(np.mean([np.sort(scores[cell]) for cell in cells], axis=0))
        units += [(float(score), group.variable) for score in own[: drop_count(len(own), most[group.variable])]]
    drop = int(sum(group.size for group in groups) * share + 1e-6)
    lowest = [variable for _, variable in sorted(units)[:drop]]
    return {group.variable: lowest.count(group.variable) / group.size for group in groups}


def _cap(entry: Entry) -> float:
    return 1.0 if entry.max_sparsity_per_layer is None else entry.max_sparsity_per_layer
