"""The quantizers of NNI 3: an evaluator trains; ``compress(max_steps, max_epochs)`` returns model and calibration."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import nn

from torchpare import quantization
from torchpare.compat.nni.evaluators import Evaluator, restored_modes
from torchpare.compat.nni.legacy_quantization import LegacyQuantizer, signs
from torchpare.compat.nni.v3_config import quantization_of_v3
from torchpare.compat.nni.v3_pruner import check_evaluator, compress_earlier, trainer_of
from torchpare.compat.nni.views import WrapperView
from torchpare.errors import CompatError, ConfigError
from torchpare.files.calibration import Calibration
from torchpare.quantization.calibration import calibration_of

__all__ = [
    "BNNQuantizer",
    "DoReFaQuantizer",
    "LsqPlusQuantizer",
    "LsqQuantizer",
    "PtqQuantizer",
    "QATQuantizer",
    "V3Quantizer",
]


class V3Quantizer(LegacyQuantizer):
    """What every quantizer of NNI 3 had beside its algorithm.

    Args:
        model: what to quantize.
        config_list: in the words of NNI 3, of earlier versions, or of torchpare. With ``fuse_names`` the norms after
            quantized layers are found by the evaluator's ``dummy_input``.
        evaluator: who trains.
        existed_wrappers: must be None: masks and quantizers are on the model already.
        quant_start_step: how many steps pass before values are rounded.
    """

    evaluator: Evaluator | None

    earlier: Any = None
    """The compressor that this one was made from, which compresses first."""

    def __init__(
        self, model: nn.Module, config_list: Any, evaluator: Evaluator | None = None, existed_wrappers: Any = None, *,
        quant_start_step: int = 0,
    ) -> None:  # fmt: skip
        name = type(self).__name__
        check_evaluator(evaluator, existed_wrappers, name)
        asked = quantization_of_v3(model, config_list, self.default, quant_start_step)
        dummy_input = None if evaluator is None else evaluator.dummy_input
        if asked.folds and dummy_input is None:
            raise ConfigError(
                f"{name}: fuse_names: norms are found by an example input: give the evaluator dummy_input"
            )
        self.evaluator = evaluator
        optimizer = None if evaluator is None else evaluator.optimizer
        example = {"dummy_input": dummy_input} if asked.folds else {}  # not every algorithm folds norms
        super().__init__(model, self.find_entries(asked.entries), optimizer, **example)

    def find_entries(self, entries: Any) -> Any:
        """The entries as the algorithm takes them."""
        return entries

    @classmethod
    def from_compressor(
        cls, compressor: Any, new_config_list: Any, *args: Any, evaluator: Evaluator | None = None, **named: Any
    ) -> Self:
        """A quantizer of another compressor's model, on top of what that one does, which it does first.

        Args:
            compressor: whose model and, where none is given, whose evaluator.
            new_config_list: what to quantize.
            *args: the further arguments of the quantizer, after the evaluator.
            **named: as ``args``, by name.
            evaluator: who trains.
        """
        made = cls(compressor.bound_model, new_config_list, evaluator or compressor.evaluator, *args, **named)
        made.earlier = compressor
        return made

    def compress(self, max_steps: int | None = None, max_epochs: int | None = None) -> Any:
        """Quantize, train, and return ``(model, calibration_config)``."""
        compress_earlier(self.earlier, max_steps, max_epochs)
        super().compress()
        self.learn(max_steps, max_epochs)
        return self.bound_model, self.get_calibration_config()

    def learn(self, max_steps: int | None, max_epochs: int | None) -> None:
        """Train the quantized model."""
        trainer_of(self).run(self.bound_model, after=self.step, max_steps=max_steps, max_epochs=max_epochs)

    def get_modules_wrapper(self) -> dict[str, WrapperView]:
        """Views of the selected layers, by name."""
        return {view.name: view for view in super().get_modules_wrapper()}

    def get_calibration_config(self) -> Calibration:
        """Bits, ranges, scales and zero points by layer."""
        return calibration_of(self.bound_model)

    def update_calibration_config(self, calibration_config: Any) -> None:
        """Take over a calibration of any version."""
        self.load_calibration_config(calibration_config)

    def unwrap_model(self) -> None:
        """Quantizers stay on the layers, which nothing wraps; nothing to do."""

    wrap_model = unwrap_model

    @torch.no_grad()
    def track_forward(self, *args: Any, **named: Any) -> None:
        """Run the model once."""
        self.bound_model(*args, **named)


class QATQuantizer(V3Quantizer, quantization.QATQuantizer):
    """As :class:`torchpare.quantization.QATQuantizer`; the arguments are `V3Quantizer`'s."""

    def __init__(
        self, model: nn.Module, config_list: Any, evaluator: Evaluator, quant_start_step: int = 0,
        existed_wrappers: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(model, config_list, evaluator, existed_wrappers, quant_start_step=quant_start_step)


class LsqQuantizer(V3Quantizer, quantization.LsqQuantizer):
    """As :class:`torchpare.quantization.LsqQuantizer`; the arguments are `V3Quantizer`'s."""


class LsqPlusQuantizer(V3Quantizer, quantization.LsqPlusQuantizer):
    """As :class:`torchpare.quantization.LsqPlusQuantizer`; the arguments are `V3Quantizer`'s."""


class DoReFaQuantizer(V3Quantizer, quantization.DoReFaQuantizer):
    """As :class:`torchpare.quantization.DoReFaQuantizer`; the arguments are `V3Quantizer`'s."""

    def find_entries(self, entries: Any) -> Any:
        """Entries with numbers of bits alone: the levels are those of the formula, signed or not."""
        return [_bits_alone(entry) for entry in entries]


class BNNQuantizer(V3Quantizer, quantization.BNNQuantizer):
    """As :class:`torchpare.quantization.BNNQuantizer`; the arguments are `V3Quantizer`'s."""

    def find_entries(self, entries: Any) -> Any:
        """Entries of one bit."""
        return signs(entries)


class PtqQuantizer(V3Quantizer, quantization.PtqQuantizer):
    """As :class:`torchpare.quantization.PtqQuantizer`, calibrated by the evaluator's evaluation.

    Args:
        model, config_list, evaluator, existed_wrappers: as `V3Quantizer`.
        is_bias_correction: must be False.
    """

    def __init__(
        self, model: nn.Module, config_list: Any, evaluator: Evaluator, is_bias_correction: bool = False,
        existed_wrappers: Any = None,
    ) -> None:  # fmt: skip
        if is_bias_correction:
            raise CompatError("PtqQuantizer: is_bias_correction is a call of its own here: after compress(), "
                              "torchpare.quantization.correct_biases(model, batches)")  # fmt: skip
        super().__init__(model, config_list, evaluator, existed_wrappers)

    def compress(self, max_steps: int | None = None, max_epochs: int | None = None) -> Any:
        """Evaluate once, which shows the ranges, quantize, and return ``(model, calibration_config)``."""
        compress_earlier(self.earlier, max_steps, max_epochs)
        if not self._compressed:
            with restored_modes(self.bound_model), torch.no_grad():
                self.bound_model.eval()
                trainer_of(self).measure(self.bound_model)
        LegacyQuantizer.compress(self)
        return self.bound_model, self.get_calibration_config()


def _bits_alone(entry: dict[str, Any]) -> dict[str, Any]:
    given = entry.get("quant_dtype", {})
    kinds = given if isinstance(given, dict) else dict.fromkeys(entry["quant_types"], given)
    bits = {kind: int(str(dtype).removeprefix("u").removeprefix("int")) for kind, dtype in kinds.items()}
    return {key: value for key, value in entry.items() if key != "quant_dtype"} | ({"quant_bits": bits} if bits else {})
