"""Choices that are none: a mask in which everything takes part, written for a batch of any size.

The exporter folds what is constant. A mask that is expanded to the size of the batch is not, although all its entries
are one constant, and a runtime that cannot know it either computes with it, and does not see attention behind it.
"""

from __future__ import annotations

from typing import Any

__all__ = ["take_only_choices"]

_SAME_ENTRIES = frozenset({"Expand", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Slice", "Identity", "ReduceMax"})


def take_only_choices(model: Any) -> None:
    """Put the one branch that is ever taken in the place of each ``Where`` with the same answer everywhere.

    Args:
        model: an ``onnx_ir.Model``; edited in place. What nothing reads afterwards goes.
    """
    from onnx_ir.convenience import replace_all_uses_with
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    outputs = set(map(id, model.graph.outputs))
    found = False
    for node in list(model.graph):
        if node.op_type != "Where" or node.domain or id(node.outputs[0]) in outputs:
            continue
        condition = _everywhere(node.inputs[0])
        if condition is None:
            continue
        taken, result = node.inputs[1 if condition else 2], node.outputs[0]
        # The other branch, or the condition, may be what gives the result its shape.
        if taken.shape is not None and taken.shape == result.shape and taken.dtype == result.dtype:
            replace_all_uses_with(result, taken)
            found = True
    if found:
        RemoveUnusedNodesPass()(model)


def _everywhere(value: Any) -> bool | None:
    """What a condition says in every entry; None where that is not one thing, or not known."""
    negated = False
    while value is not None and (node := value.producer()) is not None:
        if node.domain:
            return None
        if node.op_type == "Not":
            negated = not negated
        elif node.op_type not in _SAME_ENTRIES and not _keeps_truth(node):
            return None
        value = node.inputs[0]
    if value is None or value.const_value is None:
        return None
    entries = value.const_value.numpy()
    if not entries.size or not (entries == entries.flat[0]).all():
        return None
    return bool(entries.flat[0] != 0) is not negated


def _keeps_truth(node: Any) -> bool:
    """Whether a cast is between truth values and whole numbers, where what is zero stays so."""
    from onnx_ir import DataType

    whole = (DataType.BOOL, DataType.INT32, DataType.INT64)
    return node.op_type == "Cast" and node.inputs[0].dtype in whole and node.outputs[0].dtype in whole
