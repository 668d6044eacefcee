"""Which layers of a program integer kernels can compute, and what the others lack."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import fx

from torchpare.runtimes.explicit import FloatPlace
from torchpare.runtimes.folding import WEIGHTED, weight_axis
from torchpare.runtimes.grouped import Grouped
from torchpare.runtimes.operators import constant, is_dequantize, is_quantize, owner
from torchpare.runtimes.placing import chain_end

__all__ = ["account"]

_PRODUCTS = {
    "matmul", "mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "einsum", "trilinear", "bilinear", "convolution", "lstm",
    "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "grouped_mm",
}  # fmt: skip
"""What multiplies by weights and is neither a convolution nor a linear layer to torch."""


_PICKS = {torch.ops.aten.index.Tensor, torch.ops.aten.index_select.default}
"""What takes rows of a weight by numbers that the input decides: those of the experts that a token is sent to."""


def account(
    module: fx.GraphModule, kernels: Collection[fx.Node], grouped: Mapping[str, Grouped], told: Collection[FloatPlace]
) -> tuple[list[str], list[FloatPlace]]:
    """The layers that can run in eight bits, and the others with what they lack.

    Args:
        module: only read; its weights are not written as integers yet.
        kernels: the nodes of layers whose weights are in eight bits.
        grouped: the weights in groups, by the names under which the graph reads them.
        told: what is known to stay float; nothing is said again of a weight that is not in eight bits.
    """
    integers: list[str] = []
    floats: list[FloatPlace] = []
    known = {place.name.removesuffix(".weight") for place in told}
    constants: set[fx.Node] = set()
    for node in module.graph.nodes:
        if _is_constant(module, node, constants):
            constants.add(node)
        if node.target not in WEIGHTED:
            if node not in constants and _multiplies(node) and not constants.isdisjoint(node.all_input_nodes):
                why = f"computed by {_operator(node)}, which has no integer kernel here"
                floats.append(FloatPlace(owner(node) or node.name, why))
            continue
        name = owner(node) or node.name
        held = grouped.get(str(node.args[1].target))
        if held is not None:
            floats.append(FloatPlace(name, f"int{held.bits} weights, float arithmetic"))
        elif node not in kernels:
            if name in known:
                continue
            floats.append(FloatPlace(name, _why_not_in_eight_bits(module, name)))
        elif not is_dequantize(node.args[0]):
            floats.append(FloatPlace(name, "its input lies on no grid: quantize it, or give calibration batches"))
        elif node.target is not torch.ops.aten.linear.default and not _leaves_rounded(node):
            floats.append(FloatPlace(name, _why_float(node)))
        elif weight_axis(node) == 1:
            floats.append(FloatPlace(name, "a transposed convolution, which runtimes compute in float"))
        else:
            integers.append(name)
    return integers, list(dict.fromkeys(floats))


def _is_constant(module: fx.GraphModule, node: fx.Node, known: Collection[fx.Node]) -> bool:
    """Whether a value is a weight of a rank that can be multiplied by, or made of such alone."""
    if node.op == "get_attr":
        held = constant(module, node)
        return held is not None and held.dim() > 1
    read = node.all_input_nodes[:1] if node.target in _PICKS else node.all_input_nodes
    return node.op == "call_function" and bool(read) and all(each in known for each in read)


def _multiplies(node: fx.Node) -> bool:
    """Whether a node sums up products, otherwise than a layer does that integer kernels know."""
    return _operator(node) in _PRODUCTS


def _operator(node: fx.Node) -> str:
    """The name of a node's operator: "addmm"; empty if it is none of torch's."""
    name = node.target.name() if isinstance(node.target, torch._ops.OpOverload) else ""  # noqa: SLF001 - told nowhere else
    return name.rpartition("::")[2].partition(".")[0].lstrip("_")


def _why_not_in_eight_bits(module: fx.GraphModule, name: str) -> str:
    why = "its weight is not in eight bits"
    if any(key.startswith(f"{name}.parametrizations.") for key, _ in module.named_parameters()):
        why += (": a parametrization makes it at each call, after which no quantizer lies; take that off first "
                "(torch.nn.utils.parametrize.remove_parametrizations), or quantize the model by calibration batches "
                "alone")  # fmt: skip
    return why


def _why_float(node: fx.Node) -> str:
    if any(reader.target is torch.ops.aten.clamp.default for reader in chain_end(node).users):
        return "what it returns has fewer than eight bits, which runtimes clip in float"
    return "what it returns lies on no one grid, which integer convolutions need: give calibration batches"


def _leaves_rounded(node: fx.Node) -> bool:
    """Whether all that reads a layer, or the activation function that its kernel takes in, is one rounding."""
    readers = list(chain_end(node).users)
    return len(readers) == 1 and is_quantize(readers[0])
