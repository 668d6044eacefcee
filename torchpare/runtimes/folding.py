"""Batch norms go into the layers before them: into float weights, or, of weights in eight bits, into their scales.

A norm as it evaluates multiplies each channel by a factor and adds a shift. A stored weight keeps its integers, their
scales take the factor: nothing is rounded anew, so this is exact also where the quantizer knew nothing of the norm, and
where it rounded the weight as folded the grid that it meant comes out.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from torchpare.runtimes.explicit import FloatPlace
from torchpare.runtimes.integers import Stored, stored_levels
from torchpare.runtimes.operators import constant, owner, put

__all__ = ["WEIGHTED", "fold_norms", "weight_axis"]

_aten = torch.ops.aten

WEIGHTED: dict[Any, int] = {
    _aten.conv1d.default: 0,
    _aten.conv2d.default: 0,
    _aten.conv3d.default: 0,
    _aten.conv_transpose1d.default: 1,
    _aten.conv_transpose2d.input: 1,
    _aten.conv_transpose3d.input: 1,
    _aten.linear.default: 0,
}
"""Operators with a weight as their second and a bias as their third argument, and where the weight's outputs lie."""

_GROUPS_OF_TRANSPOSED = 6
_NORMS: tuple[Any, ...] = (_aten._native_batch_norm_legit_no_training.default, _aten.batch_norm.default)  # noqa: SLF001 - its name


def weight_axis(node: fx.Node) -> int | None:
    """Where the output channels of a node's weight lie; None if they lie along no single axis, or there is no weight.

    A grouped transposed convolution has the channels of each group along a different part of its weight.
    """
    axis = WEIGHTED.get(node.target)
    grouped = axis == 1 and len(node.args) > _GROUPS_OF_TRANSPOSED and node.args[_GROUPS_OF_TRANSPOSED] != 1
    return None if grouped else axis


def fold_norms(module: fx.GraphModule, stored: dict[str, Stored]) -> list[FloatPlace]:
    """Fold every batch norm that is the only reader of a layer with a constant weight.

    Args:
        module: edited in place.
        stored: the weights in eight bits by the names under which the graph reads them; folded ones are added.

    Returns:
        The norms that stay behind a stored weight, and why.
    """
    stay: list[FloatPlace] = []
    for norm in [node for node in module.graph.nodes if node.target in _NORMS]:
        layer = norm.all_input_nodes[0]
        if not isinstance(layer, fx.Node):
            continue
        if layer.target not in WEIGHTED:
            stay.append(FloatPlace(owner(norm), f"a batch norm after {layer.name}, into which it cannot be folded"))
            continue
        reason = _fold(module, stored, layer, norm)
        if reason is not None:
            stay.append(FloatPlace(owner(norm), reason))
    module.graph.eliminate_dead_code()
    return stay


def _fold(module: fx.GraphModule, stored: dict[str, Stored], layer: fx.Node, norm: fx.Node) -> str | None:
    """Fold one norm; why not, where it stays."""
    axis = weight_axis(layer)
    source = layer.args[1]
    weight = constant(module, source)
    if len(layer.users) > 1:
        return f"what {owner(layer) or layer.name} returns is read before the norm too"
    if not _has_channels_second(layer, weight):
        return f"its channels are not the outputs of {owner(layer) or layer.name}, which lie on another axis"
    if weight is None or not isinstance(source, fx.Node) or (axis is None and str(source.target) in stored):
        return f"the weight of {owner(layer) or layer.name} is no constant with its channels along one axis"
    factor, shift = _affine(module, norm)
    bias = constant(module, layer.args[2]) if len(layer.args) > 2 else None
    if bias is None and len(layer.args) > 2 and layer.args[2] is not None:
        return f"the bias of {owner(layer) or layer.name} is no constant"
    name = str(source.target)
    value = weight * _spread(factor, layer, weight)
    held = stored.get(name)
    if held is not None and axis is not None:
        made = _scaled(held, factor, axis)
        if isinstance(made, str):
            return made
        held, value = made, made.value
    with module.graph.inserting_before(layer):
        target = put(module, name, value)
        new_weight = module.graph.get_attr(target)
        new_bias = module.graph.get_attr(
            put(module, f"{name.rpartition('.')[0]}.bias".lstrip("."), shift if bias is None else bias * factor + shift)
        )
    if held is not None:
        stored[target] = held
    layer.args = (*layer.args[:1], new_weight, new_bias, *layer.args[3:])
    _take_over(norm, layer)
    return None


def _has_channels_second(layer: fx.Node, weight: Tensor | None) -> bool:
    """Whether a layer's outputs lie on axis 1 of what it returns, where a norm looks for its channels.

    Of a linear layer that is called with more than rows, and of a convolution without a batch, something else does.
    """
    rank = layer.meta["val"].dim()
    return rank == 2 if layer.target is _aten.linear.default else weight is None or rank == weight.dim()


def _spread(factor: Tensor, layer: fx.Node, weight: Tensor) -> Tensor:
    """A factor for each output channel, where the channels lie in a weight."""
    axis = weight_axis(layer)
    if axis is not None:
        return factor.reshape([-1 if at == axis else 1 for at in range(weight.dim())])
    groups: Any = layer.args[_GROUPS_OF_TRANSPOSED]
    rows = factor.reshape(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
    return rows.reshape([*rows.shape, *(1 for _ in weight.shape[2:])])


def _affine(module: fx.GraphModule, norm: fx.Node) -> tuple[Tensor, Tensor]:
    """What a norm multiplies each channel by, and what it adds then."""
    weight, bias, mean, variance = (constant(module, argument) for argument in tuple(norm.args)[1:5])
    assert mean is not None
    assert variance is not None
    epsilon: Any = norm.args[6 if norm.target is _NORMS[0] else 7]
    factor = (variance.double() + epsilon).rsqrt()
    factor = factor if weight is None else factor * weight.double()
    shift = -mean.double() * factor
    return factor.float(), (shift if bias is None else shift + bias.double()).float()


def _scaled(held: Stored, factor: Tensor, axis: int) -> Stored | str:
    """A stored weight times a factor for each channel: the scales take its size, the levels its sign."""
    along = [-1 if at == axis else 1 for at in range(held.codes.dim())]
    levels = held.levels * factor.sign().long().reshape(along)
    scale = (held.scale.expand(len(factor)) * factor.abs()).clamp(min=torch.finfo(torch.float32).tiny)
    return stored_levels(levels, torch.where(factor == 0, 1.0, scale), axis)


def _take_over(norm: fx.Node, layer: fx.Node) -> None:
    """Who read the norm reads the layer."""
    if norm.target is _NORMS[0]:
        for reader in list(norm.users):
            if reader.target is operator.getitem and reader.args[1] == 0:
                reader.replace_all_uses_with(layer)
    else:
        norm.replace_all_uses_with(layer)
