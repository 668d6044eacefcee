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
from torchpare.runtimes.operators import is_dequantize, is_quantize
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
                exported = export(in_signed_integers(program.module), program.example, free_batch=False)
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


def in_signed_integers(module: fx.GraphModule) -> fx.GraphModule:
    """A copy whose activations are int8 where they were uint8, 128 lower: XNNPACK has signed kernels alone."""
    made = copy.deepcopy(module)
    for node in made.graph.nodes:
        if (is_quantize(node) or is_dequantize(node)) and node.args[5] is torch.uint8:
            value, scale, *numbers = node.args[:5]
            node.args = (value, scale, *(number - 128 for number in numbers), torch.int8)  # type: ignore[operator]
    made.recompile()
    return made


def _library(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(f"executorch.{name}")
    except ImportError as error:
        raise MissingExtraError(
            f"executorch is not installed, or not whole ({error}); it comes with: pip install 'torchpare[executorch]'"
        ) from error
