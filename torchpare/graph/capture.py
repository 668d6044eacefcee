"""Running a copy of a model once, and writing down every operator.

Two modes watch the run. A dispatch mode sees each ATen operator with the tensors it reads and writes: this is the
program, and it is complete, whatever Python did to get there. A function mode sits above it and sees the same calls
while their numbers still carry their expressions (`sizes`). The copy lives on the meta device, where running costs
nothing; a model that needs real values to decide its path is run for real on the CPU instead.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from torchpare.errors import CaptureError
from torchpare.graph.program import Call, Kind, Op, Program, Ref, Value
from torchpare.graph.sizes import Attribute, Const, Dim, Expr, Size, expression

__all__ = ["call_arguments", "capture", "output_tensors"]

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent.parent)


def call_arguments(dummy_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a dummy input: a tensor, a tuple or list of arguments, or a dict of keywords."""
    if isinstance(dummy_input, dict):
        return (), dict(dummy_input)
    if isinstance(dummy_input, (tuple, list)):
        return tuple(dummy_input), {}
    return (dummy_input,), {}


def capture(model: nn.Module, dummy_input: Any) -> Program:
    """Record a forward pass of a copy of ``model`` in evaluation mode; the model itself is not touched.

    Where that pass leaves parameters unread (auxiliary heads that only training uses), a pass in training mode is
    recorded behind it, so that they follow the channels they read.

    Args:
        model: any module, on any device.
        dummy_input: a tensor, a tuple of positional arguments, or a dict of keyword arguments. Only shapes and types
            matter where the model can run on the meta device.

    Raises:
        CaptureError: if the forward pass fails, with the error of the model's own code.
    """
    failures: list[Exception] = []
    for device in ("meta", "cpu"):
        try:
            return _record(model, dummy_input, device)
        except Exception as error:  # whatever the model's own code raises
            failures.append(error)
    meta, real = failures
    message = (
        f"could not run {type(model).__name__} on the dummy input: {type(real).__name__}: {real}. Check that "
        f"model(dummy_input) works; pass several positional inputs as a tuple and keyword inputs as a dict. "
        f"(On the meta device it failed with {type(meta).__name__}: {meta})"
    )
    raise CaptureError(message) from real


def _record(model: nn.Module, dummy_input: Any, device: str) -> Program:
    twin = _copy_to(model, device).eval()
    args, kwargs = call_arguments(dummy_input)
    args, kwargs = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().to(device), (args, kwargs))
    recorder = _Recorder(twin, (args, kwargs))
    attributes = _wrap_attributes(twin)
    recorder.watch_modules(twin)
    outputs = recorder.run(twin, args, kwargs)
    module_outputs = list(recorder.module_outputs)
    program = Program(recorder.values, recorder.ops, outputs, module_outputs, attributes, device)
    if program.unreached():
        program.outputs += _training_outputs(twin, recorder, args, kwargs)
    return program


