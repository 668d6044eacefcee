"""Where a program must round so that its layers can run in eight bits: decided on the graph, from the layers outwards.

An integer kernel takes integers and gives integers. A layer whose weight is in eight bits needs its input on a grid; a
convolution needs its output there too, behind the activation function that kernels take in; a sum, a product or a mean
of values that all lie on grids is computed in integers if its result gets one as well. Everything else keeps its float
values: the residual stream of a transformer stays as exact as it was, though its linear layers read it rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx

from torchpare.runtimes.asked import within
from torchpare.runtimes.folding import WEIGHTED
from torchpare.runtimes.operators import is_dequantize, is_quantize, owner
from torchpare.runtimes.scores import scores

__all__ = ["Wish", "chain_end", "echoes", "passes", "score_wishes", "wishes"]

_aten = torch.ops.aten

_PASS = {
    _aten.view.default, _aten._unsafe_view.default, _aten.reshape.default, _aten.flatten.using_ints,  # noqa: SLF001
    _aten.permute.default, _aten.transpose.int, _aten.squeeze.dim, _aten.squeeze.dims, _aten.unsqueeze.default,
    _aten.max_pool2d.default, _aten.slice.Tensor, _aten.select.int, _aten.clone.default,
}  # fmt: skip
"""What hands on values of its first argument as they are: a grid passes through."""

_ACTIVATIONS = {_aten.relu.default, _aten.hardtanh.default}
"""What integer kernels take in: cutting values off at the ends of a grid."""

_JOINS = {
    _aten.add.Tensor, _aten.mul.Tensor, _aten.cat.default, _aten.avg_pool2d.default,
    _aten.adaptive_avg_pool2d.default, _aten.mean.dim,
}  # fmt: skip
"""What has an integer kernel of its own."""


@dataclass(frozen=True)
class Wish:
    """A value that should lie on a grid."""

    value: fx.Node
    name: str

    produced: bool
    """It comes out of an integer kernel, so that all of its readers get it rounded; otherwise it goes into one, and
    only integer kernels do."""

    readers: frozenset[fx.Node] = frozenset()
    """Who gets it rounded, where that is not integer kernels."""

    symmetric: bool = False
    """Zero has to be the middle of its grid."""


def passes(node: fx.Node) -> bool:
    """Whether a node hands on the values of its first argument."""
    return node.target in _PASS


def chain_end(node: fx.Node) -> fx.Node:
    """A node, or the activation function after it that its kernel takes in."""
    readers = list(node.users)
    return chain_end(readers[0]) if len(readers) == 1 and readers[0].target in _ACTIVATIONS else node


def wishes(module: fx.GraphModule, layers: Collection[fx.Node]) -> tuple[list[Wish], set[fx.Node]]:
    """The values that have no grid yet and need one, and the sums and the like that become integer kernels by that.

    Args:
        module: only read.
        layers: the nodes of layers whose weights are in eight bits.
    """
    found: dict[fx.Node, Wish] = {}
    joined: set[fx.Node] = set()
    changed = True
    while changed:
        before = len(found) + len(joined)
        for node in module.graph.nodes:
            if node in layers:
                _wish(found, node.args[0], produced=False)
                if node.target is not _aten.linear.default or chain_end(node) is not node:
                    _wish(found, chain_end(node), produced=True)
            elif node.target in _JOINS and all(_on_grid(value, found) for value in _operands(node)):
                joined.add(node)
                _wish(found, chain_end(node), produced=True)
        changed = len(found) + len(joined) > before
    return list(found.values()), joined


def score_wishes(module: fx.GraphModule, others: Collection[Wish], exclude: Sequence[str]) -> list[Wish]:
    """The queries and keys that have no grid yet.

    Kernels of products take factors that have zero in the middle of their grids.

    Args:
        module: only read.
        others: the values that get grids anyway.
        exclude: layers that stay float, by name.
    """
    known = {wish.value: wish for wish in others if wish.produced}
    found: dict[fx.Node, Wish] = {}
    for product in scores(module):
        layer = owner(product.node)
        if within(layer, exclude):
            continue
        for (value, reader), kind in ((product.query, "query"), (product.key, "key")):
            if _on_grid(value, known):
                continue
            if value in found:
                found[value] = replace(found[value], readers=found[value].readers | {reader})
                continue
            name = f"{layer}.{kind}" if layer else kind
            found[value] = Wish(value, name, produced=False, readers=frozenset([reader]), symmetric=True)
    return list(found.values())


def echoes(module: fx.GraphModule, kernels: Collection[fx.Node]) -> list[tuple[fx.Node, fx.Node]]:
    """Nodes that hand on values of a grid to an integer kernel, with the dequantize node that the grid is from.

    Rounding there once more changes nothing, and tells a runtime that the kernel may read integers.
    """
    made: list[tuple[fx.Node, fx.Node]] = []
    origin: dict[fx.Node, fx.Node] = {}
    leads = _leading(module, kernels)
    for node in module.graph.nodes:
        if is_dequantize(node) and is_quantize(node.args[0]):
            origin[node] = node
        elif passes(node) and node.args[0] in origin:
            origin[node] = origin[node.args[0]]  # type: ignore[index]
            if node in leads:
                made.append((node, origin[node]))
    return made


def _leading(module: fx.GraphModule, kernels: Collection[fx.Node]) -> set[fx.Node]:
    """The nodes that only move values, and whose values an integer kernel reads in the end."""
    found: set[fx.Node] = set()
    for node in reversed(list(module.graph.nodes)):
        if passes(node) and any(reader in kernels or reader in found for reader in node.users):
            found.add(node)
    return found


def _wish(found: dict[fx.Node, Wish], value: object, *, produced: bool) -> None:
    if not isinstance(value, fx.Node) or _on_grid(value, found):
        return
    if produced and value.users and all(is_quantize(reader) or _is_clip(reader) for reader in value.users):
        return
    found[value] = Wish(value, _name(value, produced), produced)


def _on_grid(value: object, found: dict[fx.Node, Wish]) -> bool:
    """Whether a value has a grid: rounded already, wished for, or handed on from one that is."""
    while isinstance(value, fx.Node):
        if is_dequantize(value) or value in found:
            return True
        if not passes(value):
            return False
        value = value.args[0]
    return False


def _is_clip(node: fx.Node) -> bool:
    return node.target is _aten.clamp.default and all(is_quantize(reader) for reader in node.users)


def _operands(node: fx.Node) -> Iterator[object]:
    first = node.args[0]
    if isinstance(first, list | tuple):
        yield from first
        return
    yield first
    if node.target in (_aten.add.Tensor, _aten.mul.Tensor):
        yield node.args[1]


def _name(value: fx.Node, produced: bool) -> str:
    """For people: the layer that made a value, and the value's own name in the graph where there is no layer."""
    if value.op == "placeholder":
        return f"{value.name}.input"
    path = owner(value)
    kind = "output" if produced and value.target in WEIGHTED else value.name
    return f"{path}.{kind}" if path else value.name
