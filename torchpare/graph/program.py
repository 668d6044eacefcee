"""A recorded run of a model: plain data, read by the rules and by whoever wants to know what the model does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from torchpare.graph.sizes import Attribute, Expr

__all__ = ["Call", "Kind", "Op", "Program", "Ref", "Value", "refs"]

Kind = Literal["input", "parameter", "buffer", "constant", "temporary"]


@dataclass(frozen=True)
class Ref:
    """A tensor argument of an operator, by the uid of its value."""

    uid: int


@dataclass
class Value:
    """A tensor met while recording.

    ``names`` are all the qualified names of a parameter or buffer: more than one where it is tied.
    """

    uid: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    kind: Kind
    names: tuple[str, ...] = ()

    @property
    def sparse(self) -> bool:
        """Whether it is stored by the places of its entries, and so has no strides: nobody cuts such a tensor."""
        return len(self.strides) < len(self.shape)


@dataclass
class Call:
    """The function the model's Python code called, seen before its numbers lost their origin.

    ``sizes`` are the expressions of a requested shape (or of the pieces of a split), ``slices`` those of an index
    expression, by the axis they cut: (start, stop). ``results`` are the uids the function returned.
    """

    name: str
    sizes: tuple[Expr, ...] | None = None
    slices: Mapping[int, tuple[Expr, Expr | None]] = field(default_factory=dict)
    number: Expr | None = None
    results: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()
    """The values of ``sizes``, where these are no shape."""


@dataclass
class Op:
    """One ATen operator call, in the order of execution."""

    name: str
    """Qualified name without overload, such as ``aten.convolution``."""
    args: Sequence[Any]
    kwargs: dict[str, Any]
    outputs: tuple[int, ...]
    module: str
    """Path of the innermost module that was running; empty for the model itself."""
    site: str
    """``file:line`` in the user's code."""
    pointwise: bool
    call: Call | None
    target: Any = None
    """The operator itself, as it can be called."""

    @cached_property
    def inputs(self) -> tuple[Ref, ...]:
        """The tensor arguments, in order."""
        return tuple(refs((self.args, self.kwargs)))

    @property
    def where(self) -> str:
        """Where the operator was called, for messages."""
        place = f"module '{self.module}'" if self.module else "the model's forward"
        return f"{place} ({self.site})" if self.site else place


@dataclass(frozen=True)
class Scale:
    """A number that the code works out of a size and multiplies values with: ``size ** power``, times a constant."""

    uid: int
    """Of the values, before they are multiplied."""
    size: Expr
    value: int
    """Of the size, when it was recorded."""
    power: float
    site: str


@dataclass
class Program:
    """Operators in order, with the values they read and write."""

    values: list[Value]
    ops: list[Op]
    outputs: tuple[int, ...]
    module_outputs: list[tuple[str, int]]
    """(module path, uid) of every tensor that a module returned, in order of return."""
    attributes: dict[Attribute, int]
    """Every integer attribute of the model's modules, with its value during the run."""
    comparisons: dict[tuple[Expr, Expr, bool], str]
    """Pairs of sizes that the model's code compared, with whether they were equal, and where.

    A size that was used as a number stands beside its value.
    """
    device: str
    """``meta`` where shapes sufficed, ``cpu`` where the model had to be run for real."""
    constants: Mapping[int, Tensor] = field(default_factory=dict)
    """Tensors that came from outside the model's parameters, buffers and inputs, by uid; on the CPU with values."""
    scales: Sequence[Scale] = ()
    """Where values are multiplied with powers of sizes: the default scale of attentions, and those that code writes."""
    select: Callable[[Any], Any] | None = None
    """What of the model's outputs must keep its shape; all of them, if not given."""

    def unreached(self) -> list[str]:
        """Names of parameters that no operator read in this run."""
        return self._unread("parameter")

    def untouched_buffers(self) -> list[str]:
        """Names of buffers with more than one entry that no operator read in this run."""
        return self._unread("buffer")

    def _unread(self, kind: Kind) -> list[str]:
        read = {ref.uid for op in self.ops for ref in op.inputs}
        return [
            value.names[0]
            for value in self.values
            if value.kind == kind and value.uid not in read and (kind == "parameter" or math.prod(value.shape) > 1)
        ]


def refs(arguments: Any) -> Iterator[Ref]:
    """Every `Ref` in nested tuples, lists and dicts of arguments."""
    if isinstance(arguments, Ref):
        yield arguments
    elif isinstance(arguments, (tuple, list)):
        for argument in arguments:
            yield from refs(argument)
    elif isinstance(arguments, dict):
        yield from refs(list(arguments.values()))
