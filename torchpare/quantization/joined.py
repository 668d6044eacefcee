"""Which activations need one grid between them: those that a concatenation puts side by side.

A runtime that concatenates integers only copies them, if all have one scale; TensorRT, XNNPACK and the mobile runtimes
ask for that, the others lose a requantization where it is not so. The inputs of an addition need nothing of the kind:
integer additions take two scales. Found by running the model once and watching which values reach ``torch.cat``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from torchpare.errors import CaptureError
from torchpare.graph.capture import call_arguments
from torchpare.quantization.places import Place, evaluating

__all__ = ["joined_outputs"]

_CONCATENATIONS = frozenset(
    {"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack", "row_stack"}
)
_SAME_VALUES = frozenset(
    {
        "view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "movedim", "squeeze", "unsqueeze",
        "contiguous", "clone", "expand", "chunk", "split", "unbind", "narrow", "select", "__getitem__", "max_pool1d",
        "max_pool2d", "max_pool3d", "_max_pool1d", "_max_pool2d", "_max_pool3d", "dropout", "dropout2d", "dropout3d",
        "channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "roll", "flip", "repeat", "adaptive_max_pool2d",
    }
)  # fmt: skip
"""What hands values on, or some of them, and makes no new ones."""


def joined_outputs(model: nn.Module, places: Iterable[Place], dummy_input: Any) -> list[list[Place]]:
    """The groups of outputs among ``places`` that meet in a concatenation, in the model's order.

    Args:
        model: run once in evaluation mode, and not changed.
        places: activations that will be quantized.
        dummy_input: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Raises:
        CaptureError: the model does not run on ``dummy_input``.
    """
    outputs = [place for place in places if place.kind == "output"]
    watch = _Watch({id(place.layer): at for at, place in enumerate(outputs)})
    handles = [place.layer.register_forward_hook(watch.see) for place in outputs]
    args, kwargs = call_arguments(dummy_input)
    try:
        with evaluating(model), torch.no_grad(), watch:
            model(*args, **kwargs)
    except Exception as error:
        raise CaptureError(f"the model does not run on dummy_input: {type(error).__name__}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    return [[outputs[at] for at in sorted(group)] for group in _united(watch.met)]


class _Watch(TorchFunctionMode):
    """Follows values from the layers that returned them to the concatenations that take them in."""

    def __init__(self, numbers: dict[int, int]) -> None:
        super().__init__()
        self.numbers = numbers
        self.sources: dict[int, frozenset[int]] = {}
        self.met: list[frozenset[int]] = []
        self._kept: list[Tensor] = []  # while they live, no other tensor gets their identity

    def see(self, layer: nn.Module, args: Any, output: Any) -> None:
        """A layer returned something; of several tensors the first is what is quantized."""
        del args
        first = output[0] if isinstance(output, tuple | list) and output else output
        self._tell(first, frozenset({self.numbers[id(layer)]}))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _CONCATENATIONS or name in _SAME_VALUES:
            given = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, Tensor)]
            known = frozenset[int]().union(*(self.sources.get(id(leaf), frozenset()) for leaf in given))
            if name in _CONCATENATIONS and len(known) > 1:
                self.met.append(known)
            for leaf in pytree.tree_leaves(result):
                self._tell(leaf, known)
        return result

    def _tell(self, value: Any, sources: frozenset[int]) -> None:
        if isinstance(value, Tensor) and sources:
            self.sources[id(value)] = sources
            self._kept.append(value)


def _united(sets: Sequence[frozenset[int]]) -> list[set[int]]:
    """Sets that share a member become one."""
    groups: list[set[int]] = []
    for own in sets:
        touched = [group for group in groups if group & own]
        groups = [group for group in groups if not group & own]
        groups.append(set(own).union(*touched))
    return sorted(groups, key=min)
