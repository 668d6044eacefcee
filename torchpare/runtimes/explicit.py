"""A compressed model with nothing attached: weights read out as integers, activations rounded by plain operators."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.attach import CompressedLayer, FakeQuantize, detach, detach_quantizers, quantizers_of
from torchpare.attach.reading import before_quantizer, fold_factor
from torchpare.config import output_layout
from torchpare.runtimes.copied import copied_in_float32
from torchpare.runtimes.grouped import Grouped, group
from torchpare.runtimes.integers import Step, Stored, step_of, store
from torchpare.runtimes.operators import rounded

__all__ = ["SITE", "Explicit", "FloatPlace", "by_group", "explicit", "hang", "in_few_bits", "site_for"]

SITE = "torchpare_site"
"""The name of the modules that round, by which the recorded program knows them again."""


@dataclass(frozen=True)
class FloatPlace:
    """Something that is not computed, or not stored, in eight bits."""

    name: str
    """Of the tensor, such as "conv1.weight", or of the layer."""

    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass
class Explicit:
    """What is left of a compressed model when its quantizers are off."""

    module: nn.Module
    """A copy on the CPU, in float32 and evaluation mode, of plain classes; weights lie on their grids, activations are
    rounded."""

    stored: dict[str, Stored] = field(default_factory=dict)
    """The weights in eight bits, by every name that they have."""

    grouped: dict[str, Grouped] = field(default_factory=dict)
    """The weights of linear layers with a scale for each group, by every name that they have."""

    floats: list[FloatPlace] = field(default_factory=list)

    def take(self, weights: dict[int, Stored | Grouped]) -> None:
        """Enter weights, known by the identity of their parameters, under their names."""
        for name, value in self.module.named_parameters(remove_duplicate=False):
            held = weights.get(id(value))
            if isinstance(held, Grouped):
                self.grouped[name] = held
            elif held is not None:
                self.stored[name] = held


class _Site(nn.Module):
    """Rounds what a layer is called with or returns."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """The tensor on its grid."""
        return rounded(x, self.step)


def explicit(model: nn.Module) -> Explicit:
    """Take a copy of a model apart: masks and weights' grids written into its parameters, activations rounded openly.

    The model itself stays as it is. Quantizers that are not active yet (their first step has not come) stay out.

    Raises:
        QuantizationError: an activation's scale is none.
    """
    twin = copied_in_float32(model).requires_grad_(False)
    made = Explicit(twin)
    by_identity: dict[int, Stored | Grouped] = {}
    activations: list[tuple[CompressedLayer, str, nn.Module]] = []
    for path, layer, kind, quantizer in list(quantizers_of(twin)):
        if not quantizer.active:
            made.floats.append(FloatPlace(f"{path}.{kind}", "its quantizer has seen no data, or waits for its first "
                                                            "step"))  # fmt: skip
        elif kind in ("input", "output"):
            activations.append((layer, kind, _rounding(path, kind, quantizer, made.floats)))
        else:
            found = _stored_weight(layer, kind, quantizer)
            if isinstance(found, str):
                made.floats.append(FloatPlace(f"{path}.{kind}", found))
            else:
                by_identity[id(layer._parameters[kind])] = found  # noqa: SLF001 - reading it would quantize it
    detach_quantizers(twin, bake=True)
    detach(twin, bake=True)
    for layer, kind, rounding in activations:
        hang(layer, kind, rounding)
    made.take(by_identity)
    return made


def site_for(step: Step) -> nn.Module:
    """What rounds an activation to a grid."""
    return _Site(step)


def _stored_weight(layer: CompressedLayer, name: str, quantizer: FakeQuantize) -> Stored | Grouped | str:
    """A weight as the layer uses it, in eight bits. One quantized as a folded norm scales it has its scale too."""
    axis, _ = output_layout(layer)
    with torch.no_grad():
        value = getattr(layer, name)
        scale = quantizer.qparams(before_quantizer(layer, name))[0]
        if layer.torchpare_fold and name == "weight":
            if scale.dim() > value.dim():
                return store(value, scale, axis)
            scale = (scale / fold_factor(layer, layer.torchpare_fold[0])).abs()
    return in_few_bits(layer, value, scale, axis)


def in_few_bits(layer: nn.Module, value: Tensor, scale: Tensor, axis: int) -> Stored | Grouped | str:
    """A weight as integers, with a scale for each channel or, of linear layers, for each group; or why that cannot be.

    Args:
        layer: whose weight it is.
        value: as the layer uses it.
        scale: as a quantizer has it: of the weight's rank, or, of groups, ``(O, groups, 1)``.
        axis: where the output channels lie.
    """
    if by_group(layer, scale):
        return group(value, scale.squeeze(2))
    return store(value, scale, axis)


def by_group(layer: nn.Module, scale: Tensor) -> bool:
    """Whether a scale is that of groups of a linear layer's weights, ``(O, groups, 1)``."""
    if not isinstance(layer, nn.Linear) or scale.dim() != 3 or not scale.numel():
        return False
    return scale.shape[0] == layer.out_features and scale.shape[2] == 1 and layer.in_features % scale.shape[1] == 0


def _rounding(path: str, kind: str, quantizer: FakeQuantize, floats: list[FloatPlace]) -> nn.Module:
    """What rounds an activation: a site, or the quantizer's own arithmetic where a site cannot say it."""
    found: Step | str = "levels that are no multiples of a step, such as signs: computed as the quantizer does"
    if quantizer.on_grid:
        found = step_of(*quantizer.qparams(torch.empty(0)), quantizer.spec.grid)
    if isinstance(found, str):
        floats.append(FloatPlace(f"{path}.{kind}", found))
        return copy.deepcopy(quantizer)
    return _Site(found)


def hang(layer: nn.Module, kind: str, rounding: nn.Module) -> None:
    """Call a module on the floating-point tensors that a layer is given by position, or on the first it returns."""
    layer.add_module(f"{SITE}_{kind}", rounding)

    def through(values: tuple[Any, ...]) -> tuple[Any, ...]:
        made: dict[int, Tensor] = {}  # one tensor given twice stays one: attention asks whether its query is its key
        for value in values:
            if isinstance(value, Tensor) and value.is_floating_point() and id(value) not in made:
                made[id(value)] = rounding(value)
        return tuple(made.get(id(value), value) for value in values)

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        del module
        return through(args)

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        del module, args
        if isinstance(output, tuple):
            head, rest = through(output[:1]), output[1:]
            return type(output)(*head, *rest) if hasattr(output, "_fields") else (*head, *rest)
        return through((output,))[0]

    if kind == "input":
        layer.register_forward_pre_hook(before)
    else:
        layer.register_forward_hook(after)
