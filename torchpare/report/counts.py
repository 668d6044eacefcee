"""Multiply-accumulates and parameters of a model, layer by layer, with or without masks.

Layers are counted where they are called, by the formulas of `formulas.py`. At the same time torch's own FLOP counter
watches every operator, so that matrix products and convolutions that no layer of a known kind performs (`F.conv2d` with
a raw parameter, attention) are in the total too, under the name of the module that calls them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from torchpare.attach import masks_of
from torchpare.config.layers import type_name
from torchpare.errors import CaptureError, ConfigError
from torchpare.files.masks import fit_masks
from torchpare.graph.capture import call_arguments
from torchpare.report.formulas import operations
from torchpare.types import Mask, Masks

__all__ = ["count_flops_params"]

CustomOp = Callable[[nn.Module, tuple[Any, ...], Any], Mapping[str, Any]]


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


# torch's counter knows attention only by the names it has on accelerators.
_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}  # noqa: SLF001 - an operator's name


def count_flops_params(
    model: nn.Module,
    x: Any,
    custom_ops: Mapping[type[nn.Module], CustomOp] | None = None,
    verbose: bool = True,
    mode: str = "default",
    masks: Masks | None = None,
) -> tuple[int, int, list[dict[str, Any]]]:
    """Counts the operations (multiply-accumulates, per sample) and the parameters of a model.

    Runs the model once, in evaluation mode and without gradients; nothing stays on it. A masked weight counts neither
    as an operation nor as a parameter; values that masks make zero further on are still counted.

    Args:
        model: any module.
        x: an input: a tensor, a tuple of positional inputs, a dict of keyword inputs, or a shape, batch included. The
            first axis of the first tensor is the batch.
        custom_ops: `{module class: f(module, inputs, output) -> {"flops": ..., "params": ...}}`, per sample; goes
            before the formulas, and what such a module calls is not counted again.
        verbose: print a table.
        mode: `default` counts the weights of convolutions, linear and recurrent layers; `full` also their biases, batch
            norms, leaky ReLU, average pooling and upsampling.
        masks: masks to count with; those attached to the model if None.

    Returns:
        The operations, the parameters of all counted layers, each once, and for every call of a layer a dict of `name`,
        `input_size`, `output_size`, `module_type`, `flops`, `params` and `weight_shape`. Operations outside layers of
        known kinds come last, one dict for each module that performs them, with `(functional)` after its type.

    Raises:
        ConfigError: an unknown mode, or a custom operation that does not return a count.
        MaskError: masks that do not fit the model.
        CaptureError: the model does not run on `x`.
    """
    if mode not in ("default", "full"):
        raise ConfigError(
            f"mode is {mode!r}; it is 'default' (weights) or 'full' (also biases, norms, pooling and more)"
        )
    chosen = _by_parameter(masks_of(model) if masks is None else fit_masks(masks, model), model)
    args, kwargs = call_arguments(_input_of(x, model))
    run = _Run(custom_ops or {}, chosen, _batch_size((args, kwargs)), full=mode == "full")
    with run.watching(model), torch.no_grad():
        try:
            model(*args, **kwargs)
        except ConfigError:
            raise
        except Exception as error:
            message = f"{type_name(model)} does not run on this input: {type(error).__name__}: {error}"
            raise CaptureError(message) from error
    found = [*run.counted, *run.functional(model)]
    rows = [call._asdict() for call, _ in found]
    flops = sum(call.flops for call, _ in found)
    params = sum({key: count for _, owned in found for key, count in owned.items()}.values())
    if verbose:
        _print(rows, flops, params)
    return flops, params, rows


class _Call(NamedTuple):
    name: str
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    module_type: str
    flops: int
    params: int
    weight_shape: tuple[int, ...]


_Found = tuple[_Call, dict[int, int]]  # a call, and what its parameters count by their identity: shared ones count once


class _Run:
    """What is seen while a model runs once.

    On the way in and out of each module, the products that torch's counter has seen since the last such moment are put
    down to the module that was at work. A module that is counted by formula takes the place of all that it caused.
    """

    def __init__(
        self, custom_ops: Mapping[type[nn.Module], CustomOp], masks: Mapping[int, Mask], batch: int, *, full: bool
    ) -> None:
        self.counted: list[_Found] = []
        self._loose: Counter[nn.Module] = Counter()  # products outside counted modules, by the module at work
        self._custom_ops, self._masks, self._batch, self._full = custom_ops, masks, batch, full
        self._counter = FlopCounterMode(display=False, custom_mapping=_ON_CPU)
        self._stack: list[tuple[nn.Module, int, Counter[nn.Module]]] = []
        self._settled = 0

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """While it lasts, `model` evaluates and its calls are counted; afterwards it is as it was."""
        modes = [(module, module.training) for module in model.modules()]
        fast_path = torch.backends.mha.get_fastpath_enabled()
        handles = []
        try:
            torch.backends.mha.set_fastpath_enabled(False)  # attention as one operator cannot be counted
            model.eval()
            for name, module in model.named_modules():
                handles.append(module.register_forward_pre_hook(self._enter))
                handles.append(module.register_forward_hook(partial(self._leave, name), with_kwargs=True))
            with self._counter:
                yield
        finally:
            for handle in handles:
                handle.remove()
            for module, mode in modes:
                module.training = mode
            torch.backends.mha.set_fastpath_enabled(fast_path)

    def functional(self, model: nn.Module) -> list[_Found]:
        """A call for each module that multiplies outside counted layers, with the parameters it may do that with."""
        names = {module: name for name, module in model.named_modules()}
        found = []
        for module, total in self._loose.items():
            # Attention uses the weights of its output projection without calling it.
            owned = self._owned(module, recurse=isinstance(module, nn.MultiheadAttention))
            kind = f"{type_name(module)} (functional)"
            call = _Call(names[module], (), (), kind, total // self._batch, sum(owned.values()), ())
            found.append((call, owned))
        return found

    def _enter(self, module: nn.Module, _: Any) -> None:
        self._settle()
        self._stack.append((module, len(self.counted), self._loose.copy()))

    def _leave(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._settle()
        _, first, loose = self._stack.pop()
        x = next(iter((*args, *kwargs.values())), None)
        custom = next((self._custom_ops[kind] for kind in type(module).__mro__ if kind in self._custom_ops), None)
        if custom is not None:
            flops, params = _checked(custom(module, args, output), module)
            owned = {id(module): params}
        else:
            total = operations(module, x, output, partial(self._kept, module), full=self._full)
            if total is None:
                return
            flops, owned = total // self._batch, self._owned(module, recurse=True)
        del self.counted[first:]
        self._loose = loose
        shape = _size(getattr(module, "weight", None))
        call = _Call(name, _size(x), _size(output), type_name(module), flops, sum(owned.values()), shape)
        self.counted.append((call, owned))

    def _settle(self) -> None:
        seen = self._counter.get_total_flops()
        if self._stack and seen > self._settled:
            self._loose[self._stack[-1][0]] += (seen - self._settled) // 2  # torch counts two for one of ours
        self._settled = seen

    def _owned(self, module: nn.Module, *, recurse: bool) -> dict[int, int]:
        return {id(parameter): self._count(parameter) for parameter in module.parameters(recurse=recurse)}

    def _kept(self, module: nn.Module, name: str) -> int:
        own = dict(module.named_parameters(recurse=False))
        return self._count(own[name] if name in own else getattr(module, name))  # a parametrized one is no parameter

    def _count(self, parameter: Tensor) -> int:
        mask = self._masks.get(id(parameter))
        return parameter.numel() if mask is None else int(mask.sum()) * (parameter.numel() // mask.numel())


def _by_parameter(masks: Masks, model: nn.Module) -> dict[int, Mask]:
    layers = dict(model.named_modules(remove_duplicate=False))
    parameters = {layer: dict(layers[layer].named_parameters(recurse=False)) for layer in masks}
    return {id(parameters[layer][name]): mask for layer, own in masks.items() for name, mask in own.items()}


def _input_of(x: Any, model: nn.Module) -> Any:
    if not (isinstance(x, (tuple, list)) and x and all(isinstance(size, int) for size in x)):
        return x
    floats = [tensor for tensor in model.parameters() if tensor.is_floating_point()]
    like = floats[0] if floats else torch.empty(0)
    return torch.zeros(*x, dtype=like.dtype, device=like.device)


def _batch_size(inputs: Any) -> int:
    first = next((leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim), None)
    return max(1, first.shape[0]) if first is not None else 1


def _size(value: Any) -> tuple[int, ...]:
    """The shape of the first tensor in an input or output."""
    tensor = next((leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)), None)
    return tuple(tensor.shape) if tensor is not None else ()


def _checked(found: Any, module: nn.Module) -> tuple[int, int]:
    try:
        return int(found["flops"]), int(found.get("params", 0))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"custom_ops[{type_name(module)}] returned {found!r}; it must return a dict with 'flops' and 'params'"
        ) from error


def _print(rows: list[dict[str, Any]], flops: int, params: int) -> None:
    """One line per layer, its calls taken together."""
    table = Table(header_style="bold")
    table.add_column("Index", justify="right")
    table.add_column("Name", overflow="fold")
    table.add_column("Type", overflow="fold")
    table.add_column("Weight", no_wrap=True)
    for title in ("FLOPs", "Params", "Calls"):
        table.add_column(title, justify="right", no_wrap=True)
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(f"{row['name']} {row['module_type']}", []).append(row)
    for index, calls in enumerate(by_name.values()):
        row, total = calls[0], sum(call["flops"] for call in calls)
        shape = " ".join(map(str, row["weight_shape"]))
        table.add_row(
            str(index), row["name"], row["module_type"], shape, f"{total:,}", f"{row['params']:,}", str(len(calls))
        )
    console = Console()
    console.print(table)
    console.print(
        f"FLOPs total: {flops:,} per sample (a multiply-accumulate is one)\nParams total: {params:,}", highlight=False
    )
