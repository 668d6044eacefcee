"""What every quantizer does; a new algorithm is a subclass that says what it hangs on a weight and on an activation.

A quantizer's constructor only reads and checks. ``compress()`` puts the quantizers on the model, which then trains and
evaluates like any other; ``export_model()`` writes files and leaves it trainable. Scales, ranges and counted steps live
in the model, not here: a new model, compressed with the same config_list, takes them over with ``load_state_dict``.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from torchpare.attach import (
    Compressor,
    FakeQuantize,
    attach_activation_quantizer,
    attach_weight_quantizer,
    learned_grids,
    quantizers_of,
)
from torchpare.attach.steps import Steps
from torchpare.config import QuantEntry, QuantSpec, Target, select
from torchpare.config.layers import WEIGHTED
from torchpare.config.quantization import Observer, QuantType
from torchpare.errors import ConfigError, ExportError, QuantizationError
from torchpare.files.calibration import Calibration
from torchpare.files.example import device_of
from torchpare.numerics.affine import check_finite
from torchpare.numerics.ranges import min_max
from torchpare.numerics.shards import is_sharded, refuse_sharded, whole
from torchpare.quantization.calibration import apply_calibration, calibration_of
from torchpare.quantization.export import export
from torchpare.quantization.folds import folds_of
from torchpare.quantization.joined import joined_outputs
from torchpare.quantization.parametrized import warn_of_parametrized
from torchpare.quantization.places import Place, activation_places, check_observer, weight_places

__all__ = ["Quantizer"]


class Quantizer(Compressor):
    """Quantizes what a ``config_list`` selects, with the quantizers of a subclass.

    Args:
        model: what to quantize. The constructor only reads it.
        config_list: a list of dicts; see :class:`torchpare.config.QuantEntry`.
        optimizer: counts the steps of ``quant_start_step`` and, of algorithms that learn their grids, trains these too:
            they are added to it as a group without weight decay. Without one, training passes through a layer count,
            and an optimizer made of ``model.parameters()`` after ``compress()`` trains the grids.
        dummy_input: an example input (a tensor, a tuple of positional arguments, or a dict of keyword arguments). With
            it, batch norms directly after quantized layers are found: such a weight is quantized as it will be once
            the norm is folded into it, and what is quantized as the layer's output is that of the norm. Outputs that
            meet in a concatenation are found too, and get one grid between them, as integer runtimes need it.

    Raises:
        ConfigError: the config_list or another argument cannot be used. The model is untouched.
        CaptureError: the model does not run on ``dummy_input``.
    """

    types: ClassVar[tuple[QuantType, ...]] = ("weight", "input", "output")
    """What the algorithm can quantize."""

    default: ClassVar[tuple[type[nn.Module], ...]] = WEIGHTED
    """What ``op_types: ['default']`` stands for. Other types may be named."""

    entry: ClassVar[type[QuantEntry]] = QuantEntry
    """What its ``config_list`` may say."""

    folds: ClassVar[bool] = True
    """Whether weights are quantized as batch norms will leave them, where those are known."""

    decays: ClassVar[bool] = False
    """Whether what the algorithm learns takes the optimizer's weight decay."""

    observers: ClassVar[Mapping[QuantType, tuple[Observer, ...]]] = {}
    """Which ``observer`` an entry may choose for each type; none, where ranges are not observed but learnt or given."""

    defaults: ClassVar[Mapping[QuantType, QuantSpec]]
    """How each type is quantized where the ``config_list`` does not say."""

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | None = None,
        dummy_input: Any = None,
    ) -> None:
        name = type(self).__name__
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            given = type(optimizer).__name__
            raise ConfigError(f"{name}: the third argument is a {given}; it is a torch optimizer, or None")
        self.targets = select(
            model, config_list, supported=(nn.Module,), default=self.default, algorithm=name, kind=self.entry
        )
        warn_of_parametrized(model, config_list, self.targets, self.entry, self.default, name)
        for target in self.targets.values():
            for kind in target.entry.quant_types:
                if kind not in self.types:
                    raise ConfigError(f"{target.name}: {name} does not quantize {kind!r}, only "
                                      f"{', '.join(map(repr, self.types))}")  # fmt: skip
        self.bound_model, self.config_list, self.optimizer = model, config_list, optimizer
        self.folded = folds_of(model, self.targets, dummy_input) if dummy_input is not None and self.folds else {}
        self.weights = weight_places(model, self.targets, self._specs("weight"))
        self.activations = activation_places(model, self.targets, self.folded, self._specs("input", "output"))
        for place in (*self.weights, *self.activations):
            check_observer(place, self.observers, name)
            self.check(place)
        self.joined = joined_outputs(model, self.activations, dummy_input) if dummy_input is not None else []
        self._compressed = False
        self._hung: list[FakeQuantize] = []
        self._counting: Steps | None = None

    @property
    def layers(self) -> list[str]:
        """The names of the layers that the ``config_list`` selects."""
        return list(self.targets)

    # ------------------------------------------------------------------------------------------- what an algorithm says

    @abstractmethod
    def weight_quantizer(self, place: Place) -> FakeQuantize:
        """What to hang on a weight."""

    @abstractmethod
    def activation_quantizer(self, place: Place) -> FakeQuantize:
        """What to hang on an input or an output."""

    def check(self, place: Place) -> None:
        """Refuse what the algorithm cannot do.

        Raises:
            ConfigError: it cannot.
        """

    # ------------------------------------------------------------------------------------------------- the user's loop

    @torch.inference_mode(False)  # what is made in a user's inference mode must still serve training
    def compress(self) -> nn.Module:
        """Put quantizers on the model and return it, the same object. A second call changes nothing.

        Raises:
            QuantizationError: a weight holds NaN or infinities, or a layer cannot carry a quantizer. The model is as it
                was.
        """
        if not self._compressed:
            for place in self.weights:
                check_finite(*min_max(whole(place.parameter)), place.name)
            weights = [(place, self.weight_quantizer(place)) for place in self.weights]
            activations = self._join([(place, self.activation_quantizer(place)) for place in self.activations])
            for place, quantizer in weights:
                for layer, key in place.holders:
                    fold = self.folded.get(place.target.name) if len(place.holders) == 1 else None
                    attach_weight_quantizer(layer, key, quantizer, fold)
            self._hang_on_activations(activations)
            self._hung = list(dict.fromkeys(own for _, own in (*weights, *activations)))  # one may hang in two places
            self._follow_optimizer()
            if is_sharded(self.bound_model):
                learned_grids(self.bound_model)  # of which fully_shard, which came first, knows nothing
            self._compressed = True
            self.begin()
        return self.bound_model

    def begin(self) -> None:
        """What follows when all quantizers hang."""

    def update_epoch(self, epoch: int) -> None:
        """Tell the quantizer that an epoch begins; harmless.

        Raises:
            QuantizationError: as `step`.
        """
        del epoch
        self.step()

    @property
    def counts_steps(self) -> bool:
        """Whether quantizers wait for a step, or an optimizer was given that trains them."""
        learns = any(next(quantizer.parameters(), None) is not None for quantizer in self._hung)
        return any(quantizer.spec.start_step for quantizer in self._hung) or (learns and self.optimizer is not None)

    def hang_on(self, optimizer: Optimizer) -> None:
        """Count the steps of this optimizer, and no longer passes or the steps of another one."""
        if self._counting is not None:
            self._counting.remove()
            self._counting = None
        waiting = [quantizer for quantizer in self._hung if quantizer.spec.start_step]
        for quantizer in waiting:
            quantizer.counts_passes = False
            quantizer.see_whether_active()
        if waiting:
            self._counting = Steps(optimizer, after=partial(_count, waiting))

    def step(self) -> None:
        """Tell the quantizer that a minibatch has been learnt; harmless: the optimizer or the model counts steps.

        Only quantizers that wait for a step inside of compiled code see here that it has come.

        Raises:
            QuantizationError: compiled code has met NaN or infinities, which eager code refuses as it meets them.
        """
        for _, _, _, quantizer in quantizers_of(self.bound_model):
            quantizer.check_range()
            if not quantizer.active:
                quantizer.see_whether_active()

    # --------------------------------------------------------------------------------------------- what came out of it

    def export_model(
        self,
        model_path: str | os.PathLike[str],
        calibration_path: str | os.PathLike[str] | None = None,
        onnx_path: str | os.PathLike[str] | None = None,
        input_shape: Sequence[int] | None = None,
        device: torch.device | str | None = None,
    ) -> Calibration:
        """Write the quantized model to files; the model stays quantized and trainable.

        Args:
            model_path: a plain state dict with the original keys, quantized weights as floats on their grids;
                ``torch.load(path, weights_only=True)`` gives it to the original class.
            calibration_path: bits, ranges, scales and zero points by layer; see `torchpare.files.calibration`.
            onnx_path: the model with those weights written in; needs ``input_shape``. Activations are not quantized in
                it: their ranges are in the calibration.
            input_shape: of one input, the batch included, such as ``[1, 1, 28, 28]``.
            device: where the ONNX export runs; the model's own if not given.

        Returns:
            The calibration, also where no path was given for it.

        Raises:
            QuantizationError: ``compress()`` was not called, so there is nothing to export.
            ExportError: ``onnx_path`` was given without ``input_shape``, or the export failed.
            FileError: a file cannot be written. A file that cannot be completed leaves the old one in its place.
        """
        self._has_quantizers("export")
        refuse_sharded(self.bound_model, "cannot be exported", ExportError)
        calibration = calibration_of(self.bound_model)
        export(self.bound_model, calibration, model_path, calibration_path, onnx_path, input_shape, device)
        return calibration

    def load_calibration_config(self, calibration_config: Calibration | str | os.PathLike[str]) -> None:
        """Take over the ranges of a calibration; weights follow their values, as ever, unless the algorithm fixed them.

        Args:
            calibration_config: what ``export_model`` returned, or the path of its file.

        Raises:
            QuantizationError: it speaks of layers that are not quantized, or of other numbers of bits. Nothing was
                taken over.
            FileError: it is not a calibration.
        """
        self._has_quantizers("calibrate")
        apply_calibration(self.bound_model, calibration_config)

    # ------------------------------------------------------------------------------------- what scripts for NNI expect

    def get_modules_to_compress(self) -> list[tuple[Target, dict[str, Any]]]:
        """The selected layers (with ``name``, ``module``, ``type``) and the entry that won for each, as a dict."""
        return [(target, target.entry.model_dump(exclude_defaults=True)) for target in self.targets.values()]

    # -------------------------------------------------------------------------------------------------------- inwards

    def _specs(self, *kinds: QuantType) -> dict[str, dict[str, QuantSpec]]:
        return {
            name: {kind: target.entry.spec(kind, self.defaults[kind])
                   for kind in target.entry.quant_types if kind in kinds}
            for name, target in self.targets.items()
        }  # fmt: skip

    def _hang_on_activations(self, activations: Sequence[tuple[Place, FakeQuantize]]) -> None:
        device = device_of(self.bound_model)  # of layers that have no parameters to tell it, such as a ReLU
        for place, quantizer in activations:
            quantizer.to(device)
            for layer, kind in place.holders:
                attach_activation_quantizer(layer, kind, quantizer)  # type: ignore[arg-type]

    def _join(self, activations: Sequence[tuple[Place, FakeQuantize]]) -> list[tuple[Place, FakeQuantize]]:
        """Let those that need it have one grid: ranges are united; what is learnt is learnt once, by one quantizer."""
        own = {id(place): quantizer for place, quantizer in activations}
        for group in self.joined:
            for grid in dict.fromkeys(place.spec.grid for place in group):
                first, *rest = [place for place in group if place.spec.grid == grid]
                if next(own[id(first)].parameters(), None) is not None:
                    own.update((id(place), own[id(first)]) for place in rest)
                elif own[id(first)].observing:
                    own[id(first)].join(own[id(place)] for place in rest)
        return [(place, own[id(place)]) for place, _ in activations]

    def _has_quantizers(self, what: str) -> None:
        if next(quantizers_of(self.bound_model), None) is None:
            raise QuantizationError(f"the model has no quantizers to {what}: call compress() first")

    def _follow_optimizer(self) -> None:
        if self.optimizer is None:
            return
        learnt = [parameter for quantizer in self._hung for parameter in quantizer.parameters()]
        if learnt:
            self.optimizer.add_param_group(
                {"params": learnt} if self.decays else {"params": learnt, "weight_decay": 0.0}
            )
        self.hang_on(self.optimizer)


def _count(quantizers: Sequence[FakeQuantize]) -> None:
    for quantizer in quantizers:
        quantizer.count_step()
