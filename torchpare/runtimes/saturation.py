"""Whether ONNX Runtime's integer kernels add exactly on this processor.

On x86 without VNNI its kernels multiply unsigned activations by signed weights and add two neighbouring products in 16
bits: 255 x 127 twice is 64770, and what is above 32767 becomes 32767. Two products of a 7-bit weight are at most 32640,
so weights of 7 bits are always exact. Rather than by the names of instructions, it is found out by multiplying.
"""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import torch
from torch import nn

from torchpare.runtimes.integers import EXACT

__all__ = ["adds_exactly", "warn_of_saturation"]


@cache
def adds_exactly() -> bool:
    """Whether the largest activations and weights of eight bits give exact sums in ONNX Runtime, here."""
    from onnx import TensorProto, helper
    from onnxruntime import InferenceSession

    size = 64  # long enough for every kernel's widest step
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["activations", "weights"], ["sums"])],
        "sums",
        [helper.make_tensor_value_info("activations", TensorProto.UINT8, [1, size])],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [1, size])],
        [helper.make_tensor("weights", TensorProto.INT8, [size, size], np.full((size, size), 127, np.int8).ravel())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"activations": np.full((1, size), 255, np.uint8)})
    return bool((np.asarray(sums) == 255 * 127 * size).all())


def warn_of_saturation(module: nn.Module) -> None:
    """Say so if a program's weights may saturate sums on this processor.

    Args:
        module: a program's module, whose int8 buffers are its weights.
    """
    wide = [name for name, held in module.named_buffers() if held.dtype == torch.int8 and _above(held)]
    if wide and not adds_exactly():
        warnings.warn(
            f"this processor has no instructions (VNNI) that add products of eight bits exactly, and the weights of "
            f"{len(wide)} layers, {wide[0]} among them, use all eight: sums may saturate, and results be off by much "
            "more than a step. Quantize weights with 7 bits (quant_bits={'weight': 7, ...}), which is as fast here, or "
            "run the file where there is VNNI; torchpare verify says whether it matters",
            stacklevel=4,
        )


def _above(weight: torch.Tensor) -> bool:
    return weight.numel() > 0 and int(weight.to(torch.int16).abs().max()) > EXACT
