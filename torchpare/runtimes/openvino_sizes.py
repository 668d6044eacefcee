"""A program for each size of the input that comes, in place of one for all of them.

It is faster, and it is what `verify` looks at. OpenVINO 2026.4 computes some programs for open sizes wrongly, those of
Swin and ConvNeXt among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from torchpare.errors import ExportError

__all__ = ["Requests"]

_KEPT = 3
"""How many programs for other sizes than the example's stay compiled."""

_Sizes = tuple[tuple[int, ...], ...]


class Requests:
    """What runs a model, by the sizes of its inputs.

    Args:
        model: an ``openvino.Model``.
        compiled: makes an infer request of one.
        example: inputs for whose sizes one is made at once. Without, or if the model takes no such inputs or leaves no
            size open, there is one request, for all sizes that it takes.
    """

    def __init__(self, model: Any, compiled: Callable[[Any], Any], example: Sequence[Tensor] | None) -> None:
        self._compiled = compiled
        self._first = None if example is None else _sizes(model, example)
        # The weights of a model that is compiled for good need not stay.
        self._model = None if self._first is None else model
        self._made = {self._first: compiled(model if self._first is None else _for_sizes(model, self._first))}

    def request(self, tensors: Sequence[Tensor]) -> Any:
        """What runs the model on these inputs.

        Raises:
            ExportError: it does not take them.
        """
        if self._model is None:
            return self._made[None]
        own = _sizes(self._model, tensors)
        if own is None:
            shapes = ", ".join(str(each.partial_shape) for each in self._model.inputs)
            raise ExportError(f"the program takes inputs of shapes {shapes}")
        if own not in self._made:
            if len(self._made) > _KEPT:
                del self._made[next(each for each in self._made if each != self._first)]
            self._made[own] = self._compiled(_for_sizes(self._model, own))
        return self._made[own]


def _sizes(model: Any, inputs: Sequence[Tensor]) -> _Sizes | None:
    """The sizes of inputs; None of a model that leaves none open, or does not take them."""
    given = tuple(tuple(tensor.shape) for tensor in inputs)
    known = [each.partial_shape for each in model.inputs]
    takes = len(given) == len(known) and all(
        shape.rank.is_static and len(shape) == len(sizes) and all(map(_allows, shape, sizes))
        for shape, sizes in zip(known, given, strict=True)
    )
    return given if takes and any(shape.is_dynamic for shape in known) else None


def _allows(dimension: Any, size: int) -> bool:
    return bool(dimension.is_dynamic or dimension.get_length() == size)


def _for_sizes(model: Any, sizes: _Sizes) -> Any:
    """A copy of a model for inputs of these sizes; the two share their weights."""
    fixed = model.clone()
    fixed.reshape({at: list(shape) for at, shape in enumerate(sizes)})
    return fixed
