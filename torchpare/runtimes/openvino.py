"""OpenVINO on the CPU: it reads the QDQ file, and its low-precision passes make integer kernels of rounded layers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchpare.errors import ExportError, MissingExtraError
from torchpare.runtimes.onnxruntime import ModelSpeedupONNXRuntime
from torchpare.runtimes.openvino_apart import with_roundings_apart
from torchpare.runtimes.openvino_attention import with_early_roundings, with_rows_of_keys
from torchpare.runtimes.openvino_joins import with_written_out_roundings
from torchpare.runtimes.openvino_products import with_small_products_in_float
from torchpare.runtimes.openvino_sizes import Requests
from torchpare.runtimes.openvino_zeros import with_own_zero_points
from torchpare.runtimes.protocol import Runner

__all__ = ["ModelSpeedupOpenVINO", "openvino_runner"]

_PLACES = ("Exception from", "Check '", "FrontEnd API failed", "Model wasn't fully converted")
"""How lines of its errors begin that tell nothing to who wrote the model."""


class ModelSpeedupOpenVINO(ModelSpeedupONNXRuntime):
    """A quantized model in OpenVINO, on the CPU. Its file is ONNX QDQ, which other runtimes read too.

    It is compiled for the sizes of the example; the first input of another batch size takes one more compilation (see
    `torchpare.runtimes.openvino_sizes`).

    For the arguments see :class:`~torchpare.runtimes.protocol.ModelSpeedupRuntime`.
    """

    runtime: ClassVar[str] = "OpenVINO"
    rounds_inputs: ClassVar[bool] = False
    rounds_attention: ClassVar[bool] = True

    def read(self, path: Path) -> Runner:
        """Compile a QDQ file for the example."""
        run = openvino_runner(path, threads=self.threads, example=self.tensors(self.example))
        self.file = path
        return run

    def load_file(self, path: Path) -> Runner:
        """Compile a part of one, which has the sizes that it will meet."""
        return openvino_runner(path, threads=self.threads)


def openvino_runner(path: Path, *, threads: int | None = None, example: Sequence[Tensor] | None = None) -> Runner:
    """What runs an ONNX file in OpenVINO: from the input's tensors to the output's.

    Args:
        path: the file.
        threads: of the CPU; OpenVINO's own choice if None.
        example: inputs for whose sizes it is compiled; for inputs of others, where the file leaves them open, it is
            compiled once more when they come. Without, it is compiled for all sizes at once.

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

    def compiled(model: Any) -> Any:
        model = with_small_products_in_float(model)
        return core.compile_model(model, "CPU", options).create_infer_request()

    try:
        core = library.Core()
        found, names = _read(core, path)
        model = with_own_zero_points(with_rows_of_keys(found))
        # It drops inputs that nothing reads; one input may have several names.
        own = [each.get_names() for each in model.inputs]
        taken = len(own) if names is None else len(names)
        read = [at if names is None else _position(names, each) for at, each in enumerate(own)]
        if example is not None and len(example) == taken:
            example = [example[at] for at in read]
        requests = Requests(model, compiled, example)
    except Exception as error:
        raise ExportError(f"OpenVINO cannot compile {path}: {_reason(error)}") from error
    made = len(model.outputs)
    one_at_a_time = Lock()  # a request holds the input and output of one run

    def run(tensors: list[Tensor]) -> list[Tensor]:
        if len(tensors) != taken:
            raise ExportError(f"the program has {taken} inputs, and {len(tensors)} were given")
        tensors = [tensors[at] for at in read]
        arrays = [tensor.contiguous().numpy() for tensor in tensors]
        with one_at_a_time:
            request = requests.request(tensors)
            for at, array in enumerate(arrays):
                request.set_input_tensor(at, library.Tensor(array, shared_memory=True))
            request.infer(share_outputs=True)
            # Copied: the next run writes into the same memory.
            return [torch.from_numpy(request.get_output_tensor(at).data.copy()) for at in range(made)]

    return run


def _position(names: Sequence[str], own: Collection[str]) -> int:
    """Which of a file's inputs one of the model's is."""
    return next(at for at, name in enumerate(names) if name in own)


def _reason(error: Exception) -> str:
    """What an error of OpenVINO says, without the places in its own source that it begins with."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(_PLACES)]
    return " ".join(told or lines)[:300]


def _read(core: Any, path: Path) -> tuple[Any, list[str] | None]:
    """OpenVINO's model of a file, edited: see ``openvino_joins``, ``openvino_apart`` and ``openvino_attention``.

    With it the names of the file's inputs; None where those of the model are all.
    """
    if path.suffix == ".xml":  # its own format
        return core.read_model(str(path)), None
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    external = any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    # A file of 2 GiB and more cannot be handed over as bytes: it is read as it is.
    if external:
        return core.read_model(str(path)), None
    edited = with_early_roundings(with_roundings_apart(with_written_out_roundings(model)))
    weights = {tensor.name for tensor in edited.graph.initializer}
    names = [value.name for value in edited.graph.input if value.name not in weights]
    return core.read_model(edited.SerializeToString()), names
