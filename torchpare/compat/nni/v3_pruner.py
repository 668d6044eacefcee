"""What all pruners of NNI 3 have: its words, an evaluator, and ``compress(max_steps, max_epochs)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from torchpare.compat.nni.changes import tell
from torchpare.compat.nni.evaluators import Evaluator
from torchpare.compat.nni.v2_pruning import V2Pruner
from torchpare.compat.nni.v3_config import pruning_of_v3
from torchpare.errors import CompatError

__all__ = ["V3Pruner", "check_evaluator", "compress_earlier", "trainer_of"]


class V3Pruner(V2Pruner):
    """What every pruner of NNI 3 had beside its algorithm.

    Args:
        model: what to prune.
        config_list: in the words of NNI 3, of earlier versions, or of torchpare.
        evaluator: who trains.
        existed_wrappers: must be None: masks are on the model already.
    """

    criterion: ClassVar[str | None] = None
    """The word by which schedules know what goes; None where they cannot use it."""

    limits: tuple[int | None, int | None] = (None, None)
    """``(steps, epochs)`` to train for."""

    earlier: Any = None
    """The compressor that this one was made from, which compresses first."""

    def asked(self, model: nn.Module, config_list: Any, evaluator: Any, existed_wrappers: Any) -> tuple[Any, Any, Any]:
        """``(entries, mode, dummy_input)`` in our words.

        Raises:
            ConfigError, CompatError: an argument cannot be used.
        """
        check_evaluator(evaluator, existed_wrappers, type(self).__name__)
        self.evaluator = evaluator
        own = None if evaluator is None else evaluator.dummy_input
        found = pruning_of_v3(model, config_list, self.supported, self.default or self.supported, own)
        return found.entries, found.mode, found.dummy_input if found.dummy_input is not None else own

    @classmethod
    def from_compressor(
        cls, compressor: Any, new_config_list: Any, *args: Any, evaluator: Evaluator | None = None, **named: Any
    ) -> Self:
        """A pruner of another compressor's model, on top of what that one does, which it does first.

        Args:
            compressor: whose model and, where none is given, whose evaluator.
            new_config_list: what to prune.
            *args: the further arguments of the pruner, after the evaluator.
            **named: as ``args``, by name.
            evaluator: who trains.
        """
        chosen = evaluator or getattr(compressor, "evaluator", None)
        made = cls(compressor.bound_model, new_config_list, chosen, *args, **named)  # type: ignore[call-arg] - each subclass takes these three
        made.earlier = compressor
        return made

    def compress(self, max_steps: int | None = None, max_epochs: int | None = None) -> Any:
        """Prune, training where the algorithm does, and return ``(model, masks)``."""
        compress_earlier(self.earlier, max_steps, max_epochs)
        if max_steps is not None or max_epochs is not None:
            self.limits = max_steps, max_epochs
        return super().compress()

    def generate_masks(self) -> dict[str, dict[str, Tensor]]:
        """Mask by what the weights are now, and return the masks."""
        self.mask()
        return self.get_masks()

    def get_masks(self) -> Any:
        """The masks: zeros and ones of the parameters' shapes."""
        return self.found_masks()

    def update_masks(self, masks: Mapping[str, Mapping[str, Tensor | None]]) -> None:
        """Put masks on the model.

        Raises:
            MaskError: they do not fit it; it is as it was.
        """
        self.load_masks(masks)

    def wrap_model(self) -> None:
        """Put the masks on again, after `unwrap_model`."""
        self._wrap_model()

    def unwrap_model(self) -> None:
        """Plain layers with the zeros written in."""
        self._unwrap_model()

    @torch.no_grad()
    def track_forward(self, *args: Any, **named: Any) -> None:
        """Run the model once, so that masks cover whole groups."""
        self.bound_model(*args, **named)


def check_evaluator(evaluator: Any, existed_wrappers: Any, name: str) -> None:
    """Refuse what is no evaluator, and wrappers.

    Raises:
        CompatError: they cannot be used.
    """
    if existed_wrappers:
        raise CompatError(f"{name}: existed_wrappers: there are none here; masks and quantizers are on the model, and "
                          "another compressor adds to them")  # fmt: skip
    if evaluator is not None and not isinstance(evaluator, Evaluator):
        raise CompatError(f"{name}: evaluator is a {type(evaluator).__name__}; it is a TorchEvaluator, a "
                          "LightningEvaluator or a TransformersEvaluator")  # fmt: skip


def compress_earlier(earlier: Any, max_steps: int | None, max_epochs: int | None) -> None:
    """Let the compressor that another one was made from do its part, where nobody has told it to.

    Args:
        earlier: it; None where there is none.
        max_steps: how many steps it trains.
        max_epochs: how many epochs it trains.
    """
    if earlier is not None and not earlier.compressed:
        tell("fused")
        earlier.compress(max_steps, max_epochs)


def trainer_of(compressor: Any) -> Evaluator:
    """The evaluator of a compressor that trains.

    Raises:
        CompatError: it has none.
    """
    if compressor.evaluator is None:
        raise CompatError(f"{type(compressor).__name__} trains while it compresses: give it an evaluator")
    return compressor.evaluator