def _training_outputs(
    twin: nn.Module, recorder: _Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[int, ...]:
    """Record the training path too; nothing where the model cannot be run in training mode."""
    twin.train()
    doubled = pytree.tree_map_only(Tensor, lambda t: torch.cat([t, t]) if t.dim() else t, (args, kwargs))
    for tried_args, tried_kwargs in ((args, kwargs), doubled):  # a batch norm may refuse to train on one sample
        try:
            return recorder.run(twin, tried_args, tried_kwargs)
        except Exception:  # noqa: BLE001 - whatever the model's own code raises
            recorder.abandon_run()
    return ()


def _copy_to(model: nn.Module, device: str) -> nn.Module:
    """A deep copy on ``device``, with tied tensors still tied, plain classes and none of torchpare's own hooks."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        loose = (value for value in vars(module).values() if isinstance(value, Tensor))
        for tensor in (*module._parameters.values(), *module._buffers.values(), *loose):
            if tensor is not None and id(tensor) not in memo:
                memo[id(tensor)] = _tensor_on(tensor, device)
    twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                if type(hook).__module__.startswith("torchpare."):
                    del hooks[key]
        plain = getattr(type(module), "torchpare_plain_class", None)
        if plain is not None:  # a masked layer: labels are about structure, so its mask plays no part here
            for name in [
                name for name in module._buffers if name.endswith("_mask") and name[:-5] in module._parameters
            ]:
                del module._buffers[name]
            module.__class__ = plain
    return twin


def _tensor_on(tensor: Tensor, device: str) -> Tensor:
    moved = torch.empty_like(tensor, device="meta") if device == "meta" else tensor.detach().to(device, copy=True)
    return nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved


def _wrap_attributes(twin: nn.Module) -> dict[Attribute, int]:
    """Replace the integer attributes of the copy's modules by sizes that know their name; return what they were."""
    found: dict[Attribute, int] = {}
    for path, module in twin.named_modules():
        for name, value in list(vars(module).items()):
            if name.startswith("_"):
                continue
            if type(value) is int:
                attribute = Attribute(path, name)
                module.__dict__[name], found[attribute] = Size(value, attribute), value
            elif type(value) in (tuple, list) and value and all(type(item) is int for item in value):
                sized = [Size(item, Attribute(path, name, index)) for index, item in enumerate(value)]
                module.__dict__[name] = type(value)(sized)
                found.update((Attribute(path, name, index), item) for index, item in enumerate(value))
    return found


def output_tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor in a nested output: tuples, lists, dicts and objects with attributes."""
    for leaf in pytree.tree_leaves(tree):
        if isinstance(leaf, Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, (nn.Module, type)):
            yield from output_tensors(list(vars(leaf).values()))


class _Recorder(TorchDispatchMode):
    """Writes down every operator that is dispatched."""

    def __init__(self, twin: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.values: list[Value] = []
        self.ops: list[Op] = []
        self.module_outputs: list[tuple[str, int]] = []
        self.call: Call | None = None
        self._uids: dict[int, int] = {}
        self._alive: list[Tensor] = []  # an id() is unique only while its tensor lives
        self._stack: list[str] = [""]
        for kind, named in (
            ("parameter", twin.named_parameters(remove_duplicate=False)),
            ("buffer", twin.named_buffers(remove_duplicate=False)),
        ):
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

    def run(self, twin: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
        """Record one forward pass; returns the uids of its outputs."""
        with torch.no_grad(), _Numbers(self), self:
            output = twin(*args, **kwargs)
        return tuple(self.uid(tensor) for tensor in output_tensors(output))

    def abandon_run(self) -> None:
        """After a pass that failed: its operators stay recorded (they are real), its module stack does not."""
        self._stack, self.call = [""], None

    def _add(self, tensor: Tensor, kind: Kind, names: tuple[str, ...] = ()) -> int:
        uid = len(self.values)
        self.values.append(Value(uid, tuple(int(size) for size in tensor.shape), kind, names))
        self._uids[id(tensor)] = uid
        self._alive.append(tensor)
        return uid

    def uid(self, tensor: Tensor) -> int:
        """The uid of a tensor; one that was never seen before is a constant from outside the model."""
        known = self._uids.get(id(tensor))
        return self._add(tensor, "constant") if known is None else known

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
        before = {id(tensor): tuple(tensor.shape) for tensor in output_tensors((args, kwargs))}
        recorded_args, recorded_kwargs = pytree.tree_map_only(Tensor, lambda t: Ref(self.uid(t)), (args, kwargs))
        result = func(*args, **kwargs)
        outputs = []
        for tensor in output_tensors(result):
            # An operator that reshapes in place (transpose_, squeeze_) makes a new version of the same object.
            if id(tensor) in before and before[id(tensor)] == tuple(tensor.shape):
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
                pointwise=torch.Tag.pointwise in func.tags,
                call=self.call,
            )
        )
        return result


class _Numbers(TorchFunctionMode):
    """Answers size questions with `Size`, and notes the expressions of the numbers passed to shape operators."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.shape.__get__:  # type: ignore[attr-defined]
            return self.recorder.shape(args[0])
        if func is Tensor.size:
            shape = self.recorder.shape(args[0])
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            return shape if dim is None else shape[dim]
        if func is Tensor.numel or func is torch.numel:
            return _product(self.recorder.shape(args[0]))
        call = _note(getattr(func, "__name__", ""), args, kwargs)
        outer, self.recorder.call = self.recorder.call, call or self.recorder.call
        try:
            result = func(*args, **kwargs)
        finally:
            self.recorder.call = outer
        if call is not None:
            call.results = tuple(self.recorder.uid(tensor) for tensor in output_tensors(result))
        return result


def _product(sizes: torch.Size) -> int:
    total = 1
    for size in sizes:
        total = size * total if isinstance(size, Size) else total * size
    return total


_SHAPE_CALLS = frozenset({"view", "reshape", "expand", "zeros", "ones", "empty", "full", "randn", "rand"}) | frozenset(
    {"new_zeros", "new_ones", "new_empty", "new_full", "repeat", "unflatten"}
)
_SPLIT_CALLS = frozenset({"split", "split_with_sizes", "chunk", "narrow", "tensor_split"})
_GROUP_CALLS = {"conv1d": 6, "conv2d": 6, "conv3d": 6, "group_norm": 1} | {
    f"conv_transpose{rank}d": 6 for rank in (1, 2, 3)
}


def _note(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    """The expressions of a call that takes sizes, positions or a number of groups; None for every other call."""
    if name in _SHAPE_CALLS:
        return Call(name, sizes=_requested_shape(name, args, kwargs))
    if name in _SPLIT_CALLS:
        numbers = [*args[1:2], *(kwargs[key] for key in kwargs if "split" in key or key in ("sections", "chunks"))]
        return Call(name, sizes=tuple(_expressions(numbers)))
    if name == "__getitem__":
        return Call(name, slices=_slices(args[0], args[1]))
    if name == "layer_norm":
        shape = args[1] if len(args) > 1 else kwargs.get("normalized_shape", ())
        return Call(name, sizes=tuple(_expressions(shape)))
    if name in _GROUP_CALLS:
        position = _GROUP_CALLS[name]
        number = args[position] if len(args) > position else kwargs.get("groups", kwargs.get("num_groups", 1))
        return Call(name, number=expression(number))
    return None


def _requested_shape(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Expr, ...] | None:
    first = 1 if args and isinstance(args[0], Tensor) else 0
    numbers = list(args[first:]) or [kwargs.get("size", kwargs.get("shape", ()))]
    if name == "unflatten" and len(numbers) > 1:
        return None  # the engine sees the view it becomes; its literal sizes are read from there
    if name in ("full", "new_full"):
        numbers = numbers[:1]
    try:
        return tuple(_expressions(numbers))
    except (TypeError, ValueError):
        return None  # view(dtype) and the like request no shape


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


def _user_site() -> str:
    """``file:line`` of the innermost frame that belongs neither to torch nor to torchpare."""
    frame = sys._getframe(2)
    fallback = ""
    while frame is not None:
        filename = frame.f_code.co_filename
        if not filename.startswith((_TORCH, _HERE, "<")):
            return f"{Path(filename).name}:{frame.f_lineno}"
        frame = frame.f_back
    return fallback
