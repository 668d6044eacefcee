"""A model for other runtimes: one ONNX file by torch's current exporter, and a check that it computes the same.

The exporter records the model on an input and fixes every size it sees, unless told that one may vary. We ask it to let
the batch vary, and keep to the fixed size where the model itself does not allow that. What only serves to debug the
exporter (source lines, paths of the machine that exported) is left out of the file.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from inspect import signature
from pathlib import Path
from traceback import format_exception
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from torchpare.errors import ExportError, MissingExtraError
from torchpare.files.atomic import atomic_write
from torchpare.files.attention import WRITTEN_OUT, SeesAttention
from torchpare.files.uniform import take_only_choices
from torchpare.graph.capture import call_arguments

__all__ = ["OnnxExport", "check_onnx", "export_onnx", "runner", "with_free_batch"]

_ATTENTION_OPSET = 23  # the first that has attention as one operator
_ONE_FILE = 2**31 - 2**24  # protobuf's limit is 2 GiB; the graph itself needs some of it


class OnnxExport(NamedTuple):
    """What became of an export."""

    path: Path
    dynamic_batch: bool  # False where the model or the exporter allows the batch size of the dummy input only


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    dummy_input: Any,
    *,
    opset_version: int | None = None,
    edit: Callable[[Any], None] | None = None,
) -> OnnxExport:
    """Writes `model`, as it evaluates, to an ONNX file that appears whole or not at all.

    The first axis of every input that has the first input's batch size may vary afterwards, unless the model or the
    exporter fixes it. Models of 2 GiB and more get their weights in a second file, `<path>.data`.

    Args:
        model: any module; its training modes come back afterwards.
        path: the file to write.
        dummy_input: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        opset_version: the ONNX operator set; the exporter's own choice if None.
        edit: called with the exporter's graph (an ``onnx_ir.Model``) before it is written.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
        ExportError: the exporter does not know how to write the model, or the model does not run on `dummy_input`.
        FileError: `path` cannot be written.
    """
    for library in ("onnx", "onnxscript"):
        _require(library)
    args, kwargs = call_arguments(dummy_input)
    with _quiet_evaluation(model):
        with SeesAttention() as seen:
            _run(model, args, kwargs)
        program, dynamic = _program(model, args, kwargs, opset_version, attends=seen.attention)
    take_only_choices(program.model)
    _copy_returned_weights(program.model)
    if edit is not None:
        edit(program.model)
    _save(program, Path(path), sum(tensor.nbytes for tensor in model.state_dict().values()))
    return OnnxExport(Path(path), dynamic)


def check_onnx(model: nn.Module, path: str | os.PathLike[str], dummy_input: Any, *, tolerance: float = 1e-4) -> float:
    """Runs an ONNX file in ONNX Runtime on the CPU and `model` in PyTorch, on the same input.

    Args:
        model: the model that was exported; its training modes come back afterwards.
        path: the file.
        dummy_input: as for :func:`export_onnx`; of another batch size if the file allows that.
        tolerance: the largest difference to accept, as a fraction of the largest absolute value of an output.

    Returns:
        The largest absolute difference over all outputs.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ExportError: the file is missing or does not load or run, has other outputs, or differs by more than the
            tolerance.
    """
    args, kwargs = call_arguments(dummy_input)
    run = runner(path, dummy_input)
    with _quiet_evaluation(model):
        leaves = pytree.tree_leaves(_run(model, args, kwargs))
    expected = [_in_reals(leaf) for leaf in leaves if isinstance(leaf, Tensor)]
    try:
        got = [torch.from_numpy(output) for output in run()]
    except Exception as error:  # ONNX Runtime has a family of its own for every stage
        raise ExportError(f"ONNX Runtime cannot run {path} on this input: {_first_line(error)}") from error
    shapes = [tuple(tensor.shape) for tensor in expected], [tuple(tensor.shape) for tensor in got]
    if shapes[0] != shapes[1]:
        raise ExportError(
            f"{path} gives outputs of shapes {shapes[1]}, PyTorch {shapes[0]}: was it exported from this model?"
        )
    largest = 0.0
    for index, (want, have) in enumerate(zip(expected, got, strict=True)):
        difference, scale = _difference(want, have)
        if not difference <= tolerance * max(scale, 1.0):  # so that a NaN is over it
            raise ExportError(
                f"{path} differs from PyTorch by {difference:.3g} in output {index} (its largest value is {scale:.3g}, "
                f"the tolerance {tolerance:g} of that): was it exported from this model, as it is now?"
            )
        largest = max(largest, difference)
    return largest


def runner(path: str | os.PathLike[str], dummy_input: Any, *, threads: int | None = None) -> Callable[[], list[Any]]:
    """What runs an ONNX file once in ONNX Runtime on the CPU, on one input; returns the outputs as numpy arrays.

    Args:
        path: the file.
        dummy_input: as for :func:`export_onnx`.
        threads: within one operator; ONNX Runtime's own choice if None.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ExportError: the file is missing, does not load, or has other inputs.
    """
    runtime = _require("onnxruntime")
    if not Path(path).is_file():
        raise ExportError(f"there is no ONNX file {path}; write it with export_onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = runtime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        feed = _feed(session, *call_arguments(dummy_input))
    except Exception as error:
        raise ExportError(f"ONNX Runtime cannot run {path} on this input: {_first_line(error)}") from error
    return lambda: session.run(None, feed)


def _require(library: str) -> Any:
    try:
        return import_module(library)
    except ImportError as error:
        raise MissingExtraError(f"{library} is not installed; it comes with: pip install 'torchpare[onnx]'") from error


@contextmanager
def _quiet_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, without the exporter's thoughts about itself; afterwards each module has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith("torch")]
    handlers = {handler: handler.level for logger in loggers for handler in logger.handlers}
    for handler in handlers:
        handler.setLevel(logging.CRITICAL)  # its failed attempts, which we report ourselves
    model.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler, level in handlers.items():
            handler.setLevel(level)
        for module, mode in modes:
            module.training = mode


def _run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        with torch.no_grad():
            return model(*args, **kwargs)
    except Exception as error:
        raise ExportError(f"{type(model).__name__} does not run on the dummy input: {_first_line(error)}") from error


def _program(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], opset_version: int | None, *, attends: bool
) -> tuple[torch.onnx.ONNXProgram, bool]:
    """The exported program, and whether its batch size may vary.

    Attention is written out where the operator set does not have it as one operator, and where the exporter cannot
    write it as one (of other than four axes, or where it mistakes how the result lies in memory).
    """
    ways = [_export_written_out, _export] if attends else [_export]
    if opset_version is not None and opset_version >= _ATTENTION_OPSET:
        ways.reverse()
    for export in ways:
        with suppress(Exception):  # whatever it was, the attempts with a fixed size decide
            program = export(model, *with_free_batch(model, args, kwargs), opset_version)
            sizes = [value.shape[0] for value in program.model.graph.inputs if value.shape]
            if any(not isinstance(size, int) for size in sizes):
                return program, True
    failure: Exception | None = None
    for export in ways:
        try:
            return export(model, args, kwargs, None, opset_version), False
        except Exception as error:  # noqa: BLE001 - exporters raise what they like
            failure = error  # the plain way's tells most, and comes last by default
    assert failure is not None
    raise ExportError(
        f"{type(model).__name__} could not be exported: {_first_line(failure)}; "
        + (
            GROUPED
            if "grouped_mm" in "".join(format_exception(failure))
            else "the error above this one has the exporter's own report"
        )
    ) from failure


GROUPED = (
    "experts whose products are computed in groups (grouped_mm) have no operator in files and programs: choose another "
    "implementation of them, such as experts_implementation='batched_mm' in transformers"
)
"""What to say of models that use it."""


def with_free_batch(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
    """The input with at least two samples, and what may vary in it, for ``torch.export`` and exporters upon it.

    They take a size of 1 for a constant, so a single sample is doubled. What may vary they want told by the parameters
    of ``forward``, of which ``*args`` and ``**kwargs`` are one each that holds several values.

    Raises:
        TypeError: the module does not take this input.
    """
    first = next((leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim), None)
    size = first.shape[0] if first is not None else None
    batch = torch.export.Dim("batch")

    def is_batched(leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == size

    def doubled(leaf: Any) -> Any:
        return torch.cat([leaf, leaf]) if size == 1 and is_batched(leaf) else leaf

    def free(leaf: Any) -> Any:
        return {0: batch} if is_batched(leaf) else None

    several_args, several_kwargs = pytree.tree_map(doubled, (args, kwargs))
    by_parameter = dict(signature(module.forward).bind(*args, **kwargs).arguments)
    return several_args, several_kwargs, pytree.tree_map(free, by_parameter)


def _export_written_out(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], free: Any, opset_version: int | None
) -> torch.onnx.ONNXProgram:
    recorded = torch.export.export(model, args, kwargs=kwargs, dynamic_shapes=free, strict=False)
    if not any(node.target in WRITTEN_OUT for node in recorded.graph.nodes):
        raise ExportError("there is no attention to write out")
    for node in recorded.graph.nodes:  # what is written out lies otherwise in memory, where a view may not be possible
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    return _export(recorded.run_decompositions(dict(WRITTEN_OUT)), args, kwargs, free, opset_version)


def _export(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], free: Any, opset_version: int | None
) -> torch.onnx.ONNXProgram:
    if args and isinstance(args[-1], dict) and not kwargs:
        args = (*args, {})  # or the exporter takes a dict that comes last for keyword arguments
    program = torch.onnx.export(
        model,
        args,
        kwargs=kwargs,
        dynamo=True,
        verbose=False,
        dynamic_shapes=free,
        opset_version=opset_version,
        external_data=False,
    )
    assert program is not None  # None is for the older exporter
    return program


def _copy_returned_weights(model: Any) -> None:
    """Weights that the model returns as they are, behind an operator: runtimes take no weight for an output."""
    import onnx_ir

    graph = model.graph
    for at, value in enumerate(list(graph.outputs)):
        if value.is_initializer():
            made = onnx_ir.Value(name=f"{value.name}_returned", type=value.type, shape=value.shape)
            graph.append(onnx_ir.Node("", "Identity", [value], outputs=[made]))
            graph.outputs[at] = made


def _save(program: torch.onnx.ONNXProgram, path: Path, size: int) -> None:
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    if size < _ONE_FILE:
        with atomic_write(path) as lent:
            program.save(lent, external_data=False)
    else:  # the two files name each other, so neither can be written under another name first
        program.save(path, external_data=True)


def _feed(session: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The inputs by the names they have in the file: keywords by theirs, positional ones in order."""
    names = [value.name for value in session.get_inputs()]
    if kwargs and set(names) <= set(kwargs):
        return {name: _in_reals(kwargs[name]).numpy() for name in names}
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    return {name: _in_reals(tensor).numpy() for name, tensor in zip(names, tensors, strict=True)}


def _in_reals(tensor: Tensor) -> Tensor:
    """As the file has it: the exporter writes complex numbers as pairs in one more axis."""
    tensor = tensor.detach().cpu()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _difference(want: Tensor, have: Tensor) -> tuple[float, float]:
    """The largest absolute difference, and the largest absolute value expected."""
    if not want.numel():
        return 0.0, 0.0
    want, have = want.double(), have.double()
    return float((want - have).abs().max()), float(want.abs().max())


def _first_line(error: BaseException) -> str:
    """The line that tells what went wrong: of the innermost cause, for the exporter wraps errors in reports."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
