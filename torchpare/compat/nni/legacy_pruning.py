"""The pruners of NNI 2.2 to 2.4: torchpare's own, with the methods that scripts of that time call beside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchpare import pruning, search
from torchpare.attach import detach
from torchpare.compat.nni.changes import tell
from torchpare.compat.nni.files import load_state
from torchpare.compat.nni.legacy_compressor import LegacyCompressor, tell_of_entries
from torchpare.pruning.data_driven import DataDrivenPruner
from torchpare.pruning.groups import forget_first_forward
from torchpare.pruning.ranked import RankedPruner

__all__ = [
    "PRUNER_DICT",
    "ADMMPruner",
    "AGPPruner",
    "AMCPruner",
    "ActivationAPoZRankFilterPruner",
    "ActivationMeanRankFilterPruner",
    "AutoCompressPruner",
    "FPGMPruner",
    "L1FilterPruner",
    "L2FilterPruner",
    "LegacyPruner",
    "LevelPruner",
    "LotteryTicketPruner",
    "NetAdaptPruner",
    "SensitivityPruner",
    "SimulatedAnnealingPruner",
    "SlimPruner",
    "TaylorFOWeightFilterPruner",
    "TransformerHeadPruner",
]

_CHANGES = {
    pruning.SlimPruner: "slim",
    pruning.ADMMPruner: "admm",
    search.SimulatedAnnealingPruner: "annealing",
    search.AMCPruner: "amc",
    search.SearchPruner: "search_model",
}

_BY_THRESHOLD = (pruning.LevelPruner, pruning.L1FilterPruner, pruning.L2FilterPruner, pruning.SlimPruner)


class LegacyPruner(LegacyCompressor, pruning.Pruner):
    """What every pruner of NNI up to 2.4 had beside its algorithm. The arguments are those of the algorithm."""

    def begin(self) -> None:
        """Tell what is different, and begin."""
        self.tell_changes()
        super().begin()

    def tell_changes(self) -> None:
        """Tell of each difference that this pruner's scripts meet."""
        tell_of_entries(self.config_list)
        for kind, key in _CHANGES.items():
            if isinstance(self, kind):
                tell(key)
        if self.structured:
            tell("groups")
        if isinstance(self, pruning.GradualPruner) and isinstance(self.ranking, DataDrivenPruner):
            tell("statistics")
        if isinstance(self, pruning.TransformerHeadPruner) and self.ranking_criterion == "taylorfo":
            tell("head_gradients")

    def mask(self) -> None:
        """Mask the model by today's scores and sparsities; tells where equal scores let NNI prune more."""
        super().mask()
        if self._took_all_ties() and self._had_ties():
            tell("ties")

    def update_mask(self) -> None:
        """Mask by what the weights are now; a pruner that watches training waits until it has seen enough.

        NNI's constructor had begun: of the pruners that wait for training of yours, this call begins here.
        """
        waits = isinstance(self, DataDrivenPruner | pruning.GradualPruner) and self.training is None
        if waits and not self._compressed:
            self.compress()
        if isinstance(self, DataDrivenPruner):
            self.mask_if_ready()
        else:
            self.mask()

    def reset(self, checkpoint: dict[str, Tensor] | None = None) -> None:
        """Take all masks off, and load a checkpoint if one is given; ``compress()`` begins anew."""
        forget_first_forward(self.bound_model)
        detach(self.bound_model, bake=False)
        self._unwrapped, self._compressed = {}, False
        if checkpoint is not None:
            self.bound_model.load_state_dict(checkpoint)

    def export_model(
        self,
        model_path: str | os.PathLike[str],
        mask_path: str | os.PathLike[str] | None = None,
        onnx_path: str | os.PathLike[str] | None = None,
        input_shape: Sequence[int] | None = None,
        device: torch.device | str | None = None,
        dummy_input: Any = None,
        opset_version: int | None = None,
    ) -> None:
        """Write files as :meth:`torchpare.pruning.Pruner.export_model` does.

        Args:
            model_path: as there.
            mask_path: as there.
            onnx_path: as there.
            input_shape: as there.
            device: as there.
            dummy_input: an example input, in place of ``input_shape``.
            opset_version: not needed; see the warning.
        """
        if opset_version is not None:
            tell("opset")
        if mask_path is not None:
            tell("masks")
        if dummy_input is not None:
            self.dummy_input = dummy_input
        super().export_model(model_path, mask_path, onnx_path, input_shape, device)

    def load_model_state_dict(self, state: Any) -> None:
        """Load a state, also one that NNI's wrappers wrote."""
        load_state(self.bound_model, state)

    def _took_all_ties(self) -> bool:
        """Whether NNI pruned all units at the threshold of this criterion."""
        ranking = self.ranking if isinstance(self, RankedPruner) else self
        return isinstance(ranking, _BY_THRESHOLD)

    @torch.no_grad()
    def _had_ties(self) -> bool:
        """Whether a layer has pruned and kept units of one score, above zero."""
        for target in self.targets.values():
            layer: Any = target.module
            unit, mask = self._unit(target), layer._buffers.get("weight_mask")  # noqa: SLF001 - the live mask
            if mask is None:
                continue
            dense = layer.old_weight.detach()
            scores = unit.gather(self.score(unit.fold(dense)))
            kept = unit.kept(mask, dense)
            if bool(kept.any()) and not bool(kept.all()) and bool(scores[kept].min() == scores[~kept].max()):
                return True
        return False


class LevelPruner(LegacyPruner, pruning.LevelPruner):
    """As :class:`torchpare.pruning.LevelPruner`, which has the arguments."""


