"""Post-training quantization: a few batches are watched, then every grid is fixed; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchpare.attach import FakeQuantize
from torchpare.attach.reading import fold_factor
from torchpare.config import QuantSpec
from torchpare.config.quantization import QUANT_TYPES, QuantType
from torchpare.config.quantization import Observer as Watching
from torchpare.errors import ConfigError, QuantizationError
from torchpare.numerics.histograms import Histogram, kl_range
from torchpare.numerics.ranges import Range, min_max, mse_range, percentile_range
from torchpare.numerics.shards import whole
from torchpare.quantization.base import Quantizer
from torchpare.quantization.places import Place
from torchpare.quantization.qat import ACTIVATION, WEIGHT
from torchpare.quantization.twin import evaluated, run

__all__ = ["Observer", "ObserverQuantizer", "PtqQuantizer"]


class Observer(FakeQuantize):
    """Watches in training and in evaluation, and lets pass, until it is frozen; then it rounds, and watches no more."""

    kind = "calibrated"
    observes_on = False

    def __init__(self, spec: QuantSpec, name: str, *, axis: int = 0) -> None:
        super().__init__(spec, name, axis=axis)
        self.calibrating = True
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool))

    def freeze(self) -> None:
        """Fix the grid on what was seen.

        Raises:
            QuantizationError: nothing was.
        """
        if not bool(self.seen):
            raise QuantizationError(f"{self.name} has seen no data: run some batches through the model first")
        super().freeze()
        self.frozen.fill_(True)  # type: ignore[operator] - a buffer
        self.see_whether_active()

    def take_as_seen(self) -> None:
        """Let the range that was set be the one that is fixed."""
        super().take_as_seen()
        self.frozen.fill_(True)  # type: ignore[operator] - a buffer
        self.see_whether_active()

    def watch(self) -> None:
        """Watch; what was fixed is forgotten."""
        if bool(self.frozen):
            self.frozen.fill_(False)  # type: ignore[operator] - a buffer
            self.seen.zero_()
            if self.counts is not None:
                self.counts.zero_()
        self.see_whether_active()

    def see_whether_active(self) -> None:
        """As long as it is not frozen it only watches."""
        frozen = self._buffers.get("frozen")
        if torch.compiler.is_compiling():
            return
        done = frozen is not None and bool(frozen)
        self.observing = self.calibrating = not done
        self.active = done and int(self.steps) >= self.spec.start_step

    def observe(self, *tensors: Tensor) -> None:
        """Take note of what tensors hold."""
        super().observe(*tensors)
        self.see_whether_active()


class ObserverQuantizer(Quantizer):
    """Grids from a few batches: of weights by their own values, of activations by what passes.

    Observers hang on the model from the start, without changing what it computes. Run batches like those it will meet
    (in evaluation mode, so that norms stay as they are), then ``compress()`` fixes every grid. Or say it in one call::

        ObserverQuantizer(model, config_list).calibrate(batches)

    Migacz, "8-bit Inference with TensorRT", 2017 (``"kl"``); Nagel et al., "A White Paper on Neural Network
    Quantization", 2021, section 3.1 (``"mse"``).

    Args:
        model: what to quantize.
        config_list: see :class:`torchpare.config.QuantEntry`; ``observer`` says how ranges are chosen.
        optimizer: not needed; nothing is trained.
        dummy_input: as in :class:`~torchpare.quantization.Quantizer`: batch norms are folded.

    Raises:
        ConfigError: an argument cannot be used. The model is untouched.
        CaptureError: the model does not run on ``dummy_input``.
    """

    observers: ClassVar[Mapping[QuantType, tuple[Watching, ...]]] = dict.fromkeys(QUANT_TYPES, get_args(Watching))
    defaults: ClassVar[Mapping[QuantType, QuantSpec]] = {
        "weight": WEIGHT,
        "input": replace(ACTIVATION, observer="min_max"),
        "output": replace(ACTIVATION, observer="min_max"),
    }

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | None = None,
        dummy_input: Any = None,
    ) -> None:
        super().__init__(model, config_list, optimizer, dummy_input)
        self._observers = [(place, Observer(place.spec, place.name)) for place in self.activations]
        self._join(self._observers)
        self._hang_on_activations(self._observers)

    def check(self, place: Place) -> None:
        """Counted values are of a tensor, not of its channels; and there are no steps to wait for."""
        if place.spec.start_step:
            raise ConfigError(f"{place.name}: 'quant_start_step' is {place.spec.start_step}, and {type(self).__name__} "
                              "counts no steps: leave it out")  # fmt: skip
        if place.spec.observer in ("percentile", "kl") and place.spec.granularity != "tensor":
            raise ConfigError(f"{place.name}: the observer {place.spec.observer!r} looks at a whole tensor; give "
                              "'granularity': 'tensor', or another observer")  # fmt: skip

    @torch.no_grad()
    def weight_quantizer(self, place: Place) -> FakeQuantize:
        """A grid fixed on the weight as it is, folded if a norm is."""
        quantizer = Observer(place.spec, place.name, axis=place.axis)
        quantizer.of_data = False
        fold = self.folded.get(place.target.name) if len(place.holders) == 1 and place.kind == "weight" else None
        quantizer.observe(as_folded(place.layer, place.kind, fold))
        quantizer.set_range(*_weight_range(quantizer, as_folded(place.layer, place.kind, fold)))
        quantizer.frozen.fill_(True)  # type: ignore[operator] - a buffer
        quantizer.see_whether_active()
        return quantizer

    def activation_quantizer(self, place: Place) -> FakeQuantize:
        """The observer that hangs there already."""
        return next(observer for known, observer in self._observers if known is place)

    def begin(self) -> None:
        """Fix what has been watched; what has not, watches on."""
        for _, observer in self._observers:
            if bool(observer.seen):
                observer.freeze()

    def calibrate(self, batches: Iterable[Any]) -> nn.Module:
        """Run the model on batches in evaluation mode, fix every grid, and return the model.

        What was watched before and is not fixed yet counts too; what was fixed is fixed anew, on these batches alone.
        Weights are fixed once.

        Args:
            batches: each a tensor, a tuple of positional arguments, or a dict of keyword arguments. No labels.

        Raises:
            QuantizationError: there are no batches, a layer was not reached by them, or values are not finite.
        """
        for _, observer in self._observers:
            assert isinstance(observer, Observer)
            observer.watch()
        with evaluated(self.bound_model):
            for batch in batches:
                run(self.bound_model, batch)
        for _, observer in self._observers:
            observer.freeze()
        return self.compress()


PtqQuantizer = ObserverQuantizer


def as_folded(layer: nn.Module, name: str, fold: nn.Module | None) -> Tensor:
    """A parameter under its mask, scaled by the norm that is folded into it."""
    parameter = layer._parameters[name]  # noqa: SLF001 - the dense one; reading the attribute may quantize it
    assert parameter is not None
    mask = layer._buffers.get(f"{name}_mask")  # noqa: SLF001
    dense = whole(parameter.detach())
    value = dense if mask is None else dense * mask.to(dense.dtype)
    return value if fold is None else value * fold_factor(layer, fold)


def _weight_range(quantizer: FakeQuantize, weight: Tensor) -> Range:
    """The range that the entry's observer recommends for a weight."""
    granules, spec = quantizer.granules(weight), quantizer.spec
    if spec.observer == "mse":
        return mse_range(granules, spec.grid, quantizer.dims(granules))
    if spec.observer == "percentile":
        return percentile_range(granules, spec.percentile)
    if spec.observer == "kl":
        return kl_range(Histogram.empty(granules.device).with_values(granules), spec.grid)
    return min_max(granules, quantizer.dims(granules))
