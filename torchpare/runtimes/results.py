"""What a program returns, as files and compilers take it: tensors, and nothing beside them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

from torch import fx
from torch.utils import _pytree as pytree

from torchpare.runtimes.operators import is_quantize

__all__ = ["codes_and_tensors", "tensors_alone"]


def tensors_alone(module: fx.GraphModule) -> fx.GraphModule:
    """A program that returns tensors alone: numbers, and None, beside them are left out.

    Args:
        module: stays as it is, and is returned where it is such a program.
    """
    if all(isinstance(leaf, fx.Node) for leaf in _returned(module.graph)):
        return module
    return _returning_first(module, lambda _: False)


def codes_and_tensors(module: fx.GraphModule) -> fx.GraphModule:
    """A program that returns the integers at each of its sites, in their order, and then its tensors.

    Args:
        module: stays as it is.
    """
    return _returning_first(module, is_quantize)


def _returning_first(module: fx.GraphModule, chosen: Callable[[fx.Node], bool]) -> fx.GraphModule:
    """A copy that returns the values of some nodes, in their order, and then the tensors that it returned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own, about its own
        graph = fx.GraphModule(module, copy.deepcopy(module.graph)).graph
    output = next(node for node in graph.nodes if node.op == "output")
    tensors = [leaf for leaf in _returned(graph) if isinstance(leaf, fx.Node)]
    kept = (*(node for node in graph.nodes if chosen(node)), *tensors)
    output.args = (kept,)
    form: Any = module.graph._codegen  # noqa: SLF001 - torch tells it nowhere else
    info = form.pytree_info._replace(out_spec=pytree.tree_structure(kept))
    graph.set_codegen(type(form)(info))
    return fx.GraphModule(module, graph).eval()


def _returned(graph: fx.Graph) -> list[Any]:
    return pytree.tree_leaves(next(node for node in graph.nodes if node.op == "output").args[0])
