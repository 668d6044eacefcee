"""A model in one file with all that compressing made of it: small tensors, structure, and the quantizers on it.

    torchpare.save(model, "small.safetensors")
    model = torchpare.load(ResNet20(), "small.safetensors")    # in a new process: no config_list, no dummy input

For a model without quantizers this is `torchpare.files.checkpoint`, and the file the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from torchpare.attach import FakeQuantize, attach_activation_quantizer, attach_weight_quantizer
from torchpare.attach.quantized import check_quantizable
from torchpare.attach.reading import ACTIVATIONS
from torchpare.errors import CheckpointError, QuantizationError
from torchpare.files import checkpoint
from torchpare.files.example import device_of
from torchpare.quantization.saved import Hung, check_numbers, child_of, described, read_quantizers

__all__ = ["load", "save"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)
_SHAPED = ("scale", "zero_point", "low", "high", "offset")
"""What has a shape that follows the granularity and, once a range is known, the weight."""


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes a model, shrunk, quantized, both or neither, as one safetensors file without pickle.

    Parameters and persistent buffers are written with their dtypes, dense weights after quantized ones among them;
    tensors that share memory are written once, and are shared again after loading. Of quantizers, the kind, the grid
    and the place go into the record, and what they know (scales, ranges, counted steps) is written as tensors.

    Args:
        model: a model without masks: shrink it first, or detach the masks.
        path: the file to write, such as `small.safetensors`. It appears whole or not at all.

    Raises:
        CheckpointError: the model still has masks, only a part of it was shrunk, it keeps state other than tensors, or
            a tensor without data or of a kind that safetensors cannot hold, or a quantizer that is none of torchpare's.
        FileError: `path` cannot be written.
    """
    checkpoint.save(model, path, quantizers=described(model))


def load(model: AnyModule, path: str | os.PathLike[str]) -> AnyModule:
    """Makes a freshly built model of the original class into the one that :func:`save` wrote; returns the same object.

    Values, shapes and dtypes come from the file; device and `requires_grad` stay as they are in `model` (a model
    built on the meta device comes to the CPU). Parameters become new objects, and learnt grids are among them, so make
    the optimizer afterwards. Quantizers that wait for a step count passes from now on.

    Args:
        model: a model as its class builds it: neither shrunk, masked nor quantized, with the arguments of the original.
        path: a file of :func:`save`.

    Raises:
        CheckpointError: the file is missing, truncated, foreign or changed, or does not fit the model: keys too many or
            too few, tensors larger than the model's, sizes that do not belong to it, quantizers for places it has not.
            The model is then as it was.
    """
    return checkpoint.load(model, path, prepare=partial(_prepared, source=str(path)))


def _prepared(
    model: nn.Module, words: dict[str, Any], tensors: Mapping[str, Tensor], source: str
) -> tuple[set[str], Callable[[], None]]:
    """Quantizers made of words and tensors, all of them checked: which tensors are theirs, and what hangs them on."""
    saved = read_quantizers(words, source)
    modules = dict(model.named_modules())
    paths: dict[int, list[str]] = {}  # a module that lies in several places is saved under each of its names
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(id(module), []).append(path)
    made: list[FakeQuantize] = []
    taken: set[str] = set()
    for at, own in enumerate(saved.hung):
        _check_place(modules, own, source)
        state: dict[str, Tensor] = {}
        for path in paths[id(modules[own.layer])]:
            prefix = f"{path}.{child_of(own.of)}.".lstrip(".")
            named = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            state |= {name.removeprefix(prefix): tensor for name, tensor in named.items()}
            taken |= set(named)
        if own.same_as is not None:
            if not 0 <= own.same_as < at:
                raise CheckpointError(f"{source}: {own.name} shares the quantizer of place {own.same_as}, which is "
                                      "none before it")  # fmt: skip
            made.append(made[own.same_as])
            continue
        quantizer = own.made()
        weight = None if own.of in ACTIVATIONS else tensors.get(f"{own.layer}.{own.of}".lstrip("."))
        _check_granularity(own, weight, source)
        _fill(quantizer, state, weight, source)
        made.append(quantizer)
    for own, quantizer in zip(saved.hung, made, strict=True):
        if not all(0 <= other < len(made) and made[other] is not quantizer for other in own.joined_with):
            raise CheckpointError(f"{source}: {own.name} shares its grid with places that are none: {own.joined_with}")
        quantizer.joined = tuple(made[other] for other in own.joined_with)

    def hang_on() -> None:
        device = device_of(model)  # of layers that have no parameters to tell it, such as a ReLU
        for own, quantizer in zip(saved.hung, made, strict=True):
            layer = modules[own.layer]
            if own.of in ACTIVATIONS:
                quantizer.to(device)
                attach_activation_quantizer(layer, own.of, quantizer)  # type: ignore[arg-type]
            else:
                attach_weight_quantizer(layer, own.of, quantizer, None if own.fold is None else modules[own.fold])

    return taken, hang_on


