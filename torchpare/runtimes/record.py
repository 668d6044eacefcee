"""A module as one graph of functional operators, by ``torch.export``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from inspect import signature
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from torchpare.errors import ExportError
from torchpare.files.onnx import GROUPED, with_free_batch
from torchpare.graph.capture import call_arguments
from torchpare.runtimes.bags import WritesBagsOut
from torchpare.runtimes.operators import library

__all__ = ["export", "record"]

_BY_WORD: dict[Any, Any] = {
    torch.ops.aten.conv1d.padding: torch.ops.aten.conv1d.default,
    torch.ops.aten.conv2d.padding: torch.ops.aten.conv2d.default,
    torch.ops.aten.conv3d.padding: torch.ops.aten.conv3d.default,
}
"""Convolutions that are told how to pad by "same" or "valid", and those that are told by how much."""

_MEANS: dict[Any, int] = {torch.ops.aten.avg_pool2d.default: 2, torch.ops.aten.avg_pool3d.default: 3}
"""Means over windows that may be told what to divide by, and along how many axes."""


def export(module: nn.Module, dummy_input: Any, *, free_batch: bool = True) -> torch.export.ExportedProgram:
    """A module as ``torch.export`` sees it, of any batch size if it allows that and ``free_batch`` asks for it.

    Raises:
        ExportError: it cannot be exported.
    """
    library()
    args, kwargs = call_arguments(dummy_input)
    with warnings.catch_warnings(), torch.no_grad(), plain_attention(), WritesBagsOut():
        warnings.simplefilter("ignore")  # of torch's own, about its own
        with suppress(Exception):  # whatever it was, the attempt with a fixed size decides
            if free_batch:
                several_args, several_kwargs, free = with_free_batch(module, args, kwargs)
                return torch.export.export(
                    module, several_args, kwargs=several_kwargs, dynamic_shapes=free, strict=False
                )
        try:
            return torch.export.export(module, args, kwargs=kwargs, strict=False)
        except Exception as error:
            raise ExportError(f"{type(module).__name__} {_why_not(module, args, kwargs, error)}") from error


def _why_not(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> str:
    """What to say of a module that cannot be exported."""
    called = _Called()
    try:
        with called:
            made = module(*args, **kwargs)
    except Exception as own:  # noqa: BLE001 - whatever the model's own code raises
        return f"does not run on the example input: {_first_line(own)}"
    foreign = {type(leaf).__name__ for leaf in pytree.tree_leaves(made)
               if not isinstance(leaf, Tensor | bool | int | float | str | None)}  # fmt: skip
    if foreign:
        return (f"cannot be recorded as one program: it returns {' and '.join(sorted(foreign))}, which programs do not "
                "know; let it return tensors alone (a language model: model.config.use_cache = False)")  # fmt: skip
    if any("grouped_mm" in name for name in called.names):
        return f"cannot be recorded as one program: {GROUPED}"
    return (f"cannot be recorded as one program: {_first_line(error)}; a model whose path depends on the values of its "
            "input has none")  # fmt: skip


class _Called(TorchDispatchMode):
    """The names of the operators that a model calls."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


def record(module: nn.Module, dummy_input: Any) -> fx.GraphModule:
    """A module's functional graph with its tensors, callable as the module is.

    Raises:
        ExportError: it cannot be exported.
    """
    program = export(module, dummy_input)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = program.run_decompositions({})
        guards = "check_guards" in signature(program.module).parameters  # older releases have none to leave out
        made = program.module(**{"check_guards": False} if guards else {})
    graph = made.graph
    for node in list(graph.nodes):
        # What dropout leaves behind. One that asks for a memory layout may be what a later view needs.
        if node.target is torch.ops.aten.clone.default and not node.kwargs:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    _number_paddings(graph)
    _write_divisors(graph)
    return fx.GraphModule(made, graph)


def _number_paddings(graph: fx.Graph) -> None:
    """Convolutions that pad by a word as the ordinary ones, which pad by numbers.

    "same" with an even kernel takes one more at the end: there zeros are added first.
    """
    for node in [node for node in graph.nodes if node.target in _BY_WORD]:
        usual: list[Any] = [None, None, None, [1], "valid", [1], 1]
        given: list[Any] = [*node.args, *usual[len(node.args) :]]
        values, kernel, bias, stride, word, dilation, groups = given
        weight = kernel.meta["val"]
        axes = weight.dim() - 2
        # One number for all axes is written for each: ONNX takes no less.
        stride, apart = (list(each) * axes if len(each) == 1 else each for each in (stride, dilation))
        total = [step * (size - 1) if word == "same" else 0 for step, size in zip(apart, weight.shape[2:], strict=True)]
        before = [number // 2 for number in total]
        if any(number % 2 for number in total):
            ends = [end for number in reversed(total) for end in (number // 2, number - number // 2)]
            with graph.inserting_before(node):
                values = graph.call_function(torch.ops.aten.constant_pad_nd.default, (values, ends, 0.0))
            values.meta = {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}
            before = [0] * axes
        node.target = _BY_WORD[node.target]
        node.args = (values, kernel, bias, stride, before, apart, groups)


def _write_divisors(graph: fx.Graph) -> None:
    """Means over windows that divide by another number than the window's size as ordinary ones and a factor.

    Torch's ONNX exporter leaves the number out, and divides by the size.

    Raises:
        ExportError: windows may reach beyond the padding as well, and are of several sizes then.
    """
    for node in [node for node in graph.nodes if node.target in _MEANS]:
        usual: list[Any] = [None, None, [], [0], False, True, None]
        given: list[Any] = [*node.args, *usual[len(node.args) :]]
        values, kernel, stride, padding, beyond, _, divisor = given
        if divisor is None:
            continue
        if beyond:
            raise ExportError("a mean over windows with divisor_override and ceil_mode has no form in programs: leave "
                              "one of the two out")  # fmt: skip
        size = prod(kernel) if len(kernel) > 1 else kernel[0] ** _MEANS[node.target]
        with graph.inserting_after(node):
            scaled = graph.call_function(torch.ops.aten.mul.Tensor, (node, size / divisor))
        scaled.meta = dict(node.meta)
        node.replace_all_uses_with(scaled, delete_user_cb=lambda user, own=scaled: user is not own)
        node.args = (values, kernel, stride, padding, False, True)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention layers as the operators they consist of, not as torch's own fused one, which no runtime knows."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
