"""TensorRT: the QDQ file, made and checked here; the engine is built by TensorRT where a card and its library are."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchpare.errors import ExportError, MissingExtraError
from torchpare.files.atomic import atomic_write
from torchpare.runtimes.onnxruntime import ModelSpeedupONNXRuntime
from torchpare.runtimes.protocol import Runner
from torchpare.runtimes.qdq import check_qdq

__all__ = ["ModelSpeedupTensorRT"]


class ModelSpeedupTensorRT(ModelSpeedupONNXRuntime):
    """A quantized model for TensorRT, under the name that NNI gave it.

    ``compress()`` writes and checks the QDQ file everywhere; ``inference()`` builds an engine from it first, which
    needs the tensorrt library and a CUDA card. ``export_quantized_model`` writes the engine if one was built, and the
    QDQ file, which ``trtexec --onnx=FILE --int8`` builds one from, if not. TensorRT takes symmetric grids alone:
    what is calibrated here has them; quantize activations with ``"quant_scheme": "symmetric"``, for ``compress()``
    takes over what a quantizer chose or names what is not symmetric.

    For the arguments see :class:`~torchpare.runtimes.protocol.ModelSpeedupRuntime`.
    """

    runtime: ClassVar[str] = "TensorRT"
    blocks: ClassVar[bool] = False
    rounds_inputs: ClassVar[bool] = False
    symmetric: ClassVar[bool] = True
    adds_pairs: ClassVar[bool] = False

    _engine: bytes | None = None

    def load_file(self, path: Path) -> Runner:
        """Check a QDQ file; the engine is built at the first inference."""
        check_qdq(path)
        if self.program is not None:
            uneven = [site.name for site in self.program.sites if site.step.zero_point or site.step.low >= 0]
            if uneven:
                raise ExportError(
                    f"TensorRT takes symmetric int8 grids, and {len(uneven)} sites have others, the first "
                    f"{uneven[0]!r}: quantize with 'quant_scheme': 'symmetric' for inputs and outputs"
                )
        built: list[Runner] = []

        def run(tensors: list[Tensor]) -> list[Tensor]:
            if not built:
                self._engine = _build(path.read_bytes(), tensors)
                built.append(_runner(self._engine))
            return built[0](tensors)

        return run

    def read(self, path: Path) -> Runner:
        """Take a QDQ file, or an engine."""
        if path.suffix == ".onnx":
            return super().read(path)
        self._engine, self.file = path.read_bytes(), path
        return _runner(self._engine)

    def export_quantized_model(self, path: str | os.PathLike[str]) -> None:
        """Write the engine, or the QDQ file where none was built."""
        if self._engine is None:
            super().export_quantized_model(path)
            return
        with atomic_write(path) as lent:
            lent.write_bytes(self._engine)


def _library() -> Any:
    try:
        return import_module("tensorrt")
    except ImportError as error:
        raise MissingExtraError(
            "tensorrt is not installed; it comes with: pip install 'torchpare[tensorrt]', and needs a CUDA card. "
            "The QDQ file that it takes is made without it: export_quantized_model(path)"
        ) from error


def _build(onnx: bytes, tensors: list[Tensor]) -> bytes:
    """A serialized engine for inputs of these shapes, any batch up to theirs."""
    trt = _library()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        raise ExportError(f"TensorRT refuses the QDQ file: {parser.get_error(0)}")
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for at, tensor in enumerate(tensors):
        shape = tuple(tensor.shape)
        profile.set_shape(network.get_input(at).name, (1, *shape[1:]), shape, shape)
    config.add_optimization_profile(profile)
    made = builder.build_serialized_network(network, config)
    if made is None:
        raise ExportError("TensorRT could not build an engine; its log says why")
    return bytes(made)


def _runner(engine: bytes) -> Runner:
    """What runs an engine on the card, from and to the CPU."""
    trt = _library()
    loaded = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(engine)
    if loaded is None:
        raise ExportError("TensorRT cannot load the engine: it was built by another version, or for another card")
    context = loaded.create_execution_context()
    names = [loaded.get_tensor_name(at) for at in range(loaded.num_io_tensors)]
    inputs = [name for name in names if loaded.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if name not in inputs]

    def run(tensors: list[Tensor]) -> list[Tensor]:
        held = [tensor.cuda() for tensor in tensors]
        for name, tensor in zip(inputs, held, strict=True):
            context.set_input_shape(name, tuple(tensor.shape))
            context.set_tensor_address(name, tensor.data_ptr())
        made = [torch.empty(tuple(context.get_tensor_shape(name)), device="cuda") for name in outputs]
        for name, tensor in zip(outputs, made, strict=True):
            context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream()
        context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return [tensor.cpu() for tensor in made]

    return run