def _check_place(modules: Mapping[str, nn.Module], own: Hung, source: str) -> None:
    layer = modules.get(own.layer)
    if layer is None:
        raise CheckpointError(f"{source} has a quantizer for {own.layer!r}, a layer that this model lacks")
    if own.of not in ACTIVATIONS and layer._parameters.get(own.of) is None:  # noqa: SLF001 - reading could be a property
        raise CheckpointError(f"{source} has a quantizer for {own.layer}.{own.of}, a parameter that this model lacks")
    if own.fold is not None and not isinstance(modules.get(own.fold), nn.modules.batchnorm._BatchNorm):  # noqa: SLF001
        raise CheckpointError(f"{source} folds {own.fold!r} into {own.name}, which is no batch norm in this model")
    try:
        check_quantizable(layer, own.layer, child_of(own.of))
    except QuantizationError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _check_granularity(own: Hung, weight: Tensor | None, source: str) -> None:
    size = own.group_size
    grouped = weight is not None and weight.dim() > 1 and size > 0 and weight[0].numel() % size == 0
    if (own.of in ACTIVATIONS and own.granularity != "tensor") or (own.granularity == "group" and not grouped):
        raise CheckpointError(f"{source}: {own.name} has no scales by {own.granularity} (group_size {size})")


def _fill(quantizer: FakeQuantize, state: Mapping[str, Tensor], weight: Tensor | None, source: str) -> None:
    """Give a quantizer what it knew; of a weight, the shapes are checked beside it."""
    shapes: list[Sequence[int]] = [()]
    if weight is not None:
        granules = quantizer.granules(weight)
        over = quantizer.dims(granules)
        over = range(granules.dim()) if over is None else over
        shapes.append([1 if at in over else size for at, size in enumerate(granules.shape)])
    for key, given in state.items():
        known = quantizer._parameters.get(key, quantizer._buffers.get(key))  # noqa: SLF001 - to change a shape
        fits = known is not None and (given.shape == known.shape or (key in _SHAPED and list(given.shape) in shapes))
        # The scales of a float64 weight are float64.
        kinds = (known.dtype, torch.float64) if known is not None and known.is_floating_point() else ()
        if known is None or not fits or given.dtype not in (*kinds, known.dtype):
            raise CheckpointError(f"{source}: the quantizer of {quantizer.name} has no {key!r} of {given.dtype} and of "
                                  f"the shape {tuple(given.shape)}")  # fmt: skip
        if given.shape != known.shape or given.dtype != known.dtype:
            known.data = torch.empty_like(given)
    try:
        quantizer.load_state_dict(dict(state))
    except RuntimeError as error:
        what = " ".join(str(error).split())
        raise CheckpointError(f"{source}: the quantizer of {quantizer.name} is not as the file says: {what}") from error
    check_numbers(quantizer, source)
