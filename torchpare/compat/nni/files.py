"""Files that NNI wrote, read as tensors and plain containers only: masks, states with wrappers' names, calibrations.

A state that was saved while NNI's wrappers stood in the model has their names: ``conv1.module.weight``, the dense
weight as ``conv1.module.old_weight`` or ``conv1.weight``, masks as ``conv1.weight_mask``, and the quantizers' numbers
beside. Each is told by its name, and goes where it belongs here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.attach import attach_masks
from torchpare.errors import CheckpointError
from torchpare.files.calibration import Calibration, check_calibration
from torchpare.files.masks import fit_masks, load_masks
from torchpare.types import Masks

__all__ = ["OldState", "load_calibration", "load_state", "read_masks", "read_state"]

_QUANTIZERS = (
    "zero_point", "scale", "ema_decay", "weight_bit", "input_bit", "output_bit", "activation_bit", "weight_bits",
    "input_bits", "output_bits", "weight_scale", "weight_zero_point", "input_scale", "input_zero_point",
    "output_scale", "output_zero_point", "weight_qmin", "weight_qmax", "input_qmin", "input_qmax", "output_qmin",
    "output_qmax", "init",
)  # fmt: skip
_CALIBRATED = ("weight_bit", "input_bit", "activation_bit", "weight_bits", "input_bits", "output_bits")
_STEPS = ("steps",)


@dataclass(frozen=True)
class OldState:
    """What a state dict of NNI holds, under the names of the plain model."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    """Parameters and buffers, dense where the file has them dense."""

    masks: Masks = field(default_factory=dict)
    """Masks by layer and parameter; empty if the file has none."""

    calibration: Calibration = field(default_factory=dict)
    """Bits and ranges by layer, of a model that was quantized; empty if it was not."""


def read_state(state: Mapping[str, Any] | str | os.PathLike[str], model: nn.Module) -> OldState:
    """Read a state dict that NNI wrote, with its wrappers' names or without.

    Args:
        state: the file, or what is in it.
        model: the plain model it belongs to, which tells its own names from those of wrappers; only read.

    Raises:
        CheckpointError: it is no state dict. No code that the file may bring is run.
    """
    given = _read(state) if isinstance(state, str | os.PathLike) else state
    what = os.fspath(state) if isinstance(state, str | os.PathLike) else "the state"
    if not isinstance(given, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in given.items()
    ):
        raise CheckpointError(f"{what} is no state dict: that has a tensor for each name")
    layers = {name for name, _ in model.named_modules(remove_duplicate=False)}
    known = {name for name, _ in (*model.named_parameters(remove_duplicate=False), *model.named_buffers())}
    found = OldState()
    exact = {key: value for key, value in given.items() if key in known}
    dense: dict[str, Tensor] = {}
    for key, value in given.items():
        if key in exact:
            continue
        path, _, name = key.rpartition(".")
        path = path if path in layers else path.removesuffix("module").removesuffix(".")
        plain = f"{path}.{name}" if path else name
        if name == "old_weight":
            dense[f"{path}.weight" if path else "weight"] = value
        elif (masked := _masked(name)) is not None and path in layers:
            found.masks.setdefault(path, {})[masked] = value
        elif plain in known:
            found.weights[plain] = value
        elif _is_quantizers(name):
            if path in layers and (name in _CALIBRATED or name.startswith("tracked_")):
                found.calibration.setdefault(path, {})[name] = value
        elif key not in _STEPS:
            raise CheckpointError(f"{what} has {key!r}, and {type(model).__name__} no such parameter or buffer, "
                                  "nor is it a name that NNI's wrappers had")  # fmt: skip
    # The masked or quantized weight stands beside the dense one, which says more.
    return OldState(
        {**found.weights, **exact, **dense}, fit_masks(found.masks, model) if found.masks else {}, found.calibration
    )


def load_state(model: nn.Module, state: Mapping[str, Any] | str | os.PathLike[str]) -> OldState:
    """Load a state that NNI wrote, with its wrappers' names or without; masks in it are put on the model.

    Args:
        model: plain or masked; its parameters are written in place.
        state: the file, or what is in it.

    Returns:
        What was read. Its ``calibration`` is for a quantizer's ``load_calibration_config``.

    Raises:
        CheckpointError: it is no state of this model, which is unchanged.
        MaskError: masks that do not fit the model, which is unchanged.
    """
    found = read_state(state, model)
    own = model.state_dict()
    beside = {key for key in own if key.endswith("_mask") or "_quantizer." in key}
    missing = [key for key in own if key not in found.weights and key not in beside]
    if missing:
        raise CheckpointError(f"the state has no {missing[0]!r}, which {type(model).__name__} needs"
                              + (f", nor {len(missing) - 1} others" if len(missing) > 1 else ""))  # fmt: skip
    for key, value in found.weights.items():
        if key in own and value.shape != own[key].shape and key not in beside:
            raise CheckpointError(f"the state's {key!r} has the shape {tuple(value.shape)}, and the model's "
                                  f"{tuple(own[key].shape)}")  # fmt: skip
    attach_masks(model, found.masks)
    model.load_state_dict(found.weights, strict=False)
    return found


def read_masks(path: str | os.PathLike[str], model: nn.Module | None = None) -> Masks:
    """Masks from a file of any version: ``mask.pth``, or, with the model, a state that wrappers wrote.

    Raises:
        MaskFileError: it is no mask file. No code that the file may bring is run.
        CheckpointError: it is a state, and no state of this model.
    """
    if model is not None and _is_state(path):
        return read_state(path, model).masks
    return load_masks(path)


def load_calibration(given: Mapping[str, Any] | str | os.PathLike[str]) -> Calibration:
    """A calibration of any version, in the form of NNI 2.5 to 2.10, which quantizers here take over.

    Args:
        given: the file, or what is in it. That of 3.0 has a dict for each of ``weight``, ``_input_0``, ``_output_0``.

    Raises:
        FileError: it is not a calibration. No code that the file may bring is run.
    """
    content = _read(given) if isinstance(given, str | os.PathLike) else given
    what = f"calibration file {os.fspath(given)}" if isinstance(given, str | os.PathLike) else "calibration_config"
    if isinstance(content, Mapping):
        content = {name: _flat(own) if isinstance(own, Mapping) else own for name, own in content.items()}
    return check_calibration(content, what)


def _flat(own: Mapping[str, Any]) -> dict[str, Any]:
    """A layer's numbers, those of targets by name: ``{"weight": {"scale": s}}`` is ``weight_scale``."""
    flat: dict[str, Any] = {}
    for target, numbers in own.items():
        if not isinstance(numbers, Mapping):
            flat[target] = numbers
            continue
        kind = "input" if target.startswith("_input_") else "output" if target.startswith("_output_") else target
        names = {"scale": f"{kind}_scale", "zero_point": f"{kind}_zero_point", "quant_bits": f"{kind}_bits",
                 "tracked_max": f"tracked_max_{kind}", "tracked_min": f"tracked_min_{kind}"}  # fmt: skip
        flat.update({names[key]: value for key, value in numbers.items() if key in names and value is not None})
    return flat


def _masked(name: str) -> str | None:
    for prefix, suffix in (("_nni_", "_mask"), ("", "_mask")):
        if name.startswith(prefix) and name.endswith(suffix):
            return name.removeprefix(prefix).removesuffix(suffix)
    return None


def _is_quantizers(name: str) -> bool:
    return name in _QUANTIZERS or name.startswith("tracked_")


def _is_state(path: str | os.PathLike[str]) -> bool:
    if not Path(path).is_file():
        return False
    try:
        content = torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # noqa: BLE001 - a damaged file can raise almost anything; who reads it next says what is wrong
        return False
    return isinstance(content, Mapping) and any(isinstance(value, Tensor) for value in content.values())


def _read(path: str | os.PathLike[str]) -> Any:
    if not Path(path).is_file():
        raise CheckpointError(f"there is no file {os.fspath(path)}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = str(error).partition("\n")[0].partition(". ")[0][:200]
        raise CheckpointError(f"{os.fspath(path)} cannot be read; nothing in it was run ({type(error).__name__}: "
                              f"{first})") from error  # fmt: skip
