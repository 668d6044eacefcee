"""Writing down every operator that a run dispatches, with the tensors it reads and writes."""

# ruff: noqa: SLF001 - a dispatched operator tells its name only through its schema

from __future__ import annotations

import contextlib
import copy
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from torchpare.graph.meta_results import MetaResults
from torchpare.graph.program import Call, Kind, Op, Ref, Scale, Value
from torchpare.graph.provenance import Provenance
from torchpare.graph.sizes import Const, Dim, Expr, Power, Root, Size, plain, watch_sizes
from torchpare.layers.settings import fields_of
from torchpare.layers.tables import named_tables

__all__ = ["Outputs", "Recorder", "map_tensors", "output_tensors"]

_HOUSE = Path(__file__).parent.parent
_NOT_THE_USERS = (
    str(Path(torch.__file__).parent),
    *(str(_HOUSE / room) for room in ("graph", "speedup", "pruning")),
    contextlib.__file__,
    "<",
)
"""How the paths of code begin that is no user's."""


def output_tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor in a nested output: tuples, lists, dicts and objects with attributes.

    Caches (``past_key_values``) are left out: a model hands them back to itself, so nobody relies on their shapes.
    """
    if isinstance(tree, Tensor):
        yield tree
        return
    for leaf in pytree.tree_leaves(tree, is_leaf=_is_cache):
        if isinstance(leaf, Tensor):
            yield leaf
        elif _is_cache(leaf):
            continue
        elif not isinstance(leaf, (nn.Module, type)):
            yield from output_tensors(list(fields_of(leaf).values()))


def _is_cache(leaf: Any) -> bool:
    return type(leaf).__name__.endswith("Cache")


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """A copy of nested inputs with every tensor replaced: tuples, lists, dicts and objects with attributes."""

    def replace(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return function(leaf)
        if isinstance(leaf, (nn.Module, type)) or next(output_tensors(leaf), None) is None:
            return leaf
        twin = copy.copy(leaf)
        for name, value in fields_of(leaf).items():
            object.__setattr__(twin, name, map_tensors(function, value))
        return twin

    return pytree.tree_map(replace, tree)


Outputs: TypeAlias = Callable[[Any], Any]
"""Picks from what a model returns what others rely on, such as ``lambda output: output.logits``."""


class Recorder(TorchDispatchMode):
    """Writes down every operator that is dispatched."""

    def __init__(self, twin: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.values: list[Value] = []
        self.ops: list[Op] = []
        self.module_outputs: list[tuple[str, int]] = []
        self.comparisons: dict[tuple[Expr, Expr, bool], str] = {}
        self._compared: Counter[tuple[Expr, Expr, bool]] = Counter()
        self.constants: dict[int, Tensor] = {}
        self.scales: list[Scale] = []
        self._roots: list[Root] = []
        self.call: Call | None = None
        self.depth = 0  # of torch's functions: at 0 only constructors such as `torch.Tensor(2, 3)` dispatch operators
        self._uids: dict[int, int] = {}
        self._tables: dict[int, tuple[str, ...]] = {}
        self._held = named_tables(twin)
        for name, tensor in self._held.items():
            self._tables[id(tensor)] = (*self._tables.get(id(tensor), ()), name)
        self._alive: list[Tensor] = []  # an id() is unique only while its tensor lives
        self._stack: list[str] = [""]
        self._results = MetaResults()
        registries: tuple[tuple[Kind, Any], ...] = (
            ("parameter", twin.named_parameters(remove_duplicate=False)),
            ("buffer", twin.named_buffers(remove_duplicate=False)),
        )
        for kind, named in registries:
            names: dict[int, list[str]] = {}
            tensors: dict[int, Tensor] = {}
            for name, tensor in named:
                names.setdefault(id(tensor), []).append(name)
                tensors[id(tensor)] = tensor
            for key, tensor in tensors.items():
                self._add(tensor, kind, tuple(names[key]))
        for tensor in output_tensors(inputs):
            if id(tensor) not in self._uids:
                self._add(tensor, "input")

    def run(
        self, twin: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Outputs | None = None
    ) -> tuple[int, ...]:
        """Record one forward pass; returns the uids of its outputs, of all or of those that ``outputs`` picks."""
        with self.recording():
            output = twin(*args, **kwargs)
            output = output if outputs is None else outputs(output)
        for root in self._roots:  # it only scaled values: no use of it as a number, if something makes up for another
            if not root.lost:
                self.forget(root.expr, Const(root.value), True)
        self._roots.clear()
        return tuple(self.uid(tensor) for tensor in output_tensors(output))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """While this lasts, operators and sizes are written down."""
        with torch.no_grad(), watch_sizes(self.compare, self.forget), Provenance(self), self:
            yield

    def compare(self, left: Expr, right: Expr, equal: bool) -> None:
        """Note that the model's code compared two sizes."""
        self._compared[left, right, equal] += 1
        self.comparisons.setdefault((left, right, equal), _user_site())

    def scale(self, tensor: Tensor, number: Power, sign: int = 1) -> None:
        """Note that values are multiplied with a power of a size, or divided by it (``sign`` -1)."""
        root = number.root
        if not any(known is root for known in self._roots):
            self._roots.append(root)
        self.scales.append(Scale(self.uid(tensor), root.expr, root.value, sign * number.power, _user_site()))

    def forget(self, left: Expr, right: Expr, equal: bool) -> None:
        """Take back one such note."""
        self._compared[left, right, equal] -= 1
        if self._compared[left, right, equal] == 0:
            self.comparisons.pop((left, right, equal), None)

    def abandon_run(self) -> None:
        """After a pass that failed: its operators stay recorded (they are real), its module stack does not."""
        self._stack, self.call, self.depth = [""], None, 0

    def _add(self, tensor: Tensor, kind: Kind, names: tuple[str, ...] = ()) -> int:
        uid = len(self.values)
        strides = tuple(tensor.stride()) if tensor.layout == torch.strided else ()
        self.values.append(Value(uid, tuple(map(plain, tensor.shape)), strides, kind, names))
        self._uids[id(tensor)] = uid
        self._alive.append(tensor)
        return uid

    def uid(self, tensor: Tensor) -> int:
        """The uid of a tensor; one that was never seen before is a constant from outside the model.

        A table that a module keeps as a plain attribute is a buffer from the moment it is read.
        """
        known = self._uids.get(id(tensor))
        if known is not None:
            return known
        if id(tensor) in self._tables:
            return self._add(tensor, "buffer", self._tables[id(tensor)])
        uid = self._add(tensor, "constant")
        self.constants[uid] = tensor.detach().clone()
        return uid

    def shape(self, tensor: Tensor) -> torch.Size:
        """The shape of a tensor, every size knowing its axis."""
        uid = self.uid(tensor)
        return torch.Size([Size(size, Dim(uid, axis)) for axis, size in enumerate(self.values[uid].shape)])

    def watch_modules(self, twin: nn.Module) -> None:
        """Keep the path of the running module, and what each module returned."""
        for path, module in twin.named_modules():

            def enter(_module: nn.Module, _args: Any, path: str = path) -> None:
                self._stack.append(path)

            def leave(_module: nn.Module, _args: Any, output: Any, path: str = path) -> None:
                self._stack.pop()
                self.module_outputs.extend((path, self.uid(tensor)) for tensor in output_tensors(output))

            module.register_forward_pre_hook(enter)
            module.register_forward_hook(leave)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before: dict[int, torch.Size] = {}
        recorded_args, recorded_kwargs = self._recorded(args, before), self._recorded(kwargs, before)
        result = self._results(func, args, kwargs)
        outputs = []
        for tensor in output_tensors(result):
            # An operator that reshapes in place (transpose_, squeeze_) makes a new version of the same object.
            if id(tensor) in before and before[id(tensor)] == tensor.shape:
                outputs.append(self.uid(tensor))
            else:
                outputs.append(self._add(tensor, "temporary"))
        self.ops.append(
            Op(
                name=func._schema.name.replace("::", "."),
                args=recorded_args,
                kwargs=recorded_kwargs,
                outputs=tuple(outputs),
                module=self._stack[-1],
                site=_user_site(),
                pointwise=_is_pointwise(func),
                call=self.call if self.depth else Call("constructor"),
                target=func,
            )
        )
        return result

    def _recorded(self, argument: Any, before: dict[int, torch.Size]) -> Any:
        """An operator's argument with a `Ref` for each tensor; the shapes of those go into ``before``."""
        if isinstance(argument, Tensor):
            before[id(argument)] = argument.shape
            return Ref(self.uid(argument))
        if isinstance(argument, dict):
            return {name: self._recorded(value, before) for name, value in argument.items()}
        if type(argument) in (tuple, list):  # immutable lists of fx come as they are
            return type(argument)(self._recorded(item, before) for item in argument)
        return argument


@cache
def _is_pointwise(func: Any) -> bool:
    """Whether an operator treats each element alike: by its own tag, or by that of the operator it is in-place of."""
    name = func._schema.name.split("::")[-1]
    if torch.Tag.pointwise in func.tags or not name.endswith("_") or name.endswith("__"):
        return torch.Tag.pointwise in func.tags
    twin = getattr(getattr(torch.ops, func.namespace), name[:-1], None)
    tags = getattr(getattr(twin, func._overloadname, None), "tags", ())
    return torch.Tag.pointwise in tags


def _user_site() -> str:
    """``file:line`` of the innermost frame that belongs neither to torch nor to torchpare."""
    frame = sys._getframe(2)
    fallback = ""
    while frame is not None:
        filename = frame.f_code.co_filename
        if not filename.startswith(_NOT_THE_USERS):
            return f"{os.path.basename(filename)}:{frame.f_lineno}"  # noqa: PTH119 - once for each operator
        frame = frame.f_back
    return fallback
