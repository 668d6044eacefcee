"""The small net in eight bits: calibrated as it is, and trained a little to bear it; both run in ONNX Runtime."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from digits import Digits, train
from torch import nn

from torchpare.quantization import ObserverQuantizer, QAT_Quantizer
from torchpare.runtimes import ModelSpeedupONNXRuntime, verify

__all__ = ["Int8", "to_int8"]

EVERYTHING: list[dict[str, Any]] = [{"quant_types": ["weight", "input"], "quant_bits": 8,
                                     "op_types": ["Conv2d", "Linear"]}]  # fmt: skip


@dataclass(frozen=True)
class Int8:
    """What ONNX Runtime computes with integers."""

    calibrated: float
    """Test accuracy without training."""
    trained: float
    """Test accuracy after an epoch of quantization-aware training."""
    file: Path
    """The latter as a file."""
    off: float
    """Of the latter's layers, the largest share of integers that are more than a step from PyTorch's."""


def to_int8(small: nn.Module, data: Digits, folder: Path, threads: int, generator: torch.Generator) -> Int8:
    """Quantize copies of a net, hand them to ONNX Runtime, and test what that computes."""
    batches = list(data.train_pictures[:256].split(64))
    found, runtime = [], None
    for epochs in (0, 1):
        model = copy.deepcopy(small)
        if epochs:
            quantizer: Any = QAT_Quantizer(model, EVERYTHING, dummy_input=batches[0])
            quantizer.compress()
            train(model, data, epochs, 0.005, generator, listener=quantizer)
        else:
            ObserverQuantizer(model, EVERYTHING, dummy_input=batches[0]).calibrate(batches)
        runtime = ModelSpeedupONNXRuntime(
            model.eval(), dummy_input=batches[0][:2], calib_data_loader=batches, threads=threads
        )
        runtime.compress()
        output, _ = runtime.inference(data.test_pictures)
        found.append(float((output.argmax(1) == data.test_digits).float().mean()))
    assert runtime is not None
    runtime.export_quantized_model(folder / "int8.onnx")
    layers = verify(runtime, data.test_pictures[:32]).layers
    off = max(1 - layer.within for layer in layers if layer.within is not None)
    return Int8(found[0], found[1], folder / "int8.onnx", off)
