"""Products of two rounded values that OpenVINO computes wrongly: few columns, and many factors for each.

With no more than 32 columns (the keys of a short sequence, or channels that attend to each other) and sums of more than
64 factors, its integer kernel for attention of as many queries as keys returns other numbers, or ends the process (as
of 2026.4). There the product is one of floats: the integers' values pass an operator that changes nothing, and which
OpenVINO takes no integers through.
"""

from __future__ import annotations

from typing import Any

__all__ = ["with_small_products_in_float"]

_COLUMNS = 32
_FACTORS = 64
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Gather", "VariadicSplit", "Split", "StridedSlice",
                    "Slice", "Broadcast", "Tile", "Convert", "Subtract", "Multiply"})  # fmt: skip
"""What lies between a product and the rounding of what it reads: moves, and what gives integers their values."""


def with_small_products_in_float(model: Any) -> Any:
    """OpenVINO's model, with products that its integer kernel gets wrong in float.

    Args:
        model: an ``openvino.Model`` for the sizes that it will meet; a size that is open counts as one that goes wrong.
            Edited in place where there is something to do.
    """
    import numpy as np
    from openvino import opset13 as operators

    for product in [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]:
        if all(_is_rounded(product.input_value(at)) for at in (0, 1)) and _goes_wrong(product):
            lowest = operators.constant(np.float32(np.finfo(np.float32).min))
            product.input(1).replace_source_output(operators.maximum(product.input_value(1), lowest).output(0))
    return model


def _is_rounded(value: Any) -> bool:
    """Whether a value was rounded, and only moved since."""
    node = value.get_node()
    while node.get_type_name() in _MOVES:
        node = node.input_value(0).get_node()
    return node.get_type_name() == "FakeQuantize"


def _goes_wrong(product: Any) -> bool:
    """Whether a product has few columns, and sums up many factors."""
    shape = product.get_input_partial_shape(1)
    if shape.rank.is_dynamic or len(shape) < 2:
        return True
    factors, columns = (shape[len(shape) - 2], shape[len(shape) - 1])
    if product.get_attributes()["transpose_b"]:
        factors, columns = columns, factors
    many = factors.is_dynamic or factors.get_length() > _FACTORS
    few = columns.is_dynamic or columns.get_length() <= _COLUMNS
    return many and few
