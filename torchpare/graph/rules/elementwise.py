"""Operators that treat each element alike: aligned labels live and die together."""

from __future__ import annotations

import numpy as np

from torchpare.graph.flow import Axes, Flow
from torchpare.graph.labels import LabelArray
from torchpare.graph.program import Op, Ref
from torchpare.graph.rules.table import rule

__all__ = ["merge_aligned", "pointwise"]


@rule(
    "hardswish",
    "hardsigmoid",
    "hardtanh",
    "relu6",
    "prelu",
    "_prelu_kernel",
    "where",
    "masked_fill",
    "copy",
    "clone",
    "detach",
    "alias",
    "contiguous",
    "lift_fresh",
    "_to_copy",
    "native_dropout",
    "bernoulli",
    "floor_divide",
    "celu",
    "rrelu_with_noise",
    "fill",
    "zero",
    "polar",
    "complex",
    "_conj",
    "_neg_view",
    *("fake_quantize_per_tensor_affine_cachemask", "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams"),
    "_fake_quantize_learnable_per_tensor_affine",
    *("leaky_relu", "elu", "selu", "_conj_physical"),  # up to torch 2.8 not all of their forms say that they are
    *(f"{name}_backward" for name in ("elu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu")),
    *(f"{name}_backward" for name in ("mish", "rrelu_with_noise", "softplus", "softshrink")),  # a force: -dE/dx
    *("uniform", "normal", "exponential", "random", "normal_functional", "log_normal", "cauchy", "geometric"),
)
def pointwise(flow: Flow, op: Op) -> None:
    """Unify what lies on top of each other after broadcasting; outputs carry the same labels."""
    shape = flow.shape(op.outputs[0]) if op.outputs else ()
    merged = merge_aligned(flow, op, list(op.inputs), shape)
    for uid in op.outputs:
        flow.define(uid, merged)
    if len(op.inputs) == 1 and op.outputs and op.inputs[0].uid in flow.origin:
        flow.origin.setdefault(op.outputs[0], flow.origin[op.inputs[0].uid])


@rule("log_sigmoid_forward")
def log_sigmoid(flow: Flow, op: Op) -> None:
    """Each element alike; a buffer for the gradient comes along, which some devices leave empty."""
    x = op.args[0]
    for uid in op.outputs:
        flow.define(uid, flow.labels(x) if flow.shape(uid) == flow.shape(x) else flow.fixed(flow.shape(uid)))


@rule("fake_quantize_per_channel_affine_cachemask", "_fake_quantize_learnable_per_channel_affine")
def fake_quantize(flow: Flow, op: Op) -> None:
    """Each element rounded to the steps of its channel: a step and an origin lie along one axis."""
    x, scale, origin, axis = op.args[:4]
    why = f"{op.name} in {op.where}"
    for ref in (scale, origin):
        flow.store.unify(flow.vector(x, axis % len(flow.shape(x)), why), flow.vector(ref, 0, why), why)
    for uid in op.outputs:
        flow.define(uid, flow.labels(x))


def merge_aligned(flow: Flow, op: Op, operands: list[Ref], shape: tuple[int, ...]) -> Axes:
    """Label arrays of the broadcast of ``operands`` to ``shape``."""
    rank = len(shape)
    merged: Axes = []
    padded = [(ref, (1,) * (rank - len(flow.shape(ref))) + flow.shape(ref)) for ref in operands]
    for axis in range(rank):
        arrays = [
            _pad(flow.labels(ref)[axis - rank + len(flow.shape(ref))], rank)
            for ref, full in padded
            if full[axis] == shape[axis] and shape[axis] > 1
        ]
        if not arrays:
            merged.append(np.zeros((1,) * rank, dtype=np.int64))
            continue
        for other in arrays[1:]:
            flow.store.unify(arrays[0], other, f"{op.name} in {op.where} combines it with something fixed")
        merged.append(min(arrays, key=lambda array: array.size))
    return merged


def _pad(array: LabelArray, rank: int) -> LabelArray:
    return array.reshape((1,) * (rank - array.ndim) + array.shape)
