"""Torch's own compiler on the CPU: the program as machine code in one file, made ahead of time."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from torchpare.errors import ExportError
from torchpare.files.atomic import atomic_write
from torchpare.graph.capture import call_arguments
from torchpare.runtimes.cuts import run_cut
from torchpare.runtimes.explicit import FloatPlace
from torchpare.runtimes.folding import WEIGHTED
from torchpare.runtimes.operators import is_dequantize, is_quantize, owner
from torchpare.runtimes.program import QuantizedProgram
from torchpare.runtimes.protocol import ModelSpeedupRuntime, Runner
from torchpare.runtimes.record import export
from torchpare.runtimes.results import tensors_alone
from torchpare.runtimes.verify import check_alike
from torchpare.runtimes.weights import give_each_layer_its_own, with_float_weights

__all__ = ["ModelSpeedupInductor"]

_SIZES = "torchpare_sizes"
"""Under which a package keeps what it may be given."""


class ModelSpeedupInductor(ModelSpeedupRuntime):
    """A quantized model compiled by torch inductor, with weights frozen. It needs a C++ compiler, and takes minutes.

    Its file (``.pt2``) holds machine code for this kind of processor: load none that you did not make. ``threads`` is
    torch's own number, which this class does not change.

    What it makes is tried on the example; where that is another function, it is compiled again without freezing, which
    computes in float, and ``program.floats`` says so.

    For the arguments see :class:`~torchpare.runtimes.protocol.ModelSpeedupRuntime`.
    """

    runtime: ClassVar[str] = "inductor"
    _frozen: bool = True

    def take(self, program: QuantizedProgram) -> Runner:
        """Compile the program into a package, and load it; where that is another function, without freezing."""
        module = for_inductor(program.module)
        self._frozen = True
        try:
            run = self._proved(module, program)
            left, why = _without_kernel(program), "inductor has no integer kernel for convolutions along three axes"
        except ExportError as error:
            self._frozen = False
            run = self._proved(module, program)
            left = program.integers
            why = f"inductor does not compile this program with frozen weights ({error}): they are floats to it"
        if left:
            kept = tuple(name for name in program.integers if name not in left)
            told = tuple(FloatPlace(name, why) for name in dict.fromkeys(left))
            self.program = replace(program, integers=kept, floats=(*program.floats, *told))
        return run

    def _proved(self, module: fx.GraphModule, program: QuantizedProgram) -> Runner:
        """What runs a module, which computes what the program does, on its example.

        Raises:
            ExportError: it cannot be compiled, or is another function.
        """
        run = self.read(self._packed(module, program.example))
        check_alike(run, program)
        return run

    def read(self, path: Path) -> Runner:
        """Load a package."""
        run = _loaded(path, call_arguments(self.example))
        self._file = path
        return run

    def run_parts(self, data: Any, seen: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What the kernels make at each site and of each output; two programs are compiled for it."""
        program = self.made()

        def lowered(module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> Runner:
            return _loaded(self._packed(module, inputs), (inputs, {}))

        return run_cut(for_inductor(program.module), program.sites, self.tensors(data), seen, lowered)

    def export_quantized_model(self, path: str | os.PathLike[str]) -> None:
        """Write the package.

        Raises:
            ExportError: ``compress()`` was not called.
            FileError: ``path`` cannot be written.
        """
        self._ready("export_quantized_model()")
        with atomic_write(path) as lent:
            shutil.copyfile(self._file, lent)

    def _packed(self, module: fx.GraphModule, example: Any) -> Path:
        path = self.folder() / "model.pt2"
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                exported = export(module, example)
                options = {
                    "freezing": self._frozen,
                    "aot_inductor.metadata": {_SIZES: json.dumps(_sizes_of(exported))},
                }
                torch._inductor.aoti_compile_and_package(  # noqa: SLF001 - its public name
                    exported, package_path=str(path), inductor_configs=options
                )
        except Exception as error:
            first = str(error).strip().partition("\n")[0][:300]
            raise ExportError(f"inductor cannot compile the program: {type(error).__name__}: {first}") from error
        return path


def _loaded(path: Path, example: tuple[tuple[Any, ...], dict[str, Any]]) -> Runner:
    """What runs a package whose input has the form of an example, of positional and keyword arguments."""
    try:
        call: Any = torch._inductor.aoti_load_package(str(path))  # noqa: SLF001 - its public name
        told = call.get_metadata().get(_SIZES)
    except Exception as error:
        first = str(error).strip().partition("\n")[0][:300]
        raise ExportError(f"{path} is no package of inductor: {first}") from error

    if told is None:
        raise ExportError(f"{path} does not tell what it may be given: write it with export_quantized_model")
    sizes = json.loads(told)
    leaves, form = pytree.tree_flatten(example)

    def run(tensors: list[Tensor]) -> list[Tensor]:
        _check_sizes(tensors, sizes)
        given = iter(tensors)
        filled = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(filled, form)
        with torch.no_grad():
            made = call(*args, **kwargs)
        return [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor)]

    return run


