"""ExecuTorch with the XNNPACK kernels, for phones and boards; run here on the CPU of the machine at hand."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from torchpare.errors import ExportError, MissingExtraError
from torchpare.files.atomic import atomic_write
from torchpare.runtimes.cuts import run_cut
from torchpare.runtimes.explicit import FloatPlace
from torchpare.runtimes.folding import WEIGHTED
from torchpare.runtimes.operators import constant, is_dequantize, is_quantize, library, owner, put, step_behind
from torchpare.runtimes.placing import chain_end
from torchpare.runtimes.program import QuantizedProgram
from torchpare.runtimes.protocol import ModelSpeedupRuntime, Runner
from torchpare.runtimes.record import export
from torchpare.runtimes.verify import check_alike
from torchpare.runtimes.weights import give_each_layer_its_own, weight_nodes, with_float_weights

__all__ = ["ModelSpeedupExecuTorch"]


class ModelSpeedupExecuTorch(ModelSpeedupRuntime):
    """A quantized model in ExecuTorch, by XNNPACK where that has a kernel. Its file is ``.pte``.

    XNNPACK does not know every program: some it refuses, some it would compute otherwise than they say. What it makes
    is tried on the example; a program of either sort is run by ExecuTorch's own kernels, in float, and
    ``program.floats`` says so.

    The batch size is that of the example. ``threads`` is ExecuTorch's own number, which this class does not change.

    For the arguments see :class:`~torchpare.runtimes.protocol.ModelSpeedupRuntime`.
    """

    runtime: ClassVar[str] = "ExecuTorch"
    _xnnpack: bool = True

    def take(self, program: QuantizedProgram) -> Runner:
        """Lower the program to XNNPACK, and load it; where that makes no program, or another, do without XNNPACK."""
        module = for_xnnpack(program.module)
        self._xnnpack = True
        try:
            self._bytes = _proved(module, program, xnnpack=True)
        except ExportError as error:
            self._xnnpack = False
            self._bytes = _in_float(module, program)
            why = f"XNNPACK does not compute this program ({error}); ExecuTorch's portable kernels do, in float"
            floats = tuple(FloatPlace(name, why) for name in dict.fromkeys(program.integers))
            self.program = replace(program, integers=(), floats=(*program.floats, *floats))
        return _loaded(self._bytes)

    def run_parts(self, data: Any, seen: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What the kernels make at each site and of each output; two programs are lowered for it."""
        program = self.made()

        def lowered(module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> Runner:
            return _loaded(_lowered(module, inputs, xnnpack=self._xnnpack))

        return run_cut(for_xnnpack(program.module), program.sites, self.tensors(data), seen, lowered)

    def read(self, path: Path) -> Runner:
        """Load a ``.pte`` file."""
        self._bytes = path.read_bytes()
        return _loaded(self._bytes)

    def export_quantized_model(self, path: str | os.PathLike[str]) -> None:
        """Write the ``.pte`` file.

        Raises:
            ExportError: ``compress()`` was not called.
            FileError: ``path`` cannot be written.
        """
        self._ready("export_quantized_model()")
        with atomic_write(path) as lent:
            lent.write_bytes(self._bytes)


def _in_float(module: fx.GraphModule, program: QuantizedProgram) -> bytes:
    """The same by ExecuTorch's own kernels, which know no convolutions along three axes (as of 1.5.1).

    Raises:
        ExportError: it cannot be lowered, loaded or run; names the first such convolution where there is one.
    """
    try:
        return _proved(module, program, xnnpack=False)
    except ExportError as error:
        for node in program.module.graph.nodes:
            if node.target is torch.ops.aten.conv3d.default:
                name = owner(node) or node.name
                raise ExportError(f"{name!r} is a convolution along three axes, for which ExecuTorch has no kernel: "
                                  f"{error}") from error  # fmt: skip
        raise


def _proved(module: fx.GraphModule, program: QuantizedProgram, *, xnnpack: bool) -> bytes:
    """A module as a ``.pte`` file that computes what the program does, on its example.

    Raises:
        ExportError: it cannot be lowered, loaded or run, or is another function.
    """
    made = _lowered(module, program.example, xnnpack=xnnpack)
    check_alike(_loaded(made), program)
    return made


def _lowered(module: fx.GraphModule, example: Any, *, xnnpack: bool) -> bytes:
    """A module in XNNPACK's form as a ``.pte`` file."""
    exir = _library("exir")
    by = [_library("backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner()] if xnnpack else []
    _library("kernels.quantized")  # registers what rounds outside of XNNPACK
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = export(module, example, free_batch=False)
            edge = exir.to_edge_transform_and_lower(exported, partitioner=by)
            return bytes(edge.to_executorch().buffer)
    except Exception as error:
        first = str(error).strip().partition("\n")[0][:300]
        raise ExportError(f"ExecuTorch cannot lower the program: {type(error).__name__}: {first}") from error


def _loaded(content: bytes) -> Runner:
    """What runs a ``.pte`` file."""
    runtime = _library("runtime")
    _library("kernels.quantized")
    try:
        program = runtime.Runtime.get().load_program(content)
        method = program.load_method("forward")
    except Exception as error:
        raise ExportError(f"ExecuTorch cannot load the program: {error}") from error

    def run(tensors: list[Tensor], alive: object = (content, program)) -> list[Tensor]:
        del alive  # as long as there is this function
        try:
            # Copied: the next run writes into the same memory.
            return [made.clone() for made in method.execute(tensors) if isinstance(made, Tensor)]
        except RuntimeError as error:
            shapes = [tuple(tensor.shape) for tensor in tensors]
            raise ExportError(f"ExecuTorch cannot run the program on inputs of shapes {shapes}: {error}") from error

    return run


def for_xnnpack(module: fx.GraphModule) -> fx.GraphModule:
    """A copy in the form in which XNNPACK has kernels.

    These are signed: activations are int8 where they were uint8, 128 lower. Their weights have a scale for each channel
    along the first axis, and their results are rounded; the weights of other layers are written in as floats.
    """
    made = with_float_weights(module, _has_kernel)
    give_each_layer_its_own(made)
    for node in weight_nodes(made):
        if is_dequantize(node):
            _scale_by_channel(made, node)
    for node in made.graph.nodes:
        if (is_quantize(node) or is_dequantize(node)) and node.args[5] is torch.uint8:
            value, scale, *numbers = node.args[:5]
            node.args = (value, scale, *(number - 128 for number in numbers), torch.int8)  # type: ignore[operator]
    for node in [node for node in made.graph.nodes if node.target is torch.ops.aten.cat.default]:
        _join_on_one_grid(made.graph, node)
    _give_each_reader_its_own(made.graph)
    made.graph.eliminate_dead_code()
    return fx.GraphModule(made, made.graph)


def _has_kernel(node: fx.Node) -> bool:
    return WEIGHTED.get(node.target) == 0 and is_quantize(next(iter(chain_end(node).users), None))


def _give_each_reader_its_own(graph: fx.Graph) -> None:
    """Give integers their values once for each reader.

    ExecuTorch decides for what gives them, not for each that reads it, whether a kernel takes the integers themselves:
    a product of them and a float was given integers because a convolution reads them too (as of 1.5.1).
    """
    for node in [node for node in graph.nodes if is_dequantize(node)]:
        for reader in list(node.users)[1:]:
            with graph.inserting_before(reader):
                reader.replace_input_with(node, graph.node_copy(node))


def _join_on_one_grid(graph: fx.Graph, joined: fx.Node) -> None:
    """Round what is concatenated before it is, where that lies on several grids: the numbers are the same.

    XNNPACK's kernel copies integers; it takes them on the grid of the result alone, and with others ExecuTorch cannot
    load the whole program (as of 1.5.1).
    """
    codes = next(iter(joined.users), None)
    if len(joined.users) != 1 or not is_quantize(codes) or not all(map(is_dequantize, joined.all_input_nodes)):
        return
    for value in joined.all_input_nodes:
        if value.args[1:6] != codes.args[1:6]:
            with graph.inserting_before(joined):
                again = graph.call_function(codes.target, (value, *codes.args[1:]))  # type: ignore[arg-type]
                restored = graph.call_function(value.target, (again, *codes.args[1:]))  # type: ignore[arg-type]
            joined.replace_input_with(value, restored)


def _scale_by_channel(module: fx.GraphModule, node: fx.Node) -> None:
    """A weight with one scale as one that has it for each channel."""
    codes = constant(module, node.args[0])
    assert codes is not None
    step, path = step_behind(node), str(node.all_input_nodes[0].target)
    scale = torch.full((len(codes),), step.scale)
    zero_point = torch.full((len(codes),), step.zero_point, dtype=torch.int64)
    with module.graph.inserting_before(node):
        read = [module.graph.get_attr(put(module, f"{path}_{name}", tensor))
                for name, tensor in (("scales", scale), ("zero_points", zero_point))]  # fmt: skip
        new = module.graph.call_function(
            library().dequantize_per_channel.default, (node.args[0], *read, 0, -128, 127, torch.int8)
        )
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _library(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(f"executorch.{name}")
    except ImportError as error:
        raise MissingExtraError(
            f"executorch is not installed, or not whole ({error}); it comes with: pip install 'torchpare[executorch]'"
        ) from error
