"""Weights rounded, and nothing else: what 8 bits do to a model before anybody takes care of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from torchpare.attach import FakeQuantize
from torchpare.config import QuantSpec
from torchpare.config.quantization import Observer, QuantType
from torchpare.quantization.base import Quantizer
from torchpare.quantization.places import Place
from torchpare.quantization.qat import WEIGHT

__all__ = ["NaiveQuantizer"]


class NaiveQuantizer(Quantizer):
    """Rounds weights to nearest on one symmetric grid for each tensor, over its whole range.

    Args:
        model: what to quantize. The constructor only reads it.
        config_list: as elsewhere; an entry may leave out ``quant_types`` and ``quant_bits``, which are
            ``["weight"]`` and 8. Without a config_list everything is quantized that ``default`` stands for.
        optimizer: counts the steps of ``quant_start_step``.

    Raises:
        ConfigError: an argument cannot be used.
    """

    types: ClassVar[tuple[QuantType, ...]] = ("weight",)
    observers: ClassVar[Mapping[QuantType, tuple[Observer, ...]]] = {"weight": ("min_max",)}
    folds: ClassVar[bool] = False
    defaults: ClassVar[Mapping[QuantType, QuantSpec]] = {"weight": replace(WEIGHT, granularity="tensor")}

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]] | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        asked: Any = [{"op_types": ["default"]}] if config_list is None else config_list
        if isinstance(asked, Sequence):
            usual = {"quant_types": ["weight"], "quant_bits": 8}
            asked = [
                {**usual, **entry} if isinstance(entry, Mapping) and not entry.get("exclude") else entry
                for entry in asked
            ]
        super().__init__(model, asked, optimizer)

    def weight_quantizer(self, place: Place) -> FakeQuantize:
        """A grid that follows the weight."""
        return FakeQuantize(place.spec, place.name, axis=place.axis, follows=True)

    def activation_quantizer(self, place: Place) -> FakeQuantize:
        """Never asked: ``types`` has weights alone."""
        raise AssertionError(place.name)
