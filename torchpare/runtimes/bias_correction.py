"""Biases that make up for what rounding adds to a layer's mean result.

Rounded weights meet inputs whose mean is not zero, so that a channel's results are off by a constant besides the noise.
Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2, in the
empirical form of their appendix D: layer by layer in the order of execution, on what the layers before, corrected
already, hand on. A few samples tell a mean badly: one that chance may have made is left alone, others are shrunk.

What lies along the first axis of the input need not be samples: in attention with the sequence first it is tokens, and
each has seen the others. It is tried out which results a change of one row of the input reaches (`_places_of_samples`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from torchpare.runtimes.asked import batches_of
from torchpare.runtimes.inputs import computed, in_order
from torchpare.runtimes.operators import constant, put
from torchpare.runtimes.placing import chain_end

__all__ = ["KeepsSome", "as_it_is", "correct_biases"]

_KEPT = 16
"""How many samples are enough to tell means by: they go through the program side by side."""

_CHANCE = 8.0
"""How much larger than its variance over samples the square of a mean has to be: 2.8 standard errors."""

_Layout = tuple[int, bool]
"""Along which axis of a result its samples lie, and whether what else is on that axis lies within each of them."""

_LEAST = 0.1
"""The share of results that an activation function hands on, below which a channel is left alone."""


class KeepsSome:
    """Calibration batches that may be gone through once, of which the first stay in ``kept``."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches
        self._samples = 0
        self.kept: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        """All of them."""
        for batch in batches_of(self._batches):
            if self._samples < _KEPT:
                self.kept.append(batch)
                self._samples += _size(tree_leaves(batch))
            yield batch


def as_it_is(module: fx.GraphModule) -> fx.GraphModule:
    """A copy of a graph that stays as it is now; the two share their tensors."""
    graph = fx.Graph()
    graph.graph_copy(module.graph, {})
    return fx.GraphModule(module, graph)


def correct_biases(
    module: fx.GraphModule,
    original: fx.GraphModule,
    weights: Mapping[str, Tensor],
    layers: Collection[fx.Node],
    example: Any,
    batches: Sequence[Any],
) -> None:
    """Give layers biases with which their results have the mean that they have in float.

    Args:
        module: with roundings, edited in place.
        original: without; its nodes have the same names.
        weights: what rounded weights come to, by the names under which the graph reads them.
        layers: the nodes of layers that integer kernels compute; those without a bias stay as they are.
        example: the input that the module was recorded on.
        batches: a few inputs in that form.
    """
    biased = [node for node in module.graph.nodes if node in layers and _bias(module, node) is not None]
    if not biased:
        return
    leaves = [in_order(example, computed(batch)) for batch in batches]
    windows = {layer.name: constant(module, layer.args[1]).dim() - 2 for layer in biased}  # type: ignore[union-attr] - a stored weight is one
    floats = [_Walk(original, given, {}) for given in leaves]
    rounded = [_Walk(module, given, weights) for given in leaves]
    with torch.no_grad():
        places = _places_of_samples(original, max(leaves, key=_size), windows)
        sizes = [1 if places is None else _size(given) for given in leaves]
        for layer in biased:
            wanted, made = ([walk.until(layer.name) for walk in walks] for walks in (floats, rounded))
            window = windows[layer.name]
            axis = made[0].dim() - 1 - window
            low, high = _open_range(layer)
            place = (0, True) if places is None else places[layer.name]
            parts = [
                _off(_rows(one, axis, place, size), _rows(other, axis, place, size), low, high)
                for one, other, size in zip(wanted, made, sizes, strict=True)
            ]
            shift = _shift(torch.cat([off for off, _ in parts]), torch.cat([shows for _, shows in parts]))
            _replace_bias(module, layer, _bias(module, layer) + shift)
            for walk in rounded:
                walk.change(layer, shift.view(-1, *[1] * window))


