"""What quantizers have learnt, as a calibration; and a calibration, taken over by quantizers.

A range stands under the keys of both versions of NNI (``tracked_min_activation`` and ``tracked_min_output``), scale and
zero point under the later version's. The range that is told is the one that the grid covers, from its lowest integer to
its highest, so that a runtime which works its scale out of the range comes to the same one.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.attach import FakeQuantize, quantizers_of
from torchpare.attach.reading import before_quantizer
from torchpare.errors import QuantizationError
from torchpare.files.calibration import Calibration, check_calibration, load_calibration

__all__ = ["apply_calibration", "calibration_of"]

_EARLIER = {"output": "activation"}
"""What the earlier version calls a type, where it has another word."""


def calibration_of(model: nn.Module) -> Calibration:
    """The calibration of a quantized model, by layer; of what is not calibrated yet only its number of bits."""
    found: Calibration = {}
    for path, layer, kind, quantizer in quantizers_of(model):
        own = found.setdefault(path, {})
        grid, earlier = quantizer.spec.grid, _EARLIER.get(kind, kind)
        own[f"{earlier}_bit"] = own[f"{kind}_bits"] = grid.bits
        if not (quantizer.knows_range or bool(quantizer.seen)):
            continue
        x = before_quantizer(layer, kind) if kind in layer.torchpare_quantized else torch.empty(0)
        scale, zero_point = quantizer.qparams(x)
        own[f"{kind}_scale"], own[f"{kind}_zero_point"] = scale.cpu().clone(), zero_point.cpu().clone()
        if not quantizer.on_grid:
            continue
        low, high = ((end - zero_point) * scale for end in (grid.qmin, grid.qmax))
        for name in dict.fromkeys((kind, earlier)):
            own[f"tracked_min_{name}"], own[f"tracked_max_{name}"] = float(low.min()), float(high.max())
            own[f"tracked_qmin_{name}"], own[f"tracked_qmax_{name}"] = grid.qmin, grid.qmax
    return found


def apply_calibration(model: nn.Module, given: Calibration | str | os.PathLike[str]) -> None:
    """Take a calibration over; see ``Quantizer.load_calibration_config``."""
    is_path = isinstance(given, str | os.PathLike)
    config = load_calibration(given) if is_path else check_calibration(given, "calibration_config")  # type: ignore[arg-type]
    places = {(path, kind): quantizer for path, _, kind, quantizer in quantizers_of(model)}
    layers = {path for path, _ in places}
    for path in config:
        if path not in layers:
            raise QuantizationError(f"the calibration speaks of {path!r}, which is not quantized in this model; "
                                    f"quantized are {', '.join(sorted(layers))}")  # fmt: skip
    wanted: list[tuple[FakeQuantize, Tensor | None, Any]] = []
    for (path, kind), quantizer in places.items():
        own, where = config.get(path, {}), f"{path!r}, {kind}"
        _check_bits(own, path, kind, quantizer)
        scale, zero_point = own.get(f"{kind}_scale"), own.get(f"{kind}_zero_point")
        low, high = (_first(own, f"tracked_{end}", kind) for end in ("min", "max"))
        if scale is not None and zero_point is not None:
            wanted.append((quantizer, *_checked(torch.as_tensor(scale), torch.as_tensor(zero_point), where, quantizer)))
        elif low is not None and high is not None:
            wanted.append((quantizer, None, _ends(low, high, where)))
    for quantizer, scale, rest in wanted:
        if quantizer.follows or not quantizer.on_grid:
            continue
        if scale is not None:
            quantizer.set_qparams(scale.to(quantizer.seen.device), rest.to(quantizer.seen.device))
        else:
            quantizer.set_range(*(end.to(quantizer.seen.device) for end in rest))
        quantizer.take_as_seen()


def _check_bits(own: dict[str, Any], path: str, kind: str, quantizer: FakeQuantize) -> None:
    for key in (f"{kind}_bits", f"{_EARLIER.get(kind, kind)}_bit"):
        if key in own and not torch.equal(
            torch.as_tensor(own[key]).flatten(), torch.tensor([quantizer.spec.grid.bits])
        ):
            bits = quantizer.spec.grid.bits
            raise QuantizationError(f"the calibration has {own[key]} bits for {path!r}[{key!r}], and the model's "
                                    f"quantizer {bits}: use the config_list it was made with")  # fmt: skip


def _checked(scale: Tensor, zero_point: Tensor, where: str, quantizer: FakeQuantize) -> tuple[Tensor, Tensor]:
    """A scale and a zero point that are some, in the shape that the quantizer's have."""
    grid = quantizer.spec.grid
    real = not scale.is_complex() and not zero_point.is_complex() and scale.shape == zero_point.shape
    inside = real and torch.equal(zero_point, zero_point.double().round().clamp(grid.qmin, grid.qmax).to(zero_point))
    if not inside or not bool((scale > 0).all() & scale.isfinite().all()):
        raise QuantizationError(f"the calibration's scale or zero point of {where}, is none: scales are above zero, "
                                f"zero points whole, from {grid.qmin} to {grid.qmax}, both of one shape")  # fmt: skip
    if quantizer.follows or not quantizer.on_grid:
        return scale, zero_point
    known = quantizer.qparams(torch.empty(0))[0].shape
    if scale.numel() != known.numel():
        raise QuantizationError(f"the calibration's scale of {where}, has the shape {tuple(scale.shape)}, and the "
                                f"quantizer's {tuple(known)}")  # fmt: skip
    return scale.reshape(known).float(), zero_point.reshape(known).to(torch.int32)


def _ends(low: Any, high: Any, where: str) -> tuple[Tensor, Tensor]:
    """The ends of a range that is one."""
    ends = [torch.as_tensor(end, dtype=torch.float64).flatten() for end in (low, high)]
    if not all(len(end) == 1 and bool(end.abs() < torch.finfo(torch.float32).max) for end in ends) or ends[0] > ends[1]:
        raise QuantizationError(f"the calibration's range of {where}, from {low} to {high}, is none: give two finite "
                                "numbers, the smaller one first")  # fmt: skip
    return ends[0].float().squeeze(), ends[1].float().squeeze()


def _first(own: dict[str, Any], key: str, kind: str) -> Any:
    for name in (kind, _EARLIER.get(kind, kind)):
        if f"{key}_{name}" in own:
            return own[f"{key}_{name}"]
    return None
