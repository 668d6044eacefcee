"""OpenVINO on the CPU: it reads the QDQ file, and its low-precision passes make integer kernels of rounded layers."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchpare.errors import ExportError, MissingExtraError
from torchpare.runtimes.onnxruntime import ModelSpeedupONNXRuntime
from torchpare.runtimes.openvino_attention import with_early_roundings
from torchpare.runtimes.openvino_joins import with_written_out_roundings

__all__ = ["ModelSpeedupOpenVINO", "openvino_runner"]


class ModelSpeedupOpenVINO(ModelSpeedupONNXRuntime):
    """A quantized model in OpenVINO, on the CPU. Its file is ONNX QDQ, which other runtimes read too.

    For the arguments see :class:`~torchpare.runtimes.protocol.ModelSpeedupRuntime`.
    """

    runtime: ClassVar[str] = "OpenVINO"
    rounds_inputs: ClassVar[bool] = False

    def load_file(self, path: Path) -> Callable[[list[Tensor]], list[Tensor]]:
        """Compile a QDQ file."""
        return openvino_runner(path, threads=self.threads)


def openvino_runner(path: Path, *, threads: int | None = None) -> Callable[[list[Tensor]], list[Tensor]]:
    """What runs an ONNX file in OpenVINO: from the input's tensors to the output's.

    Args:
        path: the file.
        threads: of the CPU; OpenVINO's own choice if None.

    Raises:
        MissingExtraError: openvino is not installed.
        ExportError: it cannot compile the file.
    """
    try:
        library = import_module("openvino")
    except ImportError as error:
        raise MissingExtraError(
            "openvino is not installed; it comes with: pip install 'torchpare[openvino]'"
        ) from error
    # What is float stays float32: by itself OpenVINO turns to bfloat16 on processors that have it, and rounds the
    # inputs of linear layers with int8 weights on grids of its own.
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "PERFORMANCE_HINT": "LATENCY",
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        core = library.Core()
        compiled = core.compile_model(_read(core, path), "CPU", options)
    except Exception as error:
        first = str(error).strip().partition("\n")[0][:300]
        raise ExportError(f"OpenVINO cannot compile {path}: {first}") from error
    request = compiled.create_infer_request()

    def run(tensors: list[Tensor]) -> list[Tensor]:
        if len(tensors) != len(compiled.inputs):
            raise ExportError(f"the program has {len(compiled.inputs)} inputs, and {len(tensors)} were given")
        request.infer([tensor.numpy() for tensor in tensors], share_inputs=True)
        # Copied: the next run writes into the same memory.
        return [torch.from_numpy(request.get_output_tensor(at).data.copy()) for at in range(len(compiled.outputs))]

    return run


def _read(core: Any, path: Path) -> Any:
    """OpenVINO's model of a file; see `torchpare.runtimes.openvino_joins` and ``openvino_attention``."""
    if path.suffix == ".xml":  # its own format
        return core.read_model(str(path))
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    external = any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    # A file of 2 GiB and more cannot be handed over as bytes: it is read as it is.
    if external:
        return core.read_model(str(path))
    return core.read_model(with_early_roundings(with_written_out_roundings(model)).SerializeToString())
