"""What is asked of a small model, one question a function: each returns nothing, or raises what is wrong.

The engine's own float64 comparison with the masked model comes with `apply()`; these are what a user does next.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchpare.files.checkpoint import load, save
from torchpare.files.onnx import check_onnx, export_onnx
from torchpare.zoo.outputs import float_tensors, run, tensors
from torchpare.zoo.suites import Case

__all__ = ["MissError", "check_forward", "check_onnx_export", "check_reload", "check_training", "healthy_shapes"]

_RATE = 1e-3  # of the one step: small, so that a random network stays finite


class MissError(Exception):
    """What a model should do and does not."""


@torch.no_grad()
def healthy_shapes(model: nn.Module, inputs: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's outputs by the path to each, after a look at their values.

    Raises:
        MissError: there are none, or some are not finite.
    """
    found = dict(tensors(run(model, inputs)))
    if not found:
        raise MissError("the output holds no tensor")
    for path, tensor in found.items():
        if not bool(torch.isfinite(tensor).all()):
            raise MissError(f"{path} of shape {tuple(tensor.shape)} is not finite")
    return {path: tuple(tensor.shape) for path, tensor in found.items()}


def check_forward(model: nn.Module, inputs: Any, dense: dict[str, tuple[int, ...]], *, varying: bool) -> None:
    """The small model runs, in the dtype it has, and its outputs have the shapes of the dense model's.

    Args:
        model: the small one, in evaluation mode.
        inputs: as the dense model had them.
        dense: the shapes of the dense model's outputs.
        varying: whether their first axis may have another size, as where objects are found.
    """
    small = healthy_shapes(model, inputs)
    if small.keys() != dense.keys():
        raise MissError(f"the dense model returns {', '.join(dense)}; the small one {', '.join(small)}")
    start = 1 if varying else 0
    for path, shape in dense.items():
        if len(small[path]) != len(shape) or small[path][start:] != shape[start:]:
            raise MissError(f"{path} has shape {small[path]}, and {shape} in the dense model")


@torch.no_grad()
def check_reload(case: Case, model: nn.Module, inputs: Any) -> None:
    """The small model, saved and loaded into a fresh one with other weights, computes the same to the last bit."""
    fresh, _ = case.build(seed=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.safetensors"
        save(model, path)
        load(fresh, path)
    before, after = dict(tensors(run(model, inputs))), dict(tensors(run(fresh.eval(), inputs)))
    for path, tensor in before.items():
        if path not in after or not torch.equal(tensor, after[path]):
            raise MissError(f"{path} differs after saving and loading")


def check_onnx_export(model: nn.Module, inputs: Any) -> None:
    """The model, written as ONNX and run by ONNX Runtime, computes the same."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, path, inputs)
        check_onnx(model, path, inputs)


def check_training(model: nn.Module, inputs: Any) -> None:
    """One step of SGD on the mean squares of all outputs, in the mode that the model is in: gradients are finite."""
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_()
    optimizer = torch.optim.SGD(parameters.values(), lr=_RATE)
    optimizer.zero_grad()
    outputs = [output for output in float_tensors(run(model, inputs)) if output.requires_grad and output.numel()]
    if not outputs:
        raise MissError("no output has a gradient")
    torch.stack([output.abs().square().mean() for output in outputs]).sum().backward()
    gradients = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    for name, gradient in gradients.items():
        if not bool(torch.isfinite(gradient).all()):
            raise MissError(f"the gradient of {name} is not finite")
    if not any(bool(gradient.any()) for gradient in gradients.values()):
        raise MissError("every gradient is zero")
    optimizer.step()
