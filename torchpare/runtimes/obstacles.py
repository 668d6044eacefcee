"""What keeps a compressed model from being fast, by layer: not in eight bits, not fused, odd widths, too small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from torchpare.runtimes.folding import WEIGHTED
from torchpare.runtimes.onnxruntime import ModelSpeedupONNXRuntime, onnx_session
from torchpare.runtimes.operators import constant, is_dequantize, library, owner
from torchpare.runtimes.program import QuantizedProgram
from torchpare.runtimes.protocol import ModelSpeedupRuntime

__all__ = ["not_fused", "obstacles"]

WIDTH = 8
"""Kernels compute so many channels at once; what is left over costs as much as they."""

SMALL = 1_000_000
"""Below so many weights-times-positions a program's time is mostly that of being called."""

_FLOAT = {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}


def obstacles(made: ModelSpeedupRuntime) -> list[str]:
    """Reasons, each naming the layer it is of.

    Args:
        made: a runtime whose ``compress()`` was called.
    """
    program = made.made()
    quantized = bool(program.grouped) or any(tensor.dtype == torch.int8 for tensor in program.module.buffers())
    found = [str(place) for place in program.floats] if quantized else []
    if type(made) is ModelSpeedupONNXRuntime and quantized:
        known = {place.name for place in program.floats}
        found += [f"{layer}: not fused: ONNX Runtime gives its integers their values and computes in float"
                  for layer in not_fused(made.file, made.folder()) if layer not in known]  # fmt: skip
        found += [f"{layer}: several layers share its four-bit weight, for which ONNX Runtime has no kernel: floats in "
                  "memory" for layer in shared_in_four_bits(made.file)]  # fmt: skip
    found += list(_odd_widths(program))
    work = _work(program)
    if work < SMALL:
        found.append(f"the whole model: {work:,} multiplications, so few that calling it takes the time")
    return found


def not_fused(path: Path, folder: Path) -> list[str]:
    """The layers of a QDQ file that ONNX Runtime computes in float although their weights are integers.

    Args:
        path: the file.
        folder: where ONNX Runtime may write what it made of it.
    """
    import onnx

    optimized = folder / "optimized.onnx"
    onnx_session(path, optimized=optimized)
    graph = onnx.load(str(optimized)).graph
    integers = {tensor.name for tensor in graph.initializer}
    weights = {node.output[0]: node.input[0] for node in graph.node
               if node.op_type == "DequantizeLinear" and node.input[0] in integers}  # fmt: skip
    names = [weights[name] for node in graph.node if node.op_type in _FLOAT for name in node.input if name in weights]
    return [name.rpartition(".weight")[0] for name in names if ".weight" in name]


def shared_in_four_bits(path: Path) -> list[str]:
    """The layers of a file whose weights lie there in four bits, and are read more than once."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    kinds = (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
    held = {tensor.name for tensor in graph.initializer if tensor.data_type in kinds}
    values = {node.output[0]: node.input[0] for node in graph.node if node.input and node.input[0] in held}
    read = [values[name] for node in graph.node for name in node.input if name in values]
    return [name.rpartition(".weight")[0] for name in held if read.count(name) > 1]


def _odd_widths(program: QuantizedProgram) -> Iterator[str]:
    for node, shape in _weights(program):
        axis = WEIGHTED[node.target]
        channels = shape[axis]
        if channels % WIDTH and channels > WIDTH:
            yield f"{owner(node) or node.name}: {channels} channels, no multiple of {WIDTH}"


def _work(program: QuantizedProgram) -> int:
    """Multiplications of the layers with weights, for one sample."""
    total = 0
    for node, shape in _weights(program):
        value = node.meta.get("val")
        positions = 1
        if value is not None:
            spatial = value.shape[2:] if node.target is not torch.ops.aten.linear.default else value.shape[1:-1]
            for size in spatial:
                positions *= int(size)
        total += positions * shape.numel()
    return total


def _weights(program: QuantizedProgram) -> Iterator[tuple[Any, Any]]:
    """The nodes of layers, with the shapes of their weights."""
    for node in program.module.graph.nodes:
        if node.target not in WEIGHTED:
            continue
        source = node.args[1]
        stored = source.target is library().dequantize_per_channel.default or is_dequantize(source)
        held = constant(program.module, source.args[0] if stored else source)
        if held is not None:
            yield node, held.shape
