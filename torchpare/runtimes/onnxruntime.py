"""ONNX Runtime on the CPU: the QDQ file, whose rounded layers it fuses into integer kernels when it loads it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchpare.errors import ExportError, MissingExtraError
from torchpare.files.atomic import atomic_write
from torchpare.runtimes.parts import Part, parts_of
from torchpare.runtimes.program import QuantizedProgram
from torchpare.runtimes.protocol import ModelSpeedupRuntime, Runner
from torchpare.runtimes.qdq import write_qdq
from torchpare.runtimes.saturation import warn_of_saturation
from torchpare.runtimes.unpacking import unpacked

__all__ = ["ModelSpeedupONNXRuntime", "onnx_session"]

_SLOWER = ("SkipLayerNormFusion",)
"""What ONNX Runtime does to a graph by itself and is slower for on the CPU: its kernel for a sum and a layer norm in
one takes several times as long as the two kernels do (as of 1.32)."""

_PROPAGATES = "QDQPropagationTransformer"
"""What repeats a rounding behind a transposition or a reshaping. In files of opset 21 and more it writes down the type
of signed integers in a way that ONNX Runtime refuses itself (as of 1.32); the program repeats its roundings already."""

_MISTYPED = "output_dtype"
"""What ONNX Runtime says of that."""

_ROUNDS_FLOATS = "WeightBiasQuantization"
"""What makes ONNX Runtime round weights that are floats; see `torchpare.runtimes.integer_biases`."""


class ModelSpeedupONNXRuntime(ModelSpeedupRuntime):
    """A quantized model in ONNX Runtime, on the CPU. Its file is ONNX QDQ, which other runtimes read too.

    On x86 without VNNI instructions ONNX Runtime's kernels add up two products in 16 bits, which may saturate: there
    it warns; weights of 7 bits and fewer are exact everywhere.

    For the arguments see :class:`~torchpare.runtimes.protocol.ModelSpeedupRuntime`.
    """

    runtime: ClassVar[str] = "ONNX Runtime"
    rounds_inputs: ClassVar[bool] = True

    blocks: ClassVar[bool] = True
    """Whether it reads weights of linear layers in four bits, and in groups."""

    adds_pairs: ClassVar[bool] = True
    """Whether its kernels, where there is no VNNI, add two products in 16 bits."""

    file: Path
    """The QDQ file that is being executed."""

    def take(self, program: QuantizedProgram) -> Runner:
        """Write the file, and load it."""
        if self.adds_pairs:
            warn_of_saturation(program.module)
        path = self.folder() / "model.onnx"
        write_qdq(program, path, blocks=self.blocks)
        return self.read(path)

    def read(self, path: Path) -> Runner:
        """Load a QDQ file."""
        run = self.load_file(path)
        self.file = path
        return run

    def load_file(self, path: Path) -> Runner:
        """What runs an ONNX file; verifying asks for this on parts of the program."""
        return session_runner(onnx_session(path, threads=self.threads, round_inputs=self.round_inputs))

    def run_parts(self, data: Any, seen: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What the kernels make at each site and of each output, by parts of the file that is being executed."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "part.onnx"

            def run(part: Part) -> list[Tensor]:
                path.write_bytes(part.model)
                return self.load_file(path)(list(part.inputs))

            whole, parts = parts_of(self.file, self.made(), self.tensors(data), seen)
            together = run(whole)
            return [run(part)[0] for part in parts], together

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
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    optimized: str | os.PathLike[str] | None = None,
    round_inputs: bool = False,
) -> Any:
    """An ONNX Runtime session on the CPU.

    Args:
        path: the file, or the bytes of one.
        threads: within one operator; ONNX Runtime's own choice if None.
        optimized: where to write the graph that it makes of the file as it lies there; without, weights that no kernel
            takes as integers are given their values here, once (see `torchpare.runtimes.unpacking`), and weights that
            are floats stay floats.
        round_inputs: let the four-bit kernel round its float inputs to eight bits, by block.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ExportError: it cannot load the file.
    """
    try:
        library = import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError("onnxruntime is not installed; it comes with: pip install 'torchpare[onnx]'") from error
    options = library.SessionOptions()
    options.log_severity_level, providers = 3, ["CPUExecutionProvider"]
    # Float inputs of linear layers stay float unless that is asked for: by itself ONNX Runtime rounds them on its own
    # grids.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4" if round_inputs else "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    if optimized is not None:
        options.optimized_model_filepath = os.fspath(optimized)
    try:
        given, disabled = path if isinstance(path, bytes) else os.fspath(path), [*_SLOWER]
        ready = unpacked(Path(given)) if isinstance(given, str) and optimized is None else None
        if ready is not None:
            given, disabled = ready, [*disabled, _ROUNDS_FLOATS]
        try:
            return library.InferenceSession(given, options, providers=providers, disabled_optimizers=disabled)
        except Exception as error:
            if _MISTYPED not in str(error):
                raise
            disabled += [_PROPAGATES]
            return library.InferenceSession(given, options, providers=providers, disabled_optimizers=disabled)
    except Exception as error:  # ONNX Runtime has a family of its own for every stage
        first = str(error).strip().partition("\n")[0][:300]
        raise ExportError(f"ONNX Runtime cannot load {path!s:.200}: {first}") from error


def session_runner(session: Any) -> Runner:
    """What runs a session: from the input's tensors to the output's."""
    names = [value.name for value in session.get_inputs()]

    def run(tensors: list[Tensor]) -> list[Tensor]:
        if len(tensors) != len(names):
            raise ExportError(f"the program has the inputs {', '.join(names)}, and {len(tensors)} were given")
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, feed)]

    return run
