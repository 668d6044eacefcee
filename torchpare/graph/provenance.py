"""Seeing numbers before they lose their origin.

A dispatched operator receives plain integers. One level above, at the functions that the model's own Python code calls,
the same integers still are `Size` objects that know their expression: this mode notes them down.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from torchpare.graph.program import Call, Scale
from torchpare.graph.sizes import Const, Expr, Power, Size, expression, plain

__all__ = ["EVEN_SPLITS", "RECURRENT", "Provenance"]


class Watcher(Protocol):
    """What is told of each call: the recorder of the run."""

    call: Call | None
    depth: int
    scales: list[Scale]

    def uid(self, tensor: Tensor) -> int:
        """The uid of a tensor."""
        ...

    def shape(self, tensor: Tensor) -> torch.Size:
        """The shape of a tensor, every size knowing its axis."""
        ...

    def scale(self, tensor: Tensor, number: Power, sign: int = 1) -> None:
        """The model's code multiplies values with a power of a size."""
        ...

    def compare(self, left: Expr, right: Expr, equal: bool) -> None:
        """The model's code relies on two sizes being equal, or not."""
        ...


class Provenance(TorchFunctionMode):
    """Answers size questions with `Size`, and notes the expressions of the numbers passed to shape operators."""

    def __init__(self, recorder: Watcher) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == Tensor.shape.__get__:  # type: ignore[attr-defined] - a new wrapper at each look, so not `is`
            return self.recorder.shape(args[0])
        if func is Tensor.size:
            shape = self.recorder.shape(args[0])
            dim = _argument(args, kwargs, 1, "dim")
            return shape if dim is None else shape[dim]
        if func is Tensor.stride:
            strides = _strides(args[0], self.recorder.shape(args[0]))
            dim = _argument(args, kwargs, 1, "dim")
            return strides if dim is None else strides[dim]
        if func is Tensor.numel or func is torch.numel:
            return _product(self.recorder.shape(_argument(args, kwargs, 0, "input")))
        if getattr(func, "__name__", "") == _STOCK_ATTENTION:
            with _looked_into(), self:
                return func(*args, **kwargs)
        call = self._note(getattr(func, "__name__", ""), args, kwargs)
        outer, self.recorder.call = self.recorder.call, call or self.recorder.call
        self.recorder.depth += 1
        try:
            result = func(*args, **kwargs)
        finally:
            self.recorder.call = outer
            self.recorder.depth -= 1
        if call is not None:
            call.results = tuple(
                self.recorder.uid(leaf)
                for leaf in ((result,) if isinstance(result, Tensor) else pytree.tree_leaves(result))
                if isinstance(leaf, Tensor)
            )
        return result

    def _note(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """The calls whose sizes are those of another tensor, or default to them; then all others."""
        if name == "expand_as":
            return Call(name, sizes=tuple(_expressions(self.recorder.shape(_argument(args, kwargs, 1, "other")))))
        if name == "normalize":  # its norms are expanded to the shape of what they divide
            divided = _argument(args, kwargs, 0, "input")
            return Call(name, sizes=tuple(_expressions(self.recorder.shape(divided))))
        if name == "unflatten":
            return Call(
                name, sizes=_unflattened(self.recorder.shape(_argument(args, kwargs, 0, "input")), args, kwargs)
            )
        if name == "narrow":
            return Call(name, slices=_narrowed(args, kwargs))
        if name == "rms_norm":  # its operators know nothing of the shape, which must be its input's
            asked = _argument(args, kwargs, 1, "normalized_shape")
            shape = self.recorder.shape(_argument(args, kwargs, 0, "input"))
            for size, wanted in zip(shape[-len(asked) :], asked, strict=True):
                self.recorder.compare(expression(size), expression(wanted), True)
            return Call(name, sizes=tuple(_expressions(asked)))
        self._note_scales(name, args, kwargs)
        return _note(name, args, kwargs)

    def _note_scales(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Powers of sizes that scale values; those that do anything else are lost."""
        if name == "scaled_dot_product_attention":
            query, scale = _argument(args, kwargs, 0, "query"), kwargs.get("scale")
            if scale is None:
                width = self.recorder.shape(query)[-1]
                site, value = "an attention with the default scale", plain(width)
                self.recorder.scales.append(Scale(self.recorder.uid(query), expression(width), value, -0.5, site))
            if isinstance(scale, Power):
                self.recorder.scale(query, scale)
                return
        powers = [leaf for leaf in (*args, *kwargs.values()) if isinstance(leaf, Power)]
        if len(powers) == 1 and name in _SCALINGS and isinstance(args[0], Tensor) and args[1:] == tuple(powers):
            self.recorder.scale(args[0], powers[0], _SCALINGS[name])
            return
        for power in _leaves((args, kwargs)) if powers or name not in _SCALINGS else ():
            if isinstance(power, Power):
                power.root.lost = True


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str) -> Any:
    """An argument that may be given by position or by name; None where it is not given."""
    return args[position] if len(args) > position else kwargs.get(name)


@contextmanager
def _looked_into() -> Iterator[None]:
    """While this lasts, torch's functions that are written in Python run as they are, and what they call is seen.

    Otherwise such a function is handed to the mode as a whole, which has to step aside to run it.
    """
    names: dict[str, Any] = functional.__dict__
    asked = names["has_torch_function"]
    names["has_torch_function"] = lambda _: False
    try:
        yield
    finally:
        names["has_torch_function"] = asked


def _strides(tensor: Tensor, shape: torch.Size) -> tuple[int, ...]:
    """The strides of a tensor, as products of sizes where its entries lie in order."""
    strides = tuple(tensor.stride())
    followed = tuple(_product(shape[axis + 1 :]) for axis in range(len(shape)))
    return followed if strides == tuple(map(plain, followed)) else strides


def _product(sizes: torch.Size) -> int:
    total = 1
    for size in sizes:
        total = size * total if isinstance(size, Size) else total * size
    return total


_SHAPE_CALLS = frozenset({"view", "reshape", "expand", "zeros", "ones", "empty", "full", "randn", "rand"}) | frozenset(
    {"new", "new_zeros", "new_ones", "new_empty", "new_full", "repeat", "tile"}
)
_STOCK_ATTENTION = "multi_head_attention_forward"
"""Python code of torch's own that checks sizes and splits heads."""
EVEN_SPLITS = frozenset({"tensor_split", "hsplit", "vsplit", "dsplit"})
"""Given a number, these make so many pieces of what there is, by slicing."""
RECURRENT = frozenset(
    {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}
)
_SPLIT_CALLS = frozenset({"split", "split_with_sizes", "chunk"})
_NUMBER_CALLS = frozenset(
    f"{prefix}{name}{suffix}"
    for name in ("add", "sub", "mul", "div", "truediv", "pow", "true_divide", "floor_divide")
    for prefix, suffix in (("", ""), ("", "_"), ("__", "__"), ("__r", "__"), ("__i", "__"))
)
"""Arithmetic between a tensor and a number: a size that takes part in it is a number like any other."""
_SCALINGS = dict.fromkeys(("mul", "__mul__", "__rmul__", "multiply"), 1) | dict.fromkeys(
    ("div", "__div__", "__truediv__", "true_divide", "divide"), -1
)
"""Functions that multiply a tensor, and those that divide it, with the sign that a power gets there."""
_VALUE_CALLS = frozenset(
    f"{name}{suffix}"
    for name in ("clamp", "clamp_min", "clamp_max", "clip", "fill", "masked_fill", "full_like", "where", "lerp")
    for suffix in ("", "_")
) | {"tensor", "as_tensor", "new_tensor", "scalar_tensor", "one_hot"}
"""Functions that put a number into tensors, or make as many of something."""
_WINDOW_CALLS = frozenset(
    f"{kind}_pool{rank}d{suffix}"
    for kind in ("max", "avg", "lp")
    for rank in (1, 2, 3)
    for suffix in ("", "_with_indices")
)
"""Functions that are told how wide their windows are."""
_GROUP_CALLS = {"conv1d": 6, "conv2d": 6, "conv3d": 6, "group_norm": 1, "channel_shuffle": 1} | {
    f"conv_transpose{rank}d": 6 for rank in (1, 2, 3)
}


def _note(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:  # noqa: PLR0911 - a line for each kind
    """The expressions of a call that takes sizes, positions or a number of groups; None for every other call."""
    if name in _SHAPE_CALLS:
        if name in ("full", "new_full"):
            _used_as_numbers((args[-1:] if len(args) > 1 else (), kwargs.get("fill_value")))
        return Call(name, sizes=_requested_shape(name, args, kwargs))
    if name in _SPLIT_CALLS:
        numbers = [*args[1:2], *(kwargs[key] for key in kwargs if "split" in key or key in ("sections", "chunks"))]
        return Call(name, sizes=tuple(_expressions(numbers)))
    if name in EVEN_SPLITS:
        given = args[1] if len(args) > 1 else kwargs.get("sections", kwargs.get("indices_or_sections"))
        return Call(name, number=expression(given) if isinstance(given, int) else None)
    if name in ("arange", "eye", "linspace"):
        numbers = [number for number in args if isinstance(number, int)]
        return Call(name, sizes=tuple(_expressions(numbers)), numbers=tuple(map(plain, numbers)))
    if name in _NUMBER_CALLS or name in _VALUE_CALLS or name in _WINDOW_CALLS:
        _used_as_numbers((args, kwargs))
        return None
    if name in ("__getitem__", "__setitem__"):
        return Call(name, slices=_slices(args[0], args[1]))
    if name in RECURRENT or name == "take_along_dim":
        return Call(name)
    if name == "pad":
        return Call(name, sizes=tuple(_expressions(args[1] if len(args) > 1 else kwargs.get("pad", ()))))
    if name == "layer_norm":
        shape = args[1] if len(args) > 1 else kwargs.get("normalized_shape", ())
        return Call(name, sizes=tuple(_expressions(shape)))
    if name in _GROUP_CALLS:
        position = _GROUP_CALLS[name]
        number = args[position] if len(args) > position else kwargs.get("groups", kwargs.get("num_groups", 1))
        return Call(name, number=expression(number))
    return None


def _used_as_numbers(arguments: Any) -> None:
    for number in _leaves(arguments):
        if isinstance(number, Size):
            number.used_as_number()


def _leaves(tree: Any) -> Iterator[Any]:
    """What tuples, lists and dicts hold. Every call is looked through, for which pytree is slow."""
    if isinstance(tree, (tuple, list)):
        for item in tree:
            yield from _leaves(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _leaves(item)
    else:
        yield tree


def _requested_shape(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Expr, ...] | None:
    first = 1 if args and isinstance(args[0], Tensor) else 0
    numbers = list(args[first:]) or [kwargs.get("size", kwargs.get("shape", ()))]
    if name == "new" and not all(isinstance(number, (int, torch.Size)) for number in numbers):
        return None  # it is given values, not a shape
    if name in ("full", "new_full"):
        numbers = numbers[:1]
    try:
        return tuple(_expressions(numbers))
    except (TypeError, ValueError):
        return None  # view(dtype) and the like request no shape


def _unflattened(shape: torch.Size, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Expr, ...] | None:
    """The whole shape that ``unflatten(dim, sizes)`` asks for."""
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    sizes = args[2] if len(args) > 2 else kwargs.get("sizes")
    if not isinstance(dim, int) or not isinstance(sizes, (tuple, list)):
        return None  # axes by name
    return tuple(_expressions([*shape[: dim % len(shape)], *sizes, *shape[dim % len(shape) + 1 :]]))


def _narrowed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[int, tuple[Expr, Expr | None]]:
    """The (start, stop) of ``narrow(dim, start, length)``, where it counts from the front."""
    dim, start, length = (_argument(args, kwargs, at, name) for at, name in enumerate(("dim", "start", "length"), 1))
    if isinstance(start, Tensor) or start < 0:
        return {}
    return {dim % _argument(args, kwargs, 0, "input").dim(): (expression(start), expression(start + length))}


def _expressions(numbers: Any) -> Iterator[Expr]:
    for number in numbers:
        if isinstance(number, (tuple, list)):
            yield from _expressions(number)
        else:
            yield expression(number)


def _slices(tensor: Tensor, index: Any) -> dict[int, tuple[Expr, Expr | None]]:
    """(start, stop) expressions by the axis at which the dispatcher will slice."""
    items = index if isinstance(index, tuple) else (index,)
    consumed = sum(1 for item in items if item is not None and item is not Ellipsis)
    found: dict[int, tuple[Expr, Expr | None]] = {}
    axis = 0
    for item in items:
        if item is Ellipsis:
            axis += tensor.dim() - consumed
        elif isinstance(item, slice):
            start = Const(0) if item.start is None else expression(item.start)
            found[axis] = (start, None if item.stop is None else expression(item.stop))
            axis += 1
        elif item is None:
            axis += 1
        elif not isinstance(item, int):
            break  # advanced indexing: handled by its own operator
    return found
