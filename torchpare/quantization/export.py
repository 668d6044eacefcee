"""A quantized model as files: ``model.pth``, ``calibration.pth`` and ONNX."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence

import torch
from torch import nn

from torchpare.attach import detach, detach_quantizers, plain_state_dict
from torchpare.errors import ExportError
from torchpare.files.atomic import atomic_write
from torchpare.files.calibration import Calibration, save_calibration
from torchpare.files.example import device_of, example_of
from torchpare.files.onnx import export_onnx

__all__ = ["export"]

Target = str | os.PathLike[str]


def export(
    model: nn.Module,
    calibration: Calibration,
    model_path: Target,
    calibration_path: Target | None,
    onnx_path: Target | None,
    input_shape: Sequence[int] | None,
    device: torch.device | str | None,
) -> None:
    """Write the files of :meth:`torchpare.quantization.Quantizer.export_model`."""
    example = None if input_shape is None else example_of(model, input_shape, device)
    if onnx_path is not None:  # first, since only this can fail: then no file is written
        if example is None:
            raise ExportError(
                f"onnx_path={os.fspath(onnx_path)!r} was given without input_shape, and a graph can only be recorded "
                "on an input: pass input_shape, such as [1, 3, 224, 224]"
            )
        baked = copy.deepcopy(model)
        detach_quantizers(baked, bake=True)
        detach(baked, bake=True)
        baked.to(device or device_of(model)).eval()
        export_onnx(baked, onnx_path, example)
    with atomic_write(model_path) as lent:
        torch.save(plain_state_dict(model), lent)
    if calibration_path is not None:
        save_calibration(calibration, calibration_path)
