"""Pictures with a fourth channel of zeros, for ONNX Runtime: its faster integer kernel takes four channels at once.

The other kernel copies every window before it computes, which for three channels takes longer than the sums do. With
zeros in the weight too, the sums are the same integers. To copy the picture once costs less than that gains, where
windows overlap and are not large. Between layers it would not: there channels lie side by side, and a few more of them
means to move all the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import numpy as np

from torchpare.runtimes.onnx_graph import OnnxGraph

__all__ = ["write_four_channels"]

_CHANNELS = 4
_LARGEST_WINDOW = 5 * 5
"""In places. For windows of 7 x 7 the two kernels take about as long as each other."""


def write_four_channels(graph: Any, is_rounded: Callable[[str], bool]) -> None:
    """Give the inputs of convolutions between two roundings four channels, where they have fewer.

    Args:
        graph: of ONNX, edited in place.
        is_rounded: whether a value, or what an activation function makes of it, is rounded by all that reads it.
    """
    links = _Graph(graph)
    left: list[Any] = []
    for node in [node for node in graph.node if node.op_type == "Conv"]:
        given, kernel = (links.restored(name) for name in node.input[:2])
        if given is None or kernel is None or not is_rounded(node.output[0]) or not links.gains(node, given, kernel):
            continue
        missing = _CHANNELS - links.constants[kernel.input[0]].dims[1]
        node.input[1] = links.wider_weight(kernel, missing)
        node.input[0] = links.wider_input(given, missing)
        left += [each for each in (given, kernel) if each not in left]
    links.drop(left)


class _Graph(OnnxGraph):
    """An ONNX graph in which values get channels of zeros."""

    def restored(self, name: str) -> Any:
        """The dequantization that makes a value; None if something else does."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def gains(self, node: Any, given: Any, kernel: Any) -> bool:
        """Whether a convolution of these two computes the same with more channels, and faster."""
        from onnx import helper, numpy_helper

        codes, zero = (self.constants.get(name) for name in (kernel.input[0], next(iter(kernel.input[2:]), "")))
        grid = self.grid(given)
        if grid is None or grid[1].dtype.itemsize > 1:  # the kernel is one of eight bits
            return False
        if codes is None or (zero is not None and numpy_helper.to_array(zero).any()):
            return False
        told = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        channels, *window = codes.dims[1:]
        strides = told.get("strides") or [1] * len(window)
        overlap = any(stride < size for stride, size in zip(strides, window, strict=True))
        small = len(window) == 2 and prod(window) <= _LARGEST_WINDOW
        return channels < _CHANNELS and told.get("group", 1) == 1 and overlap and small

    def wider_weight(self, kernel: Any, missing: int) -> str:
        """The name of a weight with more channels of zeros, which all that need it share."""
        from onnx import helper, numpy_helper

        name, codes = (f"{each} (four channels)" for each in (kernel.output[0], kernel.input[0]))
        if codes not in self.constants:
            values = numpy_helper.to_array(self.constants[kernel.input[0]])
            values = np.pad(values, [(0, 0), (0, missing), (0, 0), (0, 0)])
            self.constants[codes] = numpy_helper.from_array(values, codes)
            self.graph.initializer.append(self.constants[codes])
        if name not in self.makers:
            self.makers[name] = helper.make_node("DequantizeLinear", [codes, *kernel.input[1:]], [name])
            self.makers[name].attribute.extend(kernel.attribute)
            self.insert(kernel, self.makers[name])
        return name

    def wider_input(self, given: Any, missing: int) -> str:
        """The name of a value with more channels of zeros, which all that need it share."""
        from onnx import helper, numpy_helper

        name = f"{given.output[0]} (four channels)"
        if name not in self.makers:
            ends = numpy_helper.from_array(np.array([0, 0, 0, 0, 0, missing, 0, 0], np.int64), f"{name} ends")
            self.graph.initializer.append(ends)
            padded = helper.make_node("Pad", [given.input[0], ends.name, given.input[2]], [f"{name} codes"])
            self.makers[name] = helper.make_node("DequantizeLinear", [f"{name} codes", *given.input[1:]], [name])
            self.insert(given, padded, self.makers[name])
        return name

    def drop(self, nodes: Iterable[Any]) -> None:
        """Take nodes out that nothing reads any more."""
        read = {name for node in self.graph.node for name in node.input} | self.outputs
        for node in nodes:
            if not read.intersection(node.output):
                self.graph.node.remove(node)
