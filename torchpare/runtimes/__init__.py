"""From simulated to real: a quantized model as one explicit program, and that program in the runtimes that execute it.

``build_program`` makes the program, ``write_qdq`` its ONNX file, a class for each runtime runs it, and ``verify`` holds
what the runtime computes beside what PyTorch does.
"""

from __future__ import annotations

from torchpare.runtimes.executorch import ModelSpeedupExecuTorch
from torchpare.runtimes.inductor import ModelSpeedupInductor
from torchpare.runtimes.onnxruntime import ModelSpeedupONNXRuntime
from torchpare.runtimes.openvino import ModelSpeedupOpenVINO
from torchpare.runtimes.program import FloatPlace, QuantizedProgram, Site, build_program
from torchpare.runtimes.protocol import ModelSpeedupRuntime, Runtime
from torchpare.runtimes.qdq import write_qdq
from torchpare.runtimes.tensorrt import ModelSpeedupTensorRT
from torchpare.runtimes.verify import LayerProof, NumbersProof, verify

RUNTIMES: dict[str, type[ModelSpeedupRuntime]] = {
    "onnxruntime": ModelSpeedupONNXRuntime,
    "openvino": ModelSpeedupOpenVINO,
    "inductor": ModelSpeedupInductor,
    "executorch": ModelSpeedupExecuTorch,
    "tensorrt": ModelSpeedupTensorRT,
}
"""By the names that the command line knows."""

__all__ = [
    "RUNTIMES",
    "FloatPlace",
    "LayerProof",
    "ModelSpeedupExecuTorch",
    "ModelSpeedupInductor",
    "ModelSpeedupONNXRuntime",
    "ModelSpeedupOpenVINO",
    "ModelSpeedupRuntime",
    "ModelSpeedupTensorRT",
    "NumbersProof",
    "QuantizedProgram",
    "Runtime",
    "Site",
    "build_program",
    "verify",
    "write_qdq",
]
