"""Running a copy of a model once, and writing down every operator.

Two modes watch the run. A dispatch mode sees each ATen operator with the tensors it reads and writes: this is the
program, and it is complete, whatever Python did to get there. A function mode sits above it and sees the same calls
while their numbers still carry their expressions (`sizes`). The copy lives on the meta device, where running costs
nothing; a model that needs real values to decide its path is run for real on the CPU instead.
"""

# ruff: noqa: SLF001 - the dicts in which nn.Module keeps tensors and hooks are what is copied

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from torchpare.errors import CaptureError
from torchpare.graph.caches import caches_of
from torchpare.graph.copying import copy_to
from torchpare.graph.program import Program
from torchpare.graph.recorder import Outputs, Recorder, map_tensors
from torchpare.graph.remembered import asked_anew
from torchpare.graph.scripted import scripted_functions_as_python
from torchpare.graph.sizes import Attribute, Size
from torchpare.graph.whole_numbers import origins_kept
from torchpare.layers import adopt
from torchpare.layers.settings import attributes_of, members, with_members

__all__ = ["call_arguments", "capture", "capture_until_failure"]


def call_arguments(dummy_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a dummy input: a tensor, a tuple or list of them, or a dict of keywords."""
    if isinstance(dummy_input, Mapping):  # tokenizers of transformers return one that is no dict
        return (), dict(dummy_input)
    if isinstance(dummy_input, (tuple, list)):
        return tuple(dummy_input), {}
    return (dummy_input,), {}


def capture(
    model: nn.Module, dummy_input: Any, *, outputs: Outputs | None = None, device: str | None = None
) -> Program:
    """Record a forward pass of a copy of ``model`` in evaluation mode; the model itself is not touched.

    Where that pass leaves parameters or buffers unread (auxiliary heads and statistics that only training uses), a pass
    in training mode is recorded after it, so that they follow the channels they read.

    Args:
        model: any module, on any device.
        dummy_input: a tensor, a tuple of positional arguments, or a dict of keyword arguments. Only shapes and types
            matter where the model can run on the meta device.
        outputs: picks what must keep its shape from what the model returns; everything, if not given.
        device: ``"meta"`` or ``"cpu"``, to record there and nowhere else.

    Raises:
        CaptureError: if the forward pass fails, with the error of the model's own code.
    """
    scripted = [path for path, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    if scripted:
        message = (
            f"{scripted[0] or type(model).__name__} is a TorchScript module, whose operators and numbers cannot be "
            "followed: analyse the Python module that it was made from, and script the small one afterwards"
        )
        raise CaptureError(message)
    failures: list[Exception] = []
    places = ("meta", "cpu") if device is None else (device,)
    for keeping, place in product((origins_kept, nullcontext), places):
        try:
            with asked_anew(model), keeping(model):
                return _record(model, dummy_input, place, outputs)
        except Exception as error:  # noqa: BLE001 - whatever the model's own code raises
            failures.append(error)
    meta, real = failures[0], failures[-1]
    message = (
        f"could not run {type(model).__name__} on the dummy input: {type(real).__name__}: {real}. Check that "
        f"model(dummy_input) works; pass several positional inputs as a tuple and keyword inputs as a dict. "
        f"(On the meta device it failed with {type(meta).__name__}: {meta})"
    )
    raise CaptureError(message) from real


def capture_until_failure(model: nn.Module, dummy_input: Any, like: Program) -> Program:
    """Record a forward pass on the device where another program was recorded, as far as it gets."""
    with asked_anew(model), origins_kept(model):
        return _record(model, dummy_input, like.device, like.select, until_failure=True)


def _record(
    model: nn.Module, dummy_input: Any, device: str, select: Outputs | None = None, *, until_failure: bool = False
) -> Program:
    twin = copy_to(model, device)
    for cache in caches_of(twin):
        cache.clear()
    args, kwargs = call_arguments(dummy_input)
    args, kwargs = map_tensors(lambda tensor: tensor.detach().to(device), (args, kwargs))
    recorder = Recorder(twin, (args, kwargs))
    for module in twin.modules():
        if type(module) is nn.MultiheadAttention:
            adopt(module)  # the stock class refuses to lose a head; ours has its parameters and its function
    attributes = _wrap_attributes(twin)
    recorder.watch_modules(twin)
    with recorder.recording():
        twin.eval()  # some modules work something out of their parameters when they are told
    with plain_operators(), torch.random.fork_rng(devices=[]):
        try:
            outputs = recorder.run(twin, args, kwargs, select)
        except Exception:
            if not until_failure:
                raise
            outputs = ()
    module_outputs = list(recorder.module_outputs)
    program = Program(
        recorder.values,
        recorder.ops,
        outputs,
        module_outputs,
        attributes,
        recorder.comparisons,
        device,
        recorder.constants,
        recorder.scales,
        select,
    )
    statistics = [name for name in program.untouched_buffers() if twin.get_buffer(name).is_floating_point()]
    if outputs and (program.unreached() or statistics):
        program.outputs += _training_outputs(twin, recorder, args, kwargs, select)
    return program


@contextmanager
def plain_operators() -> Iterator[None]:
    """Attention and recurrence as the operators they consist of, the same on every device; no fused inference paths."""
    fused = torch.backends.mha.get_fastpath_enabled()
    recurrent = torch._C._get_mkldnn_enabled()  # the public context manager warns about other hardware
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), scripted_functions_as_python():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        torch._C._set_mkldnn_enabled(recurrent)


def _training_outputs(
    twin: nn.Module, recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any], select: Outputs | None
) -> tuple[int, ...]:
    """Record the training path too; nothing where the model cannot be run in training mode."""
    twin.train()
    doubled = map_tensors(lambda t: torch.cat([t, t]) if t.dim() else t, (args, kwargs))
    for tried_args, tried_kwargs in ((args, kwargs), doubled):  # a batch norm may refuse to train on one sample
        try:
            with plain_operators(), torch.random.fork_rng(devices=[]):
                return recorder.run(twin, tried_args, tried_kwargs, select)
        except Exception:  # noqa: BLE001 - whatever the model's own code raises
            recorder.abandon_run()
    return ()


def _wrap_attributes(twin: nn.Module) -> dict[Attribute, int]:
    """Replace the integers that the copy's modules remember by sizes that know their name; return what they were.

    The numbers of what a module holds (``self.config``, a dict, rows of them) are attributes of it under dotted names;
    those of an object that many modules share go by the first of them. What a class says for all its instances is
    from here on said by each of them.
    """
    found: dict[Attribute, int] = {}
    known: dict[int, tuple[Any, Any]] = {}
    for path, module in twin.named_modules():
        for name, value in attributes_of(module).items():
            if name.startswith("__"):
                continue
            new = _wrapped(value if name in vars(module) else copy.deepcopy(value), path, name, found, known)
            if new is not value:
                vars(module)[name] = new
    return found


def _wrapped(value: Any, path: str, name: str, found: dict[Attribute, int], known: dict[int, tuple[Any, Any]]) -> Any:
    """A value with a `Size` for each whole number in it, changed in place where its kind can be."""
    if type(value) is int:
        attribute = Attribute(path, name)
        found[attribute] = value
        return Size(value, attribute)
    if type(value) in (tuple, list, torch.Size) and value and all(type(item) is int for item in value):
        found.update((Attribute(path, name, index), item) for index, item in enumerate(value))
        return type(value)([Size(item, Attribute(path, name, index)) for index, item in enumerate(value)])
    if id(value) not in known:
        known[id(value)] = (value, value)  # kept alive, so that nobody else gets its id
        changes = {}
        for key, item in members(value).items():
            new = item if key.startswith("__") else _wrapped(item, path, f"{name}.{key}", found, known)
            if new is not item:
                changes[key] = new
        if changes:
            known[id(value)] = (value, with_members(value, changes, in_place=True))
    return known[id(value)][1]
