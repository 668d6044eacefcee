"""Pruners that users wrote for NNI: a subclass of its ``Pruner`` with ``calc_mask``, alone or with a masker."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchpare.attach import attach_masks
from torchpare.compat.nni.changes import tell
from torchpare.compat.nni.legacy_compressor import LegacyCompressor
from torchpare.compat.nni.legacy_pruning import LegacyPruner
from torchpare.compat.nni.legacy_quantization import LegacyQuantizer
from torchpare.compat.nni.views import WrapperView
from torchpare.config import WEIGHTED, Entry, Target
from torchpare.errors import CompatError, MaskError
from torchpare.files.masks import fit_masks
from torchpare.pruning.groups import complete_on_first_forward, try_to_complete

__all__ = ["Compressor", "Pruner", "Quantizer"]


class _AnyCompressor(type(LegacyPruner)):
    """Lets ``isinstance(pruner, Compressor)`` hold for all that stand in for NNI's."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, LegacyCompressor)


class Compressor(metaclass=_AnyCompressor):
    """What all compressors of NNI were; for ``isinstance`` alone.

    Raises:
        CompatError: it is called or derived from.
    """

    def __init_subclass__(cls) -> None:
        raise CompatError("NNI's Compressor cannot be derived from here; derive from its Pruner and write calc_mask, "
                          "or see docs/write-a-pruner.md and CONTRIBUTING.md for pruners and quantizers")  # fmt: skip

    def __init__(self, *_: Any, **__: Any) -> None:
        raise CompatError("NNI's Compressor computes nothing itself; use one of the pruners or quantizers")


class _AnyPruner(type(LegacyPruner)):
    def __instancecheck__(cls, instance: Any) -> bool:
        return super().__instancecheck__(instance) or (cls is Pruner and isinstance(instance, LegacyPruner))


class Pruner(LegacyPruner, metaclass=_AnyPruner):
    """Base of pruners that users wrote for NNI: ``calc_mask(wrapper, **kwargs)`` says what stays of a layer.

    What it returns, ``{"weight_mask": mask, "bias_mask": mask}`` of zeros and ones, or None for a layer that waits, is
    put on the layer, and on its group where whole filters go. ``wrapper`` is a view: ``wrapper.module`` the layer,
    ``wrapper.config`` its entry.

    Args:
        model: what to prune.
        config_list: a list of dicts; see :class:`torchpare.config.Entry`. Other keys are the subclass's own: they are
            in ``wrapper.config``, and ``validate_config`` may check them. An entry without a ``sparsity`` has one of 0.
        optimizer: for ``patch_optimizer``.
        dummy_input: an example input, for whole groups from the first mask on.
    """

    supported = (nn.Module,)
    default = WEIGHTED
    structured = False

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | None = None,
        dummy_input: Any = None,
    ) -> None:
        self.validate_config(model, config_list)
        super().__init__(model, config_list, optimizer, False, dummy_input)

    def validate_config(self, model: nn.Module, config_list: Any) -> None:
        """Check the config_list, before anything else; nothing to check here."""

    def find_targets(self, model: nn.Module, config_list: Any) -> dict[str, Target]:
        """The layers that the ``config_list`` selects, of whose keys only ours are read.

        Raises:
            ConfigError: it cannot be used.
        """
        self._given = config_list
        if not isinstance(config_list, list | tuple) or not all(isinstance(entry, Mapping) for entry in config_list):
            return super().find_targets(model, config_list)
        return super().find_targets(model, [_ours(entry) for entry in config_list])

    def entry_won(self, target: Target) -> dict[str, Any]:
        """The entry that won for a layer, with the keys that are not ours."""
        # Entries that are alike reach the same layers, and of those the last one wins.
        won = [entry for entry in self._given if Entry.model_validate(_ours(entry)) == target.entry]
        return dict(won[-1])

    @abstractmethod
    def calc_mask(self, wrapper: WrapperView, **kwargs: Any) -> Mapping[str, Tensor | None] | None:
        """The masks of one layer; None if it has to wait."""

    def score(self, weight: Tensor) -> Tensor:
        """Masks come from `calc_mask` here, not from scores.

        Raises:
            MaskError: always.
        """
        raise MaskError(f"{type(self).__name__} computes masks, and no scores of the {tuple(weight.shape)} weight")

    def mask(self) -> None:
        """Ask `calc_mask` for the masks of each layer, and put them on.

        Raises:
            MaskError: they do not fit the layer, or are none. The model is as it was.
        """
        with torch.no_grad():
            found = {view.name: self._asked(at, view) for at, view in enumerate(self.modules_wrapper)}
        given = {name: own for name, own in found.items() if own}
        if not given:
            return
        masks = fit_masks(given, self.bound_model)
        attach_masks(self.bound_model, masks)
        if any(_is_of_filters(own.get("weight")) for own in masks.values()):
            tell("groups")
            if self.dummy_input is None:
                complete_on_first_forward(self.bound_model)
            else:
                try_to_complete(self.bound_model, self.dummy_input)

    def _asked(self, at: int, view: WrapperView) -> dict[str, Tensor | None]:
        given = self.calc_mask(view, wrapper_idx=at)
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            raise MaskError(f"{type(self).__name__}.calc_mask returned a {type(given).__name__} for {view.name}; it "
                            "returns {'weight_mask': mask, 'bias_mask': mask}, or None")  # fmt: skip
        for key in given:
            if key not in ("weight_mask", "bias_mask"):
                raise MaskError(f"{type(self).__name__}.calc_mask returned {key!r} for {view.name}; its keys are "
                                "'weight_mask' and 'bias_mask'")  # fmt: skip
        return {key.removesuffix("_mask"): mask for key, mask in given.items()}

    @property
    def waiting(self) -> str:
        """What the pruner waits for: masks."""
        return "" if not self._compressed else "calc_mask has given no masks yet"


class _AnyQuantizer(type(LegacyQuantizer)):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, LegacyQuantizer)


class Quantizer(metaclass=_AnyQuantizer):
    """What all quantizers of NNI were; for ``isinstance`` alone.

    Raises:
        CompatError: it is called or derived from.
    """

    def __init_subclass__(cls) -> None:
        raise CompatError("NNI's Quantizer replaced weights behind a model's back, and cannot be derived from here; "
                          "derive from torchpare.quantization.Quantizer, and write weight_quantizer and "
                          "activation_quantizer (ten lines, see CONTRIBUTING.md)")  # fmt: skip

    def __init__(self, *_: Any, **__: Any) -> None:
        raise CompatError("NNI's Quantizer computes nothing itself; use one of the quantizers")


def _ours(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of an entry that torchpare reads."""
    own = {key: value for key, value in entry.items() if key in Entry.model_fields}
    return own if "sparsity" in own or own.get("exclude") else {**own, "sparsity": 0.0}


def _is_of_filters(mask: Tensor | None) -> bool:
    """Whether a compact mask leaves whole filters out."""
    return mask is not None and mask.dim() > 1 and mask.shape[0] == mask.numel() and not bool(mask.all())
