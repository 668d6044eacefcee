"""Which layers of a program integer kernels can compute, and what the others lack."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import fx

from torchpare.runtimes.explicit import FloatPlace
from torchpare.runtimes.folding import WEIGHTED, weight_axis
from torchpare.runtimes.grouped import Grouped
from torchpare.runtimes.operators import is_dequantize, is_quantize, owner
from torchpare.runtimes.placing import chain_end

__all__ = ["account"]


def account(
    module: fx.GraphModule, kernels: Collection[fx.Node], grouped: Mapping[str, Grouped]
) -> tuple[list[str], list[FloatPlace]]:
    """The layers that can run in eight bits, and the others with what they lack.

    Args:
        module: only read; its weights are not written as integers yet.
        kernels: the nodes of layers whose weights are in eight bits.
        grouped: the weights in groups, by the names under which the graph reads them.
    """
    integers: list[str] = []
    floats: list[FloatPlace] = []
    for node in module.graph.nodes:
        if node.target not in WEIGHTED:
            continue
        name = owner(node) or node.name
        held = grouped.get(str(node.args[1].target))
        if held is not None:
            floats.append(FloatPlace(name, f"int{held.bits} weights, float arithmetic"))
        elif node not in kernels:
            floats.append(FloatPlace(name, "its weight is not in eight bits"))
        elif not is_dequantize(node.args[0]):
            floats.append(FloatPlace(name, "its input lies on no grid: quantize it, or give calibration batches"))
        elif node.target is not torch.ops.aten.linear.default and not _leaves_rounded(node):
            floats.append(FloatPlace(name, _why_float(node)))
        elif weight_axis(node) == 1:
            floats.append(FloatPlace(name, "a transposed convolution, which runtimes compute in float"))
        else:
            integers.append(name)
    return integers, floats


def _why_float(node: fx.Node) -> str:
    if any(reader.target is torch.ops.aten.clamp.default for reader in chain_end(node).users):
        return "what it returns has fewer than eight bits, which runtimes clip in float"
    return "what it returns lies on no one grid, which integer convolutions need: give calibration batches"


def _leaves_rounded(node: fx.Node) -> bool:
    """Whether all that reads a layer, or the activation function that its kernel takes in, is one rounding."""
    readers = list(chain_end(node).users)
    return len(readers) == 1 and is_quantize(readers[0])
