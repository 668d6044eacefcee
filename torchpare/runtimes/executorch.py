"""ExecuTorch with the XNNPACK kernels, for phones and boards; run here on the CPU of the machine at hand."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from torchpare.errors import ExportError, MissingExtraError
from torchpare.files.atomic import atomic_write
from torchpare.runtimes.folding import WEIGHTED
from torchpare.runtimes.operators import constant, is_dequantize, is_quantize, library, put
from torchpare.runtimes.placing import chain_end
from torchpare.runtimes.program import QuantizedProgram
from torchpare.runtimes.protocol import ModelSpeedupRuntime
from torchpare.runtimes.record import export

__all__ = ["ModelSpeedupExecuTorch"]


class ModelSpeedupExecuTorch(ModelSpeedupRuntime):
    """A quantized model in ExecuTorch, by XNNPACK where that has a kernel. Its file is ``.pte``.

    The batch size is that of the example. ``threads`` is ExecuTorch's own number, which this class does not change.

    For the arguments see :class:`~torchpare.runtimes.protocol.ModelSpeedupRuntime`.
    """

    runtime: ClassVar[str] = "ExecuTorch"

    def take(self, program: QuantizedProgram) -> Callable[[list[Tensor]], list[Tensor]]:
        """Lower the program to XNNPACK, and load it."""
        exir, xnnpack = _library("exir"), _library("backends.xnnpack.partition.xnnpack_partitioner")
        _library("kernels.quantized")  # registers what rounds outside of XNNPACK
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                exported = export(for_xnnpack(program.module), program.example, free_batch=False)
                edge = exir.to_edge_transform_and_lower(exported, partitioner=[xnnpack.XnnpackPartitioner()])
                self._bytes = bytes(edge.to_executorch().buffer)
        except Exception as error:
            first = str(error).strip().partition("\n")[0][:300]
            raise ExportError(f"ExecuTorch cannot lower the program: {type(error).__name__}: {first}") from error
        return self._loaded(self._bytes)

    def read(self, path: Path) -> Callable[[list[Tensor]], list[Tensor]]:
        """Load a ``.pte`` file."""
        self._bytes = path.read_bytes()
        return self._loaded(self._bytes)

    def export_quantized_model(self, path: str | os.PathLike[str]) -> None:
        """Write the ``.pte`` file.

        Raises:
            ExportError: ``compress()`` was not called.
            FileError: ``path`` cannot be written.
        """
        self._ready("export_quantized_model()")
        with atomic_write(path) as lent:
            lent.write_bytes(self._bytes)

    def _loaded(self, content: bytes) -> Callable[[list[Tensor]], list[Tensor]]:
        runtime = _library("runtime")
        _library("kernels.quantized")
        try:
            self._program: Any = runtime.Runtime.get().load_program(content)
            method = self._program.load_method("forward")
        except Exception as error:
            raise ExportError(f"ExecuTorch cannot load the program: {error}") from error

        def run(tensors: list[Tensor]) -> list[Tensor]:
            # Copied: the next run writes into the same memory.
            return [made.clone() for made in method.execute(tensors) if isinstance(made, Tensor)]

        return run


def for_xnnpack(module: fx.GraphModule) -> fx.GraphModule:
    """A copy in the form in which XNNPACK has kernels.

    These are signed: activations are int8 where they were uint8, 128 lower. Their weights have a scale for each channel
    along the first axis, and their results are rounded; the weights of other layers are written in as floats.
    """
    made = copy.deepcopy(module)
    for node in list(made.graph.nodes):
        held = constant(made, node.args[0]) if node.args else None
        if held is not None and (is_dequantize(node) or node.target is library().dequantize_per_channel.default):
            _write_weight(made, node, held)
        elif (is_quantize(node) or is_dequantize(node)) and node.args[5] is torch.uint8:
            value, scale, *numbers = node.args[:5]
            node.args = (value, scale, *(number - 128 for number in numbers), torch.int8)  # type: ignore[operator]
    made.graph.eliminate_dead_code()
    return fx.GraphModule(made, made.graph)


def _write_weight(module: fx.GraphModule, node: fx.Node, codes: Tensor) -> None:
    """One weight, as the layers that read it can take it."""
    path = str(node.all_input_nodes[0].target)
    ops, whole = library(), is_dequantize(node)
    kernels = all(
        WEIGHTED.get(reader.target) == 0 and is_quantize(next(iter(chain_end(reader).users), None))
        for reader in node.users
    )
    with module.graph.inserting_before(node):
        if not kernels:
            with torch.no_grad():
                tensors = [constant(module, each) if isinstance(each, fx.Node) else each for each in node.args]
                value: Any = node.target(*tensors)  # type: ignore[operator] - an operator
            new = module.graph.get_attr(put(module, f"{path}_float", value))
        elif whole:
            scale = module.graph.get_attr(put(module, f"{path}_scales", torch.full((len(codes),), node.args[1])))  # type: ignore[arg-type]
            zero = torch.full((len(codes),), node.args[2], dtype=torch.int64)  # type: ignore[arg-type]
            zero_point = module.graph.get_attr(put(module, f"{path}_zero_points", zero))
            arguments = (node.args[0], scale, zero_point, 0, -128, 127, torch.int8)
            new = module.graph.call_function(ops.dequantize_per_channel.default, arguments)
        else:
            return
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _library(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(f"executorch.{name}")
    except ImportError as error:
        raise MissingExtraError(
            f"executorch is not installed, or not whole ({error}); it comes with: pip install 'torchpare[executorch]'"
        ) from error
