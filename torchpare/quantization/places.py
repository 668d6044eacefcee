"""Where quantizers go: the weights and activations that a ``config_list`` selects, checked before any is touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from torchpare.attach.quantized import check_quantizable, quantizable
from torchpare.attach.reading import ACTIVATIONS, QUANTIZER
from torchpare.config import QuantSpec, Target, output_layout
from torchpare.config.quantization import Observer, QuantType
from torchpare.errors import ConfigError, QuantizationError

__all__ = ["Place", "activation_places", "check_observer", "evaluating", "weight_places"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


@dataclass(frozen=True)
class Place:
    """A tensor to quantize, and how."""

    name: str
    """Of the tensor: "conv1.weight", "conv1.output"."""

    target: Target
    kind: str
    """The parameter's name, "input" or "output"."""

    spec: QuantSpec
    holders: tuple[tuple[nn.Module, str], ...]
    """The layers that carry the quantizer, and what it is to them; several, where a parameter is shared."""

    axis: int = 0
    """Of a weight, where its output channels lie."""

    @property
    def parameter(self) -> nn.Parameter:
        """The weight itself, dense."""
        layer, key = self.holders[0]
        parameter = layer._parameters[key]  # noqa: SLF001 - reading the attribute would mask it
        assert parameter is not None
        return parameter

    @property
    def layer(self) -> nn.Module:
        """The layer that carries the quantizer."""
        return self.holders[0][0]


def weight_places(
    model: nn.Module, targets: Mapping[str, Target], specs: Mapping[str, Mapping[str, QuantSpec]]
) -> list[Place]:
    """The weights to quantize. A parameter that layers share is quantized in all of them, as the last entry has it.

    Raises:
        ConfigError: a layer has no weight, or one that does not divide into groups.
        QuantizationError: a layer cannot carry a quantizer.
    """
    places: dict[int, Place] = {}
    for name, target in targets.items():
        spec = specs[name].get("weight")
        if spec is None:
            continue
        owners = [(name, target.module)]
        if isinstance(target.module, nn.MultiheadAttention):
            owners.append((f"{name}.out_proj", target.module.out_proj))
        found = [(path, owner, key) for path, owner in owners for key in quantizable(owner)]
        if not found:
            made = "take its parametrization off first" if hasattr(target.module, "parametrizations") else "exclude it"
            raise ConfigError(f"{name}, a {target.type}, has no weight to quantize: leave 'weight' out of its "
                              f"'quant_types', or {made}")  # fmt: skip
        for path, owner, key in found:
            _check_made(owner, path, key)
            parameter = owner._parameters[key]  # noqa: SLF001 - reading the attribute would mask it
            holders = tuple(_holders(model, parameter))
            axis, _ = output_layout(owner)
            place = Place(f"{path}.{key}", target, key, spec, holders, axis)
            _check_weight(place)
            places[id(parameter)] = place
    return list(places.values())


def activation_places(
    model: nn.Module,
    targets: Mapping[str, Target],
    folded: Mapping[str, nn.Module],
    specs: Mapping[str, Mapping[str, QuantSpec]],
) -> list[Place]:
    """The inputs and outputs to quantize; the output of a layer whose batch norm is folded is that of the norm.

    Raises:
        ConfigError: a layer is a container, whose children are all called in turn.
        QuantizationError: a layer cannot carry a quantizer.
    """
    names = {id(module): name for name, module in model.named_modules()}
    places = []
    for name, target in targets.items():
        for kind, spec in specs[name].items():
            if isinstance(target.module, _CONTAINERS):
                raise ConfigError(f"{name}, a {target.type}, takes every child for a layer of its own: quantize the "
                                  "input of its first layer, or the output of its last")  # fmt: skip
            layer = folded.get(name, target.module) if kind == "output" else target.module
            check_quantizable(layer, name, ACTIVATIONS[kind])
            places.append(Place(f"{names[id(layer)]}.{kind}", target, kind, spec, ((layer, kind),)))
    return places


def check_observer(place: Place, known: Mapping[QuantType, tuple[Observer, ...]], algorithm: str) -> None:
    """Refuse an ``observer`` that the algorithm would not heed.

    Raises:
        ConfigError: the entry asks for one that is not among ``known``.
    """
    kind: Any = place.kind if place.kind in ACTIVATIONS else "weight"
    asked, can = place.target.entry.observer.get(kind), known.get(kind, ())
    if asked is not None and asked not in can:
        ways = f"only by {' or '.join(map(repr, can))}" if can else "by no observer"
        raise ConfigError(
            f"{place.name}: 'observer' is {asked!r}; {algorithm} finds the grid of {kind!r} {ways}: leave it out, or "
            "take ObserverQuantizer"
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; the modes of all its modules come back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _holders(model: nn.Module, parameter: nn.Parameter | None) -> Iterator[tuple[nn.Module, str]]:
    for module in model.modules():
        for key, own in module._parameters.items():  # noqa: SLF001 - to tell parameters by identity
            if own is not None and own is parameter:
                yield module, key


def _check_made(layer: nn.Module, path: str, key: str) -> None:
    """Refuse what is no weight, but that of which one is made at each call."""
    weight, _, part = key.rpartition("_")
    normed = part in ("g", "v") or (part == "orig" and f"{weight}_u" in layer._buffers)  # noqa: SLF001
    if normed and weight not in layer._parameters and isinstance(getattr(layer, weight, None), Tensor):  # noqa: SLF001
        raise QuantizationError(f"{path}.{weight} is made of {path}.{key} at each call, so that rounding it would not "
                                "put it on a grid: take the weight or spectral norm off first")  # fmt: skip


def _check_weight(place: Place) -> None:
    for layer, key in place.holders:
        check_quantizable(layer, place.name, key + QUANTIZER)
    if isinstance(place.parameter, nn.UninitializedParameter):
        raise QuantizationError(f"{place.name} has no shape yet: run the model once before quantizing it")
    if place.spec.granularity == "group":
        shape = place.parameter.shape
        each = place.parameter[0].numel() if place.axis == 0 and shape[0] else 0
        if place.axis != 0 or each % place.spec.group_size:
            size = place.spec.group_size
            raise ConfigError(f"{place.name}, of shape {tuple(shape)}, does not divide into groups of {size}: each of "
                              f"its output channels holds {each} weights in a row")  # fmt: skip