def _sizes_of(exported: torch.export.ExportedProgram) -> list[list[int | str]]:
    """The sizes of each tensor that a program is given: a number, or a letter where it may vary."""
    given = set(exported.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder" and node.name in given]
    return [[size if isinstance(size, int) else str(size) for size in value.shape]
            for value in values if isinstance(value, Tensor)]  # fmt: skip


def _check_sizes(tensors: Sequence[Tensor], sizes: Sequence[Sequence[int | str]]) -> None:
    """A package reads as much memory as it was compiled for, whatever it is given: so it is given nothing else.

    Raises:
        ExportError: the tensors are of other sizes than the package takes.
    """
    free: dict[str, int] = {}
    for tensor, own in zip(tensors, sizes, strict=True):
        wanted = [free.setdefault(size, have) if isinstance(size, str) else size
                  for size, have in zip(own, tensor.shape, strict=False)]  # fmt: skip
        if wanted != list(tensor.shape) or len(own) != tensor.dim():
            shapes = [tuple(each.shape) for each in tensors]
            told = ", ".join(f"({', '.join(map(str, each))})" for each in sizes)
            raise ExportError(
                f"inductor cannot run the program on inputs of shapes {shapes}: it was compiled for {told}"
            )


def for_inductor(module: fx.GraphModule) -> fx.GraphModule:
    """A copy in the form in which inductor has integer kernels.

    Each layer has its own weight there, and floats where there is no kernel; what linear layers of several axes read
    lies in memory in its own order, for those that read another make inductor fail as soon as the batch is free; and
    tensors alone are returned, for with anything beside them weights cannot be frozen.
    """
    made = with_float_weights(module, _has_kernel)
    give_each_layer_its_own(made)
    for layer in [node for node in made.graph.nodes if node.target is torch.ops.aten.linear.default]:
        codes = layer.args[0].args[0] if is_dequantize(layer.args[0]) else None
        if not is_quantize(codes):
            continue
        value = codes.all_input_nodes[0]
        known = value.meta.get("val")
        if isinstance(known, Tensor) and known.dim() > 2 and not known.is_contiguous():
            layout: dict[str, Any] = {"memory_format": torch.contiguous_format}
            with made.graph.inserting_before(codes):
                laid_out = made.graph.call_function(torch.ops.aten.clone.default, (value,), layout)
            codes.replace_input_with(value, laid_out)
    return tensors_alone(fx.GraphModule(made, made.graph))


def _without_kernel(program: QuantizedProgram) -> tuple[str, ...]:
    """The layers that inductor computes in float although integer kernels could compute them."""
    nodes = [node for node in program.module.graph.nodes if node.target in WEIGHTED and not _has_kernel(node)]
    return tuple(name for name in dict.fromkeys(owner(node) or node.name for node in nodes) if name in program.integers)


def _has_kernel(node: fx.Node) -> bool:
    """Not so for transposed convolutions, which inductor's integer passes take for ordinary ones."""
    return WEIGHTED.get(node.target) == 0 and node.target is not torch.ops.aten.conv3d.default
