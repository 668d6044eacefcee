"""Pruners that say when and how much to prune, and leave to another one what goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, Unpack

from torch import Tensor, nn
from torch.optim import Optimizer

from torchpare.config import Target
from torchpare.errors import ConfigError
from torchpare.pruning.activations import ActivationAPoZRankFilterPruner, ActivationMeanRankFilterPruner
from torchpare.pruning.base import Pruner
from torchpare.pruning.data_driven import DataDrivenPruner
from torchpare.pruning.granularity import Allocation
from torchpare.pruning.one_shot import FPGMPruner, L1FilterPruner, L2FilterPruner, LevelPruner, RandomFilterPruner
from torchpare.pruning.second_order import HessianFilterPruner
from torchpare.pruning.slim import SlimPruner
from torchpare.pruning.taylor import TaylorFOActivationFilterPruner, TaylorFOWeightFilterPruner

__all__ = ["CRITERIA", "Criterion", "RankedPruner"]

CRITERIA: dict[str, type[Pruner]] = {
    "level": LevelPruner,
    "l1": L1FilterPruner,
    "l2": L2FilterPruner,
    "fpgm": FPGMPruner,
    "random": RandomFilterPruner,
    "slim": SlimPruner,
    "taylorfo": TaylorFOWeightFilterPruner,
    "taylorfo_activation": TaylorFOActivationFilterPruner,
    "hessian": HessianFilterPruner,
    "apoz": ActivationAPoZRankFilterPruner,
    "mean_activation": ActivationMeanRankFilterPruner,
}
"""What goes, by the names that scripts give."""

Criterion: TypeAlias = str | type[Pruner]
"""One of `CRITERIA`, or a pruner class of your own."""


class RankedPruner(Pruner):
    """Base of the pruners that prune by any criterion.

    Args:
        model: what to prune. The constructor only reads it.
        config_list: as the subclass reads it.
        criterion: what goes.
        optimizer: whose steps a criterion that looks at data counts.
        dependency_aware: choose channels together where layers can only lose them together.
        dummy_input: an example input.
        allocation: ``mode``, ``balance_gran``, ``group_score``: as every pruner.

    Raises:
        ConfigError: as every pruner, or for an unknown criterion.
    """

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        criterion: Criterion,
        optimizer: Optimizer | None,
        dependency_aware: bool,
        dummy_input: Any,
        **allocation: Unpack[Allocation],
    ) -> None:
        kind = _criterion_class(type(self).__name__, criterion)
        # What it can handle is what its criterion can.
        self.supported, self.default, self.structured = kind.supported, kind.default, kind.structured  # type: ignore[misc]
        self.shared = type(self).shared or kind.shared  # type: ignore[misc] - as above
        super().__init__(model, config_list, optimizer, dependency_aware, dummy_input, **allocation)
        if kind.shared and self.mode not in ("normal", "global"):
            raise ConfigError(f"{type(self).__name__}: {kind.__name__} ranks all layers together: leave "
                              f"mode={self.mode!r} out")  # fmt: skip
        entries = [_entry_of(target, kind) for target in self.targets.values()]
        self.ranking = kind(model, entries, optimizer)
        """The pruner whose scores decide; it masks nothing itself."""

    def score(self, weight: Tensor) -> Tensor:
        """The criterion's."""
        return self.ranking.score(weight)

    def score_of(self, target: Target, weight: Tensor) -> Tensor:
        """The criterion's."""
        return self.ranking.score_of(target, weight)

    def select(self, scores: Mapping[str, Tensor], sparsities: Mapping[str, float]) -> dict[str, Tensor]:
        """As the criterion selects, where nothing is said of how layers share what goes."""
        return (self.ranking if self.mode == "normal" else super()).select(scores, sparsities)

    def step(self) -> None:
        """A minibatch has been learnt; needed by criteria that look at data where there is no optimizer."""
        if isinstance(self.ranking, DataDrivenPruner):
            self.ranking.seen_step()

    def follow(self, optimizer: Optimizer) -> None:
        """Let a criterion that looks at data count the steps of an optimizer, where the constructor was given none."""
        if isinstance(self.ranking, DataDrivenPruner) and self.ranking.looks:
            self.ranking.follow(optimizer)

    def progress(self) -> dict[str, Any]:
        """What a criterion has seen of the data."""
        return {"criterion": self.ranking.progress()}

    def go_on(self, progress: Mapping[str, Any]) -> None:
        """Have seen what is in there."""
        self.ranking.go_on(progress["criterion"])

    def criterion_of(self, criterion: Any) -> Any:
        """What a trainer is handed: the user's loss function, watched where the criterion has to see the loss."""
        if isinstance(self.ranking, HessianFilterPruner):
            return self.ranking.criterion_of(nn.CrossEntropyLoss() if criterion is None else criterion)
        return criterion

    def observe(self, loss: Tensor) -> None:
        """Look at a loss before it is taken back; nothing for criteria that need not."""
        if isinstance(self.ranking, HessianFilterPruner):
            self.ranking.observe(loss)

    def look_again(self) -> None:
        """Forget what data said, and look at it anew; nothing for criteria that look at weights alone."""
        if isinstance(self.ranking, DataDrivenPruner):
            self.ranking.start_watching()

    def look_no_more(self) -> None:
        """Take off what watches the data."""
        if isinstance(self.ranking, DataDrivenPruner):
            self.ranking.stop_watching()


def _entry_of(target: Target, kind: type[Pruner]) -> dict[str, Any]:
    known = ("granularity", "max_sparsity_per_layer") if kind.shared else ("granularity",)
    said = {key: value for key in known if (value := getattr(target.entry, key)) is not None}
    return {"op_names": [target.name], "sparsity": target.sparsity, **said}


def _criterion_class(name: str, given: Any) -> type[Pruner]:
    if isinstance(given, type):
        if issubclass(given, Pruner) and not issubclass(given, RankedPruner):
            return given
    elif given in CRITERIA:
        return CRITERIA[given]
    raise ConfigError(f"{name}: the criterion is {given!r}; it is one of {', '.join(map(repr, CRITERIA))}, or a class "
                      "derived from torchpare.pruning.Pruner")  # fmt: skip