class L1FilterPruner(LegacyPruner, pruning.L1FilterPruner):
    """As :class:`torchpare.pruning.L1FilterPruner`, which has the arguments."""


class L2FilterPruner(LegacyPruner, pruning.L2FilterPruner):
    """As :class:`torchpare.pruning.L2FilterPruner`, which has the arguments."""


class FPGMPruner(LegacyPruner, pruning.FPGMPruner):
    """As :class:`torchpare.pruning.FPGMPruner`, which has the arguments."""


class SlimPruner(LegacyPruner, pruning.SlimPruner):
    """As :class:`torchpare.pruning.SlimPruner`, which has the arguments."""


class TaylorFOWeightFilterPruner(LegacyPruner, pruning.TaylorFOWeightFilterPruner):
    """As :class:`torchpare.pruning.TaylorFOWeightFilterPruner`, which has the other arguments.

    Args:
        global_sort: as ``mode="global"``: the filters of all layers are ranked together, each layer keeps one.
    """

    def __init__(  # noqa: PLR0913 - the arguments of NNI 2.2 to 2.4
        self,
        model: nn.Module,
        config_list: Any,
        optimizer: Any = None,
        trainer: Any = None,
        criterion: Any = None,
        sparsifying_training_batches: Any = 1,
        dependency_aware: bool = False,
        dummy_input: Any = None,
        global_sort: bool = False,
        *,
        statistics_batch_num: int | None = None,
        mode: str = "normal",
    ) -> None:
        if global_sort:
            tell("global_sort")
        super().__init__(
            model, config_list, optimizer, trainer, criterion, sparsifying_training_batches, dependency_aware,
            dummy_input, statistics_batch_num=statistics_batch_num, mode="global" if global_sort else mode,
        )  # fmt: skip


class ActivationAPoZRankFilterPruner(LegacyPruner, pruning.ActivationAPoZRankFilterPruner):
    """As :class:`torchpare.pruning.ActivationAPoZRankFilterPruner`, which has the arguments."""


class ActivationMeanRankFilterPruner(LegacyPruner, pruning.ActivationMeanRankFilterPruner):
    """As :class:`torchpare.pruning.ActivationMeanRankFilterPruner`, which has the arguments."""


class AGPPruner(LegacyPruner, pruning.AGPPruner):
    """As :class:`torchpare.pruning.AGPPruner`, which has the arguments."""


class ADMMPruner(LegacyPruner, pruning.ADMMPruner):
    """As :class:`torchpare.pruning.ADMMPruner`, which has the arguments."""


class LotteryTicketPruner(LegacyPruner, pruning.LotteryTicketPruner):
    """As :class:`torchpare.pruning.LotteryTicketPruner`, which has the arguments."""


class TransformerHeadPruner(LegacyPruner, pruning.TransformerHeadPruner):
    """As :class:`torchpare.pruning.TransformerHeadPruner`, which has the arguments."""


class NetAdaptPruner(LegacyPruner, search.NetAdaptPruner):
    """As :class:`torchpare.search.NetAdaptPruner`, which has the arguments."""


class SimulatedAnnealingPruner(LegacyPruner, search.SimulatedAnnealingPruner):
    """As :class:`torchpare.search.SimulatedAnnealingPruner`, which has the arguments."""


class AutoCompressPruner(LegacyPruner, search.AutoCompressPruner):
    """As :class:`torchpare.search.AutoCompressPruner`, which has the arguments."""


class AMCPruner(LegacyPruner, search.AMCPruner):
    """As :class:`torchpare.search.AMCPruner`, which has the arguments."""


class SensitivityPruner(LegacyPruner, search.SensitivityPruner):
    """As :class:`torchpare.search.SensitivityPruner`, which has the arguments."""

    def current_sparsity(self) -> float:
        """The share of the selected layers' weights that is gone."""
        gone, counts = self._gone(), self._counts()
        return sum(gone[name] * count for name, count in counts.items()) / sum(counts.values())

    def normalize(self, ratios: Mapping[str, float], target_pruned: float) -> dict[str, float]:
        """Ratios of what layers have left, scaled so that this share of all weights goes; none above 0.95.

        Args:
            ratios: by layer.
            target_pruned: a share of the selected layers' weights.
        """
        gone, counts = self._gone(), self._counts()
        goes = sum(ratio * (1 - gone[name]) * counts[name] for name, ratio in ratios.items())
        if goes <= 0:
            return dict.fromkeys(ratios, 0.0)
        factor = target_pruned * sum(counts.values()) / goes
        factor = min(factor, 0.95 / max(ratios.values()))
        return {name: ratio * factor for name, ratio in ratios.items()}

    def create_cfg(self, ratios: Mapping[str, float]) -> list[dict[str, Any]]:
        """A ``config_list`` with which each layer loses this ratio of what it has left."""
        gone = self._gone()
        return self.config_of({name: gone[name] + (1 - gone[name]) * ratio for name, ratio in ratios.items()})

    def _gone(self) -> dict[str, float]:
        return {name: 1 - left / total for name, (left, total) in self.get_pruned_weights().items()}

    def _counts(self) -> dict[str, int]:
        return {view.name: view.weight.numel() for view in self.modules_wrapper if view.weight is not None}


PRUNER_DICT: dict[str, type[LegacyPruner]] = {
    "level": LevelPruner,
    "l1": L1FilterPruner,
    "l2": L2FilterPruner,
    "fpgm": FPGMPruner,
}
