"""Operators that make tensors out of nothing, or of a shape."""

from __future__ import annotations

from torchpare.graph.flow import Flow
from torchpare.graph.program import Op
from torchpare.graph.rules.copies import requested_sizes
from torchpare.graph.rules.table import rule
from torchpare.graph.sizes import Const

__all__: list[str] = []


_FACTORIES = (
    *("zeros", "ones", "empty", "full", "rand", "randn", "new", "tensor", "scalar_tensor", "as_tensor"),
    "constructor",  # `torch.Tensor(2, 3)`, whose sizes nobody sees
)


@rule(
    *("zeros", "ones", "empty", "full", "rand", "randn", "new_zeros", "new_ones", "new_empty", "new_full"),
    *("scalar_tensor", "empty_strided", "new_empty_strided", "empty_permuted"),
)
def constant(flow: Flow, op: Op) -> None:
    """Constant fill: an axis whose size the model computes gets free labels, a number in the source fixes it."""
    result = op.outputs[0]
    shape = flow.shape(result)
    arrays = flow.fixed(shape)
    fresh = flow.new(shape)
    returned = op.call.results[0] if op.call is not None and len(op.call.results) == 1 else result
    # A factory function hands on a detached alias of what it made: the same shape under another uid.
    asked = returned if flow.shape(returned) == shape else result
    if op.call is None or not op.call.name.startswith(_FACTORIES):
        arrays = fresh  # made inside another function, of sizes that follow by themselves
    for axis, expr in enumerate(requested_sizes(op, asked, len(shape))):
        if expr is not None and not isinstance(expr, Const):
            arrays[axis] = fresh[axis]
            flow.require(fresh[axis].reshape(-1), expr, op, "the size of a new tensor")
    flow.define(result, arrays)


@rule("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")
def like(flow: Flow, op: Op) -> None:
    """A tensor of the same shape follows the same labels."""
    flow.define(op.outputs[0], flow.labels(op.args[0]))


@rule("arange", "eye", "linspace", "scalar_tensor_like", "tril_indices", "triu_indices", "randint", "randperm")
def positions(flow: Flow, op: Op) -> None:
    """Positions mean something by their number: they stay, and so does the number of them."""
    if op.call is not None and op.call.name in ("arange", "eye", "linspace"):
        for expr, number in zip(op.call.sizes or (), op.call.numbers, strict=True):
            flow.pin(expr, number, op)
    for uid in op.outputs:
        flow.define(uid, flow.fixed(flow.shape(uid)))


@rule("sym_size", "_local_scalar_dense", "is_same_size", "_assert_async", "_assert_scalar", "_assert_tensor_metadata")
def nothing(flow: Flow, op: Op) -> None:
    """Operators that look at a tensor without making one."""
    for uid in op.outputs:
        flow.define(uid, flow.fixed(flow.shape(uid)))
