"""The products of queries and keys in a graph: what attention weighs values by, once a softmax has made shares of it.

To round their factors costs attention little, for a softmax looks at how scores differ and the factors of one score are
many. The other product, of the shares and the values, stays float: most shares are far below the step of eight bits.
A tensor that torch's attention is given both as keys and as values is rounded for both.

Products written as ``einsum`` or ``baddbmm`` are not looked for: their factors stay float.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from torchpare.runtimes.operators import constant

__all__ = ["Product", "scores"]

_aten = torch.ops.aten

_ATTENTION = _aten.scaled_dot_product_attention.default
_PRODUCTS = {_aten.matmul.default, _aten.bmm.default}
_SOFTMAX = {_aten.softmax.int, _aten._softmax.default}  # noqa: SLF001 - torch's name for what softmax becomes

_ON_THE_WAY = {
    _aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor, _aten.masked_fill.Scalar,
    _aten.masked_fill.Tensor, _aten.where.self, _aten.where.ScalarSelf, _aten.where.ScalarOther, _aten.view.default,
    _aten.reshape.default, _aten._unsafe_view.default, _aten.unsqueeze.default,  # noqa: SLF001 - torch's name for a view
    _aten.clone.default, _aten.maximum.default, _aten.clamp.default, _aten.clamp_min.default,
}  # fmt: skip
"""What scores pass between the product and the softmax: factors, masks, positions, and moves."""

_TURNS = {_aten.transpose.int, _aten.permute.default}


@dataclass(frozen=True)
class Product:
    """One product of queries and keys."""

    node: fx.Node
    """What multiplies: attention as one operator, or a matrix product that a softmax follows."""

    query: tuple[fx.Node, fx.Node]
    """What is to be rounded, and its one reader that is to read it so."""

    key: tuple[fx.Node, fx.Node]
    """The same; a key that is turned over for this product alone is rounded before that."""


def scores(module: fx.GraphModule) -> Iterator[Product]:
    """The products of queries and keys.

    Args:
        module: only read.
    """
    for node in module.graph.nodes:
        if node.target is _ATTENTION or (node.target in _PRODUCTS and _weighs(node)):
            query, key = (_unturned(value, node) for value in node.args[:2])
            if constant(module, query[0]) is None and constant(module, key[0]) is None:
                yield Product(node, query, key)


def _weighs(product: fx.Node) -> bool:
    """Whether a softmax makes shares of what a product returns."""
    ahead, seen = [product], {product}
    while ahead:
        for reader in ahead.pop().users:
            if reader.target in _SOFTMAX:
                return True
            if reader.target in _ON_THE_WAY and reader not in seen:
                seen.add(reader)
                ahead.append(reader)
    return False


def _unturned(value: fx.Node, reader: fx.Node) -> tuple[fx.Node, fx.Node]:
    """A value and its reader, before it is turned over for that alone: there runtimes expect the rounding."""
    if value.target not in _TURNS or len(value.users) > 1:
        return value, reader
    before = value.args[0]
    assert isinstance(before, fx.Node)
    return before, value
