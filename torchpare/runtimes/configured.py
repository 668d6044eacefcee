"""A plain model and a calibration: what a quantizer wrote down, put to use where the quantizer itself is gone.

The model is usually the one whose weights ``export_model`` wrote, so that they lie on the grids of the calibration
already and are read out exactly; others are rounded to those grids. A weight may have been rounded as a norm after it
scales it: then its scale is told for the scaled weight, and the norm is found as the quantizer found it.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.attach import detach, quantizable
from torchpare.attach.reading import fold_factor
from torchpare.config import output_layout
from torchpare.errors import QuantizationError
from torchpare.files.calibration import Calibration, check_calibration, load_calibration
from torchpare.numerics.affine import Grid, fake_quantize, scale_and_zero_point
from torchpare.quantization.folds import folds_of
from torchpare.runtimes.copied import copied_in_float32
from torchpare.runtimes.explicit import Explicit, FloatPlace, by_group, hang, in_few_bits, site_for
from torchpare.runtimes.grouped import Grouped
from torchpare.runtimes.integers import Stored, step_of, store

__all__ = ["configured"]


def configured(model: nn.Module, config: Calibration | str | os.PathLike[str], dummy_input: Any) -> Explicit:
    """Take a copy of a plain model and a calibration apart, as `explicit` does a quantized model.

    Args:
        model: without quantizers; it stays as it is.
        config: what ``export_model`` returned, or the path of its file, or NNI's.
        dummy_input: what norms are found with.

    Raises:
        QuantizationError: the calibration speaks of a layer that the model lacks.
        FileError: it is no calibration.
    """
    given = load_calibration(config) if isinstance(config, str | os.PathLike) else check_calibration(config, "config")
    twin = copied_in_float32(model).requires_grad_(False)
    detach(twin, bake=True)
    layers = dict(twin.named_modules())
    unknown = [path for path in given if path not in layers]
    if unknown:
        raise QuantizationError(f"config speaks of {unknown[0]!r}, and the model has no such layer: was it made from "
                                "this model?")  # fmt: skip
    made = Explicit(twin)
    targets: Any = {path: SimpleNamespace(module=layers[path]) for path in given}
    folds = folds_of(twin, targets, dummy_input)
    by_identity: dict[int, Stored | Grouped] = {}
    for path, own in given.items():
        for name in quantizable(layers[path]):
            _take_weight(made, by_identity, path, name, own, folds.get(path))
        for kind, earlier in (("input", "input"), ("output", "activation")):
            found = _activation(own, kind, earlier)
            if isinstance(found, str):
                made.floats.append(FloatPlace(f"{path}.{kind}", found))
            elif found is not None:
                hang(layers[path], kind, site_for(found))
    made.take(by_identity)
    return made


def _take_weight(
    made: Explicit, by_identity: dict[int, Stored | Grouped], path: str, name: str, own: dict[str, Any],
    norm: nn.Module | None,
) -> None:  # fmt: skip
    """Read one weight out in eight bits, or say why not; one that is on no grid yet is rounded first."""
    layer = made.module.get_submodule(path)
    bits, scale = own.get(f"{name}_bits", own.get(f"{name}_bit")), own.get(f"{name}_scale")
    parameter: Tensor = layer.get_parameter(name)
    if bits is None:
        return
    axis, _ = output_layout(layer)
    if not isinstance(scale, Tensor):
        made.floats.append(FloatPlace(f"{path}.{name}", "the calibration has no scale for it"))
        return
    found = in_few_bits(layer, parameter, scale, axis)
    if isinstance(found, str) and norm is not None:
        folded = store(parameter, (scale / fold_factor(layer, norm)).abs(), axis)
        found = folded if isinstance(folded, Stored) else found
    grouped = by_group(layer, scale)
    if isinstance(found, str) and (grouped or scale.dim() in (0, parameter.dim())):
        grid, zero_point = _grid(own, name, int(bits)), own.get(f"{name}_zero_point", torch.zeros(()))
        granules = parameter.unflatten(1, (scale.shape[1], -1)) if grouped else parameter
        parameter.copy_(fake_quantize(granules, scale, zero_point, grid).reshape(parameter.shape))
        found = in_few_bits(layer, parameter, scale, axis)
    if isinstance(found, str):
        made.floats.append(FloatPlace(f"{path}.{name}", found))
    else:
        by_identity[id(parameter)] = found


def _activation(own: dict[str, Any], kind: str, earlier: str) -> Any:
    """The grid of an input or output; why it has none in eight bits; None if it is not quantized."""
    bits = own.get(f"{kind}_bits", own.get(f"{earlier}_bit"))
    if bits is None or int(bits) > 16:
        return None
    ranged = any(f"tracked_min_{name}" in own for name in (kind, earlier))
    if not ranged:
        return "the calibration has no range for it: it was not calibrated, or its levels are no grid, such as signs"
    grid = _grid(own, kind, int(bits))
    scale, zero_point = own.get(f"{kind}_scale"), own.get(f"{kind}_zero_point")
    if isinstance(scale, Tensor) and isinstance(zero_point, Tensor):
        return step_of(scale, zero_point, grid)
    ends = [own.get(f"tracked_{end}_{kind}", own.get(f"tracked_{end}_{earlier}")) for end in ("min", "max")]
    low, high = (torch.tensor(float(end)) for end in ends)  # type: ignore[arg-type]
    return step_of(*scale_and_zero_point(low, high, grid), grid)


def _grid(own: dict[str, Any], kind: str, bits: int) -> Grid:
    """The integers of a tensor: from its lowest to its highest, or, of NNI's files, from zero up."""
    low = int(own.get(f"tracked_qmin_{kind}", 0))
    signed = low < 0
    return Grid(bits, signed=signed, narrow=bits > 1 and low in (1, 1 - 2 ** (bits - 1)))
