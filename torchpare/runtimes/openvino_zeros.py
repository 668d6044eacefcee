"""A zero point for each weight: OpenVINO loses integer kernels over one that layers share.

Exporters write equal constants once, and the zero points of symmetric weights are all zeros. Where OpenVINO rewrites
one of the layers (that of a vision transformer's patches, for inputs of fixed sizes), it computes the shared constant,
and no longer recognizes the weights of the others, which it multiplies in float then.
"""

from __future__ import annotations

from typing import Any

__all__ = ["with_own_zero_points"]

_ON_THE_WAY = frozenset({"Convert", "Reshape"})


def with_own_zero_points(model: Any) -> Any:
    """OpenVINO's model, in which no two dequantizations share a zero point.

    Args:
        model: an ``openvino.Model``; edited in place where there is something to do.
    """
    from openvino import op

    taken: set[str] = set()
    for shift in [node for node in model.get_ordered_ops() if node.get_type_name() == "Subtract"]:
        reader, kinds = shift.input(1), []
        while (node := reader.get_source_output().get_node()).get_type_name() in _ON_THE_WAY:
            reader = node.input(0)
            kinds.append(node.get_type_name())
        if node.get_type_name() != "Constant" or "Convert" not in kinds:
            continue
        if node.get_friendly_name() in taken:
            reader.replace_source_output(op.Constant(node.get_tensor_view()).output(0))
        taken.add(node.get_friendly_name())
    return model
