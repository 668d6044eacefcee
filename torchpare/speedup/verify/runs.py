"""Running a copy of a model in float64 on the CPU, and seeing every operator of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from torchpare.graph import capture as graph_capture
from torchpare.graph.capture import call_arguments, plain_operators
from torchpare.graph.copying import copy_to
from torchpare.graph.program import Program
from torchpare.graph.recorder import output_tensors
from torchpare.layers import adopt
from torchpare.speedup.float64_kernels import in_float64
from torchpare.speedup.verify.sequence import ALLOCATIONS

__all__ = ["exact_inputs", "exact_twin", "operators_of", "record_exactly"]

See = Callable[[str, str, tuple[Tensor, ...], tuple[Tensor, ...]], None]


def exact_twin(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode on the CPU, in float64, tied tensors tied."""
    twin = copy_to(model, "cpu").double().eval()
    for module in twin.modules():
        if type(module) is nn.MultiheadAttention:  # both models must run the same attention to be comparable
            adopt(module)
    return twin


def exact_inputs(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments on the CPU, in float64."""

    def convert(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().to("cpu", copy=True)
        return tensor.double() if tensor.is_floating_point() else tensor

    return pytree.tree_map_only(Tensor, convert, call_arguments(example_inputs))


def record_exactly(twin: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Program:
    """The operators that `operators_of` will see, as a program."""
    with _in_float64(), _StayInFloat64():
        return graph_capture._record(twin, kwargs or args, "cpu")  # noqa: SLF001 - `capture` prefers the meta device


def operators_of(twin: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], see: See) -> None:
    """Run ``twin``, calling ``see(operator, module path, inputs, outputs)`` after each operator.

    What ``see`` writes into the outputs is what the run goes on with.
    """
    watcher = _Watcher(see)
    handles = []
    for path, module in twin.named_modules():
        handles.append(module.register_forward_pre_hook(lambda _m, _a, path=path: watcher.stack.append(path)))
        handles.append(module.register_forward_hook(lambda _m, _a, _o: watcher.leave()))
    try:
        with _in_float64(), torch.no_grad(), _StayInFloat64(), watcher:
            twin(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()


class _StayInFloat64(TorchDispatchMode):
    """Half of all models say ``x.float()`` somewhere; taken at its word it would hide behind rounding what we seek."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        asked = kwargs.get("dtype")
        if isinstance(asked, torch.dtype) and asked.is_floating_point:
            kwargs["dtype"] = torch.float64
        return in_float64(func, args)(*args, **kwargs)


class _Watcher(TorchDispatchMode):
    """Tells of every operator, with the module that is running."""

    def __init__(self, see: See) -> None:
        super().__init__()
        self.see = see
        self.stack = [""]

    def leave(self) -> None:
        self.stack.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = tuple(output_tensors((args, kwargs or {})))
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.replace("::", ".")  # noqa: SLF001 - an operator tells its name only so
        if name in ALLOCATIONS:
            result.zero_()  # what lies there by chance is no difference
        self.see(name, self.stack[-1], inputs, tuple(output_tensors(result)))
        return result


@contextmanager
def _in_float64() -> Iterator[None]:
    """New tensors are float64, random numbers the same each time, attention the operators it consists of."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]), plain_operators():
            torch.manual_seed(0)
            yield
    finally:
        torch.set_default_dtype(default)
