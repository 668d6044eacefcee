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
        own = config.get(path, {})
        _check_bits(own, path, kind, quantizer)
        scale, zero_point = own.get(f"{kind}_scale"), own.get(f"{kind}_zero_point")
        if isinstance(scale, Tensor) and isinstance(zero_point, Tensor):
            _check_numbers(scale, zero_point, path, kind, quantizer)
            wanted.append((quantizer, scale, zero_point))
            continue
        low, high = (_first(own, f"tracked_{end}", kind) for end in ("min", "max"))
        if low is not None and high is not None:
            wanted.append((quantizer, None, (low, high)))
    for quantizer, scale, rest in wanted:
        if quantizer.follows or not quantizer.on_grid:
            continue
        if scale is not None:
            quantizer.set_qparams(scale.to(quantizer.seen.device), rest.to(quantizer.seen.device))
        else:
            quantizer.set_range(*(torch.tensor(float(end), device=quantizer.seen.device) for end in rest))
        quantizer.take_as_seen()


def _check_bits(own: dict[str, Any], path: str, kind: str, quantizer: FakeQuantize) -> None:
    for key in (f"{kind}_bits", f"{_EARLIER.get(kind, kind)}_bit"):
        if key in own and own[key] != quantizer.spec.grid.bits:
            bits = quantizer.spec.grid.bits
            raise QuantizationError(f"the calibration has {own[key]} bits for {path!r}[{key!r}], and the model's "
                                    f"quantizer {bits}: use the config_list it was made with")  # fmt: skip


def _check_numbers(scale: Tensor, zero_point: Tensor, path: str, kind: str, quantizer: FakeQuantize) -> None:
    whole = zero_point.is_floating_point() and not torch.equal(zero_point, zero_point.round())
    if not bool((scale > 0).all() & scale.isfinite().all()) or whole or scale.shape != zero_point.shape:
        raise QuantizationError(f"the calibration's scale or zero point of {path!r}, {kind}, is none: scales are above "
                                "zero, zero points whole, both of one shape")  # fmt: skip
    if not quantizer.follows and quantizer.on_grid:
        known = quantizer.qparams(torch.empty(0))[0].shape
        if scale.shape != known:
            raise QuantizationError(f"the calibration's scale of {path!r}, {kind}, has the shape {tuple(scale.shape)}, "
                                    f"and the quantizer's {tuple(known)}")  # fmt: skip


def _first(own: dict[str, Any], key: str, kind: str) -> float | None:
    for name in (kind, _EARLIER.get(kind, kind)):
        if f"{key}_{name}" in own:
            return float(own[f"{key}_{name}"])
    return None
