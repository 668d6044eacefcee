"""What a program returns, as files and compilers take it: tensors, and nothing beside them."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from torch import fx
from torch.utils import _pytree as pytree

__all__ = ["tensors_alone"]


def tensors_alone(module: fx.GraphModule) -> fx.GraphModule:
    """A program that returns tensors alone: numbers, and None, beside them are left out.

    Args:
        module: stays as it is, and is returned where it is such a program.
    """
    form: Any = module.graph._codegen  # noqa: SLF001 - torch tells it nowhere else
    leaves = pytree.tree_leaves(next(node for node in module.graph.nodes if node.op == "output").args[0])
    if all(isinstance(leaf, fx.Node) for leaf in leaves):
        return module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own, about its own
        graph = fx.GraphModule(module, copy.deepcopy(module.graph)).graph
    output = next(node for node in graph.nodes if node.op == "output")
    kept = tuple(leaf for leaf in pytree.tree_leaves(output.args[0]) if isinstance(leaf, fx.Node))
    output.args = (kept,)
    info = form.pytree_info._replace(out_spec=pytree.tree_structure(kept))
    graph.set_codegen(type(form)(info))
    return fx.GraphModule(module, graph).eval()
