"""The small model as a graph, where its Python code cannot run: sizes are written as numbers in its source.

``x.view(-1, 256)`` keeps 256 channels for ever, whatever the parameters say. Planned with ``literals="trace"``, such
numbers hold nothing back: the recorded operators are replayed as a `torch.fx.GraphModule` in which every number has
become what it must be, with the small parameters under the names they had. It takes inputs of the recorded shapes only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from torchpare.errors import ProofError, ShrinkError
from torchpare.graph import Removal
from torchpare.graph.capture import call_arguments
from torchpare.graph.program import Op, Ref, Value
from torchpare.graph.recorder import output_tensors
from torchpare.layers.tables import named_tables
from torchpare.speedup.given import flatten_masks
from torchpare.speedup.patches import find_patches
from torchpare.speedup.proof import largest_difference
from torchpare.speedup.runs import run_exact
from torchpare.speedup.shrink_plan import ShrinkPlan
from torchpare.types import Masks

__all__ = ["build_graph", "traced_model"]

_SHAPED = frozenset(f"aten.{name}" for name in ("view", "_unsafe_view", "reshape", "expand", "_reshape_alias"))
_MADE = frozenset(f"aten.{name}" for name in ("zeros", "ones", "empty", "full", "rand", "randn"))
_NEW = frozenset(f"aten.{name}" for name in ("new_zeros", "new_ones", "new_empty", "new_full"))


def traced_model(
    model: nn.Module, example_inputs: Any, plan: ShrinkPlan, masks: Masks, tolerance: float
) -> fx.GraphModule:
    """`build_graph`, proved.

    Raises:
        ShrinkError: an operator's numbers cannot be rewritten.
        ProofError: the graph differs from the masked model.
    """
    select = plan.removal.space.program.select
    patches = find_patches(plan.removal)
    reference = run_exact(model, example_inputs, flatten_masks(masks), patches=patches, select=select)
    graph = build_graph(model, plan)
    tensors = tuple(output_tensors(call_arguments(example_inputs)))
    difference = largest_difference(reference, run_exact(graph, tensors))
    if not (difference <= tolerance or patches.unpatched):
        message = f"the graph differs from the masked model by {difference:.3g} of the output's range"
        raise ProofError(message)
    return graph


def build_graph(model: nn.Module, plan: ShrinkPlan) -> fx.GraphModule:
    """Replay a recorded program with everything cut that the plan cuts.

    Args:
        model: the dense model, not changed; its parameters are copied where they are cut, and shared where not.
        plan: of a program that was recorded on the CPU.

    Returns:
        a module that takes the example inputs' tensors, flattened, and returns the model's tensors, flattened: one
        tensor where there is one.

    Raises:
        ShrinkError: an operator's numbers cannot be rewritten.
    """
    removal, program = plan.removal, plan.removal.space.program
    root = nn.Module()
    graph = fx.Graph()
    nodes: dict[int, fx.Node] = {}
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
        **named_tables(model),
    }
    reached = {ref.uid for op in program.ops for ref in op.inputs} | set(program.outputs)
    for value in program.values:
        if value.kind == "input":
            nodes[value.uid] = graph.placeholder(f"input_{value.uid}")
        elif value.uid in reached and value.kind != "temporary":
            name = _attach(root, value, tensors, plan, program.constants)
            nodes[value.uid] = graph.get_attr(name)
    rewriter = _Rewriter(removal)
    for op in program.ops:
        target, args, kwargs = rewriter.call(op)
        to_node = pytree.tree_map_only(Ref, lambda ref: nodes[ref.uid], (list(args), dict(kwargs)))
        node = graph.call_function(target, tuple(to_node[0]), to_node[1])
        if len(op.outputs) == 1 and not _returns_list(op):
            nodes[op.outputs[0]] = node
        else:
            for place, uid in enumerate(op.outputs):
                nodes[uid] = graph.call_function(_item, (node, place))
    results = [nodes[uid] for uid in program.outputs]
    graph.output(results[0] if len(results) == 1 else tuple(results))
    return fx.GraphModule(root, graph)


def _item(values: Sequence[Any], place: int) -> Any:
    """The tensor at a place among those an operator returned."""
    return [value for value in values if isinstance(value, Tensor)][place]


def _returns_list(op: Op) -> bool:
    returns = op.target._schema.returns  # noqa: SLF001 - an operator tells what it returns only so
    return len(returns) != 1 or str(returns[0].type).startswith("List")


def _attach(
    root: nn.Module, value: Value, tensors: Mapping[str, Tensor], plan: ShrinkPlan, constants: Mapping[int, Tensor]
) -> str:
    """Register what a value is in the new module, cut; returns its qualified name."""
    if value.kind == "constant":
        name, tensor, parameter = f"constant_{value.uid}", constants[value.uid], False
    else:
        name, parameter = value.names[0], value.kind == "parameter"
        tensor = tensors[name]
        if name in plan.cuts:
            small = plan.cuts[name].apply(tensor.detach())
            tensor = nn.Parameter(small, requires_grad=tensor.requires_grad) if parameter else small
    path, _, leaf = name.rpartition(".")
    owner = root
    for part in path.split(".") if path else ():
        if not hasattr(owner, part):
            owner.add_module(part, nn.Module())
        owner = getattr(owner, part)
    if parameter:
        owner.register_parameter(leaf, tensor)  # type: ignore[arg-type]
    else:
        owner.register_buffer(leaf, tensor)
    return name


class _Rewriter:
    """Gives each operator the numbers that it has after the removal."""

    def __init__(self, removal: Removal) -> None:
        self.removal = removal
        self.values = removal.space.program.values

    def call(self, op: Op) -> tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]:
        """What to call, with which arguments."""
        args = list(op.args)
        small = [self.removal.shape(uid) for uid in op.outputs]
        if all(shape == self.values[uid].shape for shape, uid in zip(small, op.outputs, strict=True)) and all(
            self.removal.shape(ref.uid) == self.values[ref.uid].shape for ref in op.inputs
        ):
            return op.target, args, op.kwargs
        name = op.name.rstrip("_")
        if name in _SHAPED or name in _NEW:
            args[1] = list(small[0])
        elif name in _MADE:
            args[0] = list(small[0])
        elif name in ("aten.split", "aten.split_with_sizes", "aten.unsafe_split", "aten.unsafe_split_with_sizes"):
            axis = (args[2] if len(args) > 2 else op.kwargs.get("dim", 0)) % len(small[0])
            pieces = torch.ops.aten.split_with_sizes
            if name.startswith("aten.unsafe"):  # pieces that are written in place, as a recurrent kernel does
                pieces = torch.ops.aten.unsafe_split_with_sizes
            return pieces.default, [args[0], [shape[axis] for shape in small], axis], {}
        elif name == "aten.slice":
            args = self._slice(op, args)
        elif name == "aten.select":
            args[2] = self._moved(args[0], args[1], args[2] % self.values[args[0].uid].shape[args[1]])
        elif name == "aten.native_layer_norm":
            args[1] = list(small[0][-len(args[1]) :])
        elif name == "aten.native_group_norm":
            args[4], args[6] = small[0][1], self._groups(args[6], args[0], 1)
        elif name == "aten.convolution":
            args[8] = self._conv_groups(args)
        elif name == "aten.as_strided":
            raise ShrinkError(f"the graph cannot be rewritten around {op.name} in {op.where}: its strides are numbers")
        return op.target, args, op.kwargs

    def _kept(self, x: Ref, axis: int) -> np.ndarray:
        size = self.values[x.uid].shape[axis]
        mask = self.removal.kept_axes(x.uid)[axis]
        rows = np.moveaxis(mask, axis, -1).reshape(-1, mask.shape[axis])
        return np.broadcast_to(rows[0], (size,))

    def _moved(self, x: Ref, axis: int, position: int) -> int:
        """Where a position lies after the removal."""
        return int(self._kept(x, axis)[:position].sum())

    def _slice(self, op: Op, args: list[Any]) -> list[Any]:
        axis = args[1] if len(args) > 1 else 0
        size = self.values[args[0].uid].shape[axis]
        start, stop, step = (*args[2:], *(None, None, 1)[len(args[2:]) :])
        start, stop, step = slice(start, stop, step).indices(size)
        axis %= len(self.values[args[0].uid].shape)
        if step != 1 and not self._kept(args[0], axis).all():
            raise ShrinkError(f"the graph cannot be rewritten around a slice with a step in {op.where}")
        return [args[0], axis, self._moved(args[0], axis, start), self._moved(args[0], axis, stop), step]

    def _groups(self, groups: int, x: Ref, axis: int) -> int:
        return int(self._kept(x, axis).reshape(groups, -1).any(axis=1).sum())

    def _conv_groups(self, args: list[Any]) -> int:
        x, weight, transposed, groups = args[0], args[1], args[6], args[8]
        if groups == 1:
            return 1
        channels = self.removal.shape(x.uid)[1]
        per_group = self.removal.shape(weight.uid)[1]
        return self._groups(groups, x, 1) if transposed else channels // per_group
