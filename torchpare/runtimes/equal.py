"""What a model computes twice by equal code, computed once in its program.

Two branches that read ``relu(x)`` each call it themselves. Once merged, the convolution before it has one reader that
an integer kernel can take in, and each value is rounded and named once, as exporters and compilers merge them anyway.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

__all__ = ["merge_equal"]

_OF_NUMBERS = {operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod}
"""What programs do with sizes and with operators that return several tensors."""


def merge_equal(module: fx.GraphModule) -> None:
    """Let the readers of equal operators on equal values read the first of them, and take the others out.

    What draws random numbers or writes into a tensor stays as it is, and so do constants that have the same values
    under different names, for they may be quantized apart.

    Args:
        module: edited in place.
    """
    known: dict[Any, fx.Node] = {}
    for node in list(module.graph.nodes):
        if node.op != "get_attr" and not _repeatable(node):
            continue
        first = known.setdefault(_identity(node), node)
        if first is not node:
            node.replace_all_uses_with(first)
            module.graph.erase_node(node)


def _repeatable(node: fx.Node) -> bool:
    """Whether a node gives the same for the same each time, and does nothing else."""
    if isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001 - the type of every operator
        seeded = torch.Tag.nondeterministic_seeded in node.target.tags
        return not seeded and not node.target._schema.is_mutable and not node.is_impure()  # noqa: SLF001 - its name
    return node.op == "call_function" and node.target in _OF_NUMBERS


def _identity(node: fx.Node) -> Any:
    """Equal for nodes that compute the same. Numbers count by their kind too: adding 1.0 to integers gives floats."""
    leaves, form = pytree.tree_flatten((node.args, node.kwargs))
    told = tuple(leaf if isinstance(leaf, fx.Node) else (type(leaf), repr(leaf)) for leaf in leaves)
    return node.op, node.target, str(form), told
