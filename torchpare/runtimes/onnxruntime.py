"""ONNX Runtime on the CPU: the QDQ file, whose rounded layers it fuses into integer kernels when it loads it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchpare.errors import ExportError, MissingExtraError
from torchpare.files.atomic import atomic_write
from torchpare.runtimes.program import QuantizedProgram
from torchpare.runtimes.protocol import ModelSpeedupRuntime
from torchpare.runtimes.qdq import write_qdq

__all__ = ["ModelSpeedupONNXRuntime", "onnx_session"]

_SLOWER = ("SkipLayerNormFusion",)
"""What ONNX Runtime does to a graph by itself and is slower for on the CPU: its kernel for a sum and a layer norm in one
takes several times as long as the two kernels do (measured by ``benchmarks/deploy.py``, 1.32)."""


class ModelSpeedupONNXRuntime(ModelSpeedupRuntime):
    """A quantized model in ONNX Runtime, on the CPU. Its file is ONNX QDQ, which other runtimes read too.

    On x86 without VNNI instructions ONNX Runtime's kernels add up two products in 16 bits, which may saturate: there
    quantize weights with 7 bits.

    For the arguments see :class:`~torchpare.runtimes.protocol.ModelSpeedupRuntime`.
    """

    runtime: ClassVar[str] = "ONNX Runtime"

    blocks: ClassVar[bool] = True
    """Whether it reads weights of linear layers in four bits, and in groups."""

    file: Path
    """The QDQ file that is being executed."""

    def take(self, program: QuantizedProgram) -> Callable[[list[Tensor]], list[Tensor]]:
        """Write the file, and load it."""
        path = self.folder() / "model.onnx"
        write_qdq(program, path, blocks=self.blocks)
        return self.read(path)

    def read(self, path: Path) -> Callable[[list[Tensor]], list[Tensor]]:
        """Load a QDQ file."""
        run = self.load_file(path)
        self.file = path
        return run

    def load_file(self, path: Path) -> Callable[[list[Tensor]], list[Tensor]]:
        """What runs an ONNX file; verifying asks for this on parts of the program."""
        return session_runner(onnx_session(path, threads=self.threads))

    def export_quantized_model(self, path: str | os.PathLike[str]) -> None:
        """Write the QDQ file.

        Raises:
            ExportError: ``compress()`` was not called, or the file would be of 2 GiB and more.
            FileError: ``path`` cannot be written.
        """
        self._ready("export_quantized_model()")
        data = self.file.with_name(f"{self.file.name}.data")
        if data.is_file():
            raise ExportError(f"{os.fspath(path)} would be of 2 GiB and more: write it with write_qdq(program, path)")
        with atomic_write(path) as lent:
            shutil.copyfile(self.file, lent)


def onnx_session(
    path: str | os.PathLike[str], *, threads: int | None = None, optimized: str | os.PathLike[str] | None = None
) -> Any:
    """An ONNX Runtime session on the CPU.

    Args:
        path: the file, or the bytes of one.
        threads: within one operator; ONNX Runtime's own choice if None.
        optimized: where to write the graph that it made of the file.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ExportError: it cannot load the file.
    """
    try:
        library = import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError("onnxruntime is not installed; it comes with: pip install 'torchpare[onnx]'") from error
    options = library.SessionOptions()
    options.log_severity_level = 3
    # Float inputs of linear layers with int8 weights stay float: by itself ONNX Runtime rounds them on its own grids.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    if optimized is not None:
        options.optimized_model_filepath = os.fspath(optimized)
    try:
        given = path if isinstance(path, bytes) else os.fspath(path)
        return library.InferenceSession(
            given, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(_SLOWER)
        )
    except Exception as error:  # ONNX Runtime has a family of its own for every stage
        first = str(error).strip().partition("\n")[0][:300]
        raise ExportError(f"ONNX Runtime cannot load {path!s:.200}: {first}") from error


def session_runner(session: Any) -> Callable[[list[Tensor]], list[Tensor]]:
    """What runs a session: from the input's tensors to the output's."""
    names = [value.name for value in session.get_inputs()]

    def run(tensors: list[Tensor]) -> list[Tensor]:
        if len(tensors) != len(names):
            raise ExportError(f"the program has the inputs {', '.join(names)}, and {len(tensors)} were given")
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, feed)]

    return run
