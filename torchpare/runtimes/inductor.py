"""Torch's own compiler on the CPU: the program as machine code in one file, made ahead of time."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from torchpare.errors import ExportError
from torchpare.files.atomic import atomic_write
from torchpare.graph.capture import call_arguments
from torchpare.runtimes.cuts import run_cut
from torchpare.runtimes.folding import WEIGHTED
from torchpare.runtimes.program import QuantizedProgram
from torchpare.runtimes.protocol import ModelSpeedupRuntime, Runner
from torchpare.runtimes.record import export
from torchpare.runtimes.weights import with_float_weights

__all__ = ["ModelSpeedupInductor"]


class ModelSpeedupInductor(ModelSpeedupRuntime):
    """A quantized model compiled by torch inductor, with weights frozen. It needs a C++ compiler, and takes minutes.

    Its file (``.pt2``) holds machine code for this kind of processor: load none that you did not make. ``threads`` is
    torch's own number, which this class does not change.

    For the arguments see :class:`~torchpare.runtimes.protocol.ModelSpeedupRuntime`.
    """

    runtime: ClassVar[str] = "inductor"

    def take(self, program: QuantizedProgram) -> Runner:
        """Compile the program into a package, and load it."""
        return self.read(self._packed(with_float_weights(program.module, _has_kernel), program.example))

    def read(self, path: Path) -> Runner:
        """Load a package."""
        args, kwargs = call_arguments(self.example)
        run = _loaded(path, pytree.tree_structure((args, kwargs)))
        self._file = path
        return run

    def run_parts(self, data: Any, seen: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What the kernels make at each site and of each output; two programs are compiled for it."""
        program = self.made()

        def lowered(module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> Runner:
            return _loaded(self._packed(module, inputs), pytree.tree_structure((inputs, {})))

        return run_cut(
            with_float_weights(program.module, _has_kernel), program.sites, self.tensors(data), seen, lowered
        )

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
                torch._inductor.aoti_compile_and_package(  # noqa: SLF001 - its public name
                    export(module, example), package_path=str(path), inductor_configs={"freezing": True}
                )
        except Exception as error:
            first = str(error).strip().partition("\n")[0][:300]
            raise ExportError(f"inductor cannot compile the program: {type(error).__name__}: {first}") from error
        return path


def _loaded(path: Path, form: Any) -> Runner:
    """What runs a package whose input has this form."""
    try:
        call: Any = torch._inductor.aoti_load_package(str(path))  # noqa: SLF001 - its public name
    except Exception as error:
        first = str(error).strip().partition("\n")[0][:300]
        raise ExportError(f"{path} is no package of inductor: {first}") from error

    def run(tensors: list[Tensor]) -> list[Tensor]:
        args, kwargs = pytree.tree_unflatten(tensors, form)
        with torch.no_grad():
            made = call(*args, **kwargs)
        return [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor)]

    return run


def _has_kernel(node: fx.Node) -> bool:
    """Not so for transposed convolutions, which inductor's integer passes take for ordinary ones."""
    return WEIGHTED.get(node.target) == 0