class _Walk(fx.Interpreter):
    """One input on its way through a graph, node by node."""

    def __init__(self, module: fx.GraphModule, leaves: Sequence[Any], weights: Mapping[str, Tensor]) -> None:
        super().__init__(module)
        self.args_iter = iter(leaves)
        self._weights = weights
        self._ahead = iter(list(module.graph.nodes))

    def until(self, name: str) -> Tensor:
        """Go on to the node of that name; returns its value."""
        for node in self._ahead:
            self.env[node] = self.run_node(node)
            for old in self.user_to_last_uses.get(node, ()):
                del self.env[old]
            if node.name == name:
                return self.env[node]
        raise AssertionError(name)

    def change(self, node: fx.Node, shift: Tensor) -> None:
        """Add something to a node's value."""
        self.env[node] = self.env[node] + shift

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A tensor of the module, or what a rounded weight comes to."""
        return self._weights[target] if target in self._weights else super().get_attr(target, args, kwargs)


def _bias(module: fx.GraphModule, layer: fx.Node) -> Any:
    return constant(module, layer.args[2]) if len(layer.args) > 2 else None


def _replace_bias(module: fx.GraphModule, layer: fx.Node, bias: Tensor) -> None:
    """Give a layer another bias, under the name of the one that it had unless others read that."""
    before: Any = layer.args[2]
    path, _, name = str(before.target).rpartition(".")
    if len(before.users) == 1:
        delattr(module.get_submodule(path), name)
    with module.graph.inserting_before(layer):
        layer.update_arg(2, module.graph.get_attr(put(module, str(before.target), bias)))
    if not before.users:
        module.graph.erase_node(before)


def _size(leaves: Sequence[Any]) -> int:
    """How many samples an input has, if they lie along the first axis of its first tensor."""
    return next((len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), 1)


def _places_of_samples(
    original: fx.GraphModule, leaves: Sequence[Any], windows: Mapping[str, int]
) -> dict[str, _Layout] | None:
    """Where the samples of a batch lie in the results of layers; None if the input's first axis is none of samples.

    Found by giving the first row the values of the last: what is reached by that is one sample, unless rows are mixed.

    Args:
        original: without roundings.
        leaves: a batch.
        windows: the layers by name in the order of execution, with the number of axes after that of their channels.
    """
    size = _size(leaves)
    if size == 1:
        return None
    changed = [
        torch.cat([leaf[-1:], leaf[1:]]) if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == size else leaf
        for leaf in leaves
    ]
    walks = _Walk(original, leaves, {}), _Walk(original, changed, {})
    found: dict[str, _Layout] = {}
    for name, window in windows.items():
        one, other = (walk.until(name) for walk in walks)
        place = _place((one != other).any(-1 - window, keepdim=True), size)
        if place is None:
            return None
        found[name] = place
    return found


def _place(reached: Tensor, size: int) -> _Layout | None:
    """Along which axis what was reached, in any channel, is the first of so many samples; None if along none."""
    for axis, length in enumerate(reached.shape):
        if length % size:
            continue
        for within in (True, False):
            if not _apart(reached, (axis, within), size)[1:].any():
                return axis, within
    return None


def _apart(values: Tensor, place: _Layout, size: int) -> Tensor:
    """Values with an axis of so many samples before the others."""
    axis, within = place
    parts = (size, -1) if within else (-1, size)
    return values.unflatten(axis, parts).movedim(axis if within else axis + 1, 0)


def _rows(values: Tensor, axis: int, place: _Layout, size: int) -> Tensor:
    """Values as ``(samples, places, channels)``; all are one sample where there are not so many.

    Args:
        values: what a layer returns.
        axis: where its channels lie.
        place: where its samples lie.
        size: how many there are.
    """
    if size == 1 or values.shape[place[0]] % size:
        return values.movedim(axis, -1).reshape(1, -1, values.shape[axis])
    return _apart(values, place, size).movedim(axis + 1, -1).reshape(size, -1, values.shape[axis])


def _open_range(layer: fx.Node) -> tuple[float, float]:
    """Between which values the activation function that a layer's kernel takes in hands on what it is given."""
    low, high = -math.inf, math.inf
    node, end = layer, chain_end(layer)
    while node is not end:
        node = next(iter(node.users))
        bounds: Any = node.args[1:3] if node.target is torch.ops.aten.hardtanh.default else (0.0, math.inf)
        low, high = (float(each) for each in (*bounds, -1.0, 1.0)[:2])
    return low, high


def _off(wanted: Tensor, made: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """By how much the mean result of each sample is off, and the share of places where a bias would show.

    Args:
        wanted: in float, ``(samples, places, channels)``.
        made: as rounding has it.
        low: what is below is handed on as this.
        high: what is above is handed on as this.

    Returns:
        two tensors of ``(samples, channels)``, float64.
    """
    off = wanted.clamp(low, high).double() - made.clamp(low, high)
    return off.mean(1), ((made > low) & (made < high)).double().mean(1)


def _shift(off: Tensor, shows: Tensor) -> Tensor:
    """What to add to a bias: ``(channels,)``, of what `_off` found in all samples.

    James and Stein, "Estimation with Quadratic Loss", 1961, shrink an estimate so, by its variance; here by several
    times that, for to leave a bias as it is costs nothing that was not there before.
    """
    if len(off) < 2:
        return off.new_zeros(off.shape[1]).float()
    mean, share = off.mean(0), shows.mean(0)
    chance = _CHANCE * off.var(0) / len(off)
    shrunk = mean * (1 - chance / mean.square().clamp(min=torch.finfo(torch.float64).tiny)).clamp(min=0)
    shift = torch.where(share > _LEAST, shrunk / share.clamp(min=_LEAST), 0.0).float()
    return torch.where(shift.isfinite(), shift, 0.0)
