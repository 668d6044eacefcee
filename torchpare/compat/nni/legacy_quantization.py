"""The quantizers of NNI 2.2 to 2.10: torchpare's own, with the methods that scripts of that time call beside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from torchpare import quantization
from torchpare.compat.nni.changes import tell
from torchpare.compat.nni.files import load_calibration, load_state
from torchpare.compat.nni.legacy_compressor import LegacyCompressor, tell_of_entries
from torchpare.files.calibration import Calibration

__all__ = [
    "BNNQuantizer",
    "DoReFaQuantizer",
    "LegacyQuantizer",
    "LsqQuantizer",
    "NaiveQuantizer",
    "ObserverQuantizer",
    "QAT_Quantizer",
    "signs",
]


class LegacyQuantizer(LegacyCompressor, quantization.Quantizer):
    """What every quantizer of NNI up to 2.10 had beside its algorithm. The arguments are those of the algorithm."""

    def compress(self) -> nn.Module:
        """Put quantizers on the model and return it, and tell what is different."""
        tell_of_entries(self.config_list)
        if isinstance(self, quantization.QATQuantizer):
            tell("grid")
        if isinstance(self, quantization.NaiveQuantizer):
            tell("naive")
        entries = [target.entry for target in self.targets.values()]
        if any("weight" in entry.quant_types and len(entry.quant_types) > 1 for entry in entries):
            tell("scale")
        if self.optimizer is None and any(entry.quant_start_step for entry in entries):
            tell("start_step")
        return super().compress()

    def export_model(
        self,
        model_path: str | os.PathLike[str],
        calibration_path: str | os.PathLike[str] | None = None,
        onnx_path: str | os.PathLike[str] | None = None,
        input_shape: Sequence[int] | None = None,
        device: torch.device | str | None = None,
    ) -> Calibration:
        """Write files as :meth:`torchpare.quantization.Quantizer.export_model` does, which has the arguments."""
        tell("quant_export")
        return super().export_model(model_path, calibration_path, onnx_path, input_shape, device)

    def load_calibration_config(self, calibration_config: Calibration | str | os.PathLike[str]) -> None:
        """Take over the ranges of a calibration of any version; a dict, or a file."""
        super().load_calibration_config(load_calibration(calibration_config))

    def load_model_state_dict(self, state: Mapping[str, Any] | str | os.PathLike[str]) -> None:
        """Load a state that NNI's wrappers wrote; its ranges are taken over as well."""
        found = load_state(self.bound_model, state)
        if found.calibration:
            self.load_calibration_config(found.calibration)


class NaiveQuantizer(LegacyQuantizer, quantization.NaiveQuantizer):
    """As :class:`torchpare.quantization.NaiveQuantizer`, which has the arguments."""


class QAT_Quantizer(LegacyQuantizer, quantization.QATQuantizer):  # noqa: N801 - its name in NNI
    """As :class:`torchpare.quantization.QATQuantizer`, which has the arguments."""


class DoReFaQuantizer(LegacyQuantizer, quantization.DoReFaQuantizer):
    """As :class:`torchpare.quantization.DoReFaQuantizer`, which has the arguments."""


class BNNQuantizer(LegacyQuantizer, quantization.BNNQuantizer):
    """As :class:`torchpare.quantization.BNNQuantizer`, which has the arguments; bits are read as 1."""

    def __init__(self, model: nn.Module, config_list: Any, optimizer: Optimizer | None = None) -> None:
        super().__init__(model, signs(config_list), optimizer)


class LsqQuantizer(LegacyQuantizer, quantization.LsqQuantizer):
    """As :class:`torchpare.quantization.LsqQuantizer`, which has the arguments."""


class ObserverQuantizer(LegacyQuantizer, quantization.ObserverQuantizer):
    """As :class:`torchpare.quantization.ObserverQuantizer`, which has the arguments."""


def signs(config_list: Any) -> Any:
    """Entries whose numbers of bits are 1, which is what a sign has."""
    if not isinstance(config_list, list | tuple):
        return config_list
    entries = []
    for entry in config_list:
        if not isinstance(entry, Mapping) or not {"quant_bits", "quant_dtype"} & set(entry):
            entries.append(entry)
            continue
        if entry.get("quant_bits") != 1:
            tell("bnn")
        entries.append({key: value for key, value in entry.items() if key != "quant_dtype"} | {"quant_bits": 1})
    return entries
