"""calibration.pth: what quantizers learnt, as ``{layer: {"weight_bits": 8, "weight_scale": tensor, ...}}``.

The keys are those of NNI's files, of the earlier and the later form both, so that scripts of either find theirs. A file
is only ever read as tensors, numbers and plain containers: one that asks for code to be run is refused, not run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from torchpare.errors import FileError
from torchpare.files.atomic import atomic_write

__all__ = ["Calibration", "check_calibration", "load_calibration", "save_calibration"]

Calibration: TypeAlias = dict[str, dict[str, Any]]
"""By qualified layer name, numbers and tensors by key."""

_HUGE = 1e300
"""No range and no count comes near; whole numbers beyond do not become floating-point ones."""


def save_calibration(config: Calibration, path: str | os.PathLike[str]) -> None:
    """Write a calibration to a file that ``torch.load(path, weights_only=True)`` reads; it appears whole or not at all.

    Raises:
        FileError: the file cannot be written.
    """
    on_disk = {
        layer: {key: value.detach().cpu().clone() if isinstance(value, Tensor) else value for key, value in own.items()}
        for layer, own in config.items()
    }
    with atomic_write(path) as lent:
        torch.save(on_disk, lent)


def load_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read a file written by :func:`save_calibration` or by NNI.

    Raises:
        FileError: there is no such file, it is truncated or foreign, or it holds something else. No code that the file
            may bring is run.
    """
    if not Path(path).is_file():
        raise FileError(f"there is no calibration file {os.fspath(path)}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise FileError(f"{os.fspath(path)} is no calibration file: {type(error).__name__}: {error}") from error
    return check_calibration(content, f"calibration file {os.fspath(path)}")


def check_calibration(content: Any, what: str) -> Calibration:
    """A calibration whose form is right; whether it fits a model is for the quantizer.

    Raises:
        FileError: it is not numbers and tensors by key by layer; the message begins with ``what``.
    """
    layout = "{layer name: {'weight_bits': 8, 'tracked_max_input': 1.5, ...}}"
    if not isinstance(content, Mapping):
        raise FileError(f"{what} holds a {type(content).__name__}, not {layout}")
    for layer, own in content.items():
        if not isinstance(layer, str) or not isinstance(own, Mapping):
            raise FileError(f"{what} has {own!r} for {layer!r}; it should be {layout}")
        for key, value in own.items():
            if not isinstance(key, str) or not isinstance(value, int | float | Tensor):
                raise FileError(f"{what}: {layer}[{key!r}] is a {type(value).__name__}, not a number or a tensor")
            if isinstance(value, int | float) and not abs(value) < _HUGE:
                raise FileError(f"{what}: {layer}[{key!r}] is not a finite number")
            if isinstance(value, Tensor) and (value.layout != torch.strided or value.is_quantized or value.is_meta):
                raise FileError(f"{what}: {layer}[{key!r}] is not a plain dense tensor")
    return {layer: dict(own) for layer, own in content.items()}
