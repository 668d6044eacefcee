"""Torch's own compiler on the CPU: the program as machine code in one file, made ahead of time."""

from __future__ import annotations

import copy
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from torchpare.errors import ExportError
from torchpare.files.atomic import atomic_write
from torchpare.graph.capture import call_arguments
from torchpare.runtimes.folding import WEIGHTED
from torchpare.runtimes.program import QuantizedProgram
from torchpare.runtimes.protocol import ModelSpeedupRuntime
from torchpare.runtimes.record import export
from torchpare.runtimes.weights import float_weights

__all__ = ["ModelSpeedupInductor"]


class ModelSpeedupInductor(ModelSpeedupRuntime):
    """A quantized model compiled by torch inductor, with weights frozen. It needs a C++ compiler, and takes minutes.

    Its file (``.pt2``) holds machine code for this kind of processor: load none that you did not make. ``threads`` is
    torch's own number, which this class does not change.

    For the arguments see :class:`~torchpare.runtimes.protocol.ModelSpeedupRuntime`.
    """

    runtime: ClassVar[str] = "inductor"

    def take(self, program: QuantizedProgram) -> Callable[[list[Tensor]], list[Tensor]]:
        """Compile the program into a package, and load it."""
        path = self.folder() / "model.pt2"
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                module = copy.deepcopy(program.module)
                float_weights(module, _has_kernel)
                exported = export(fx.GraphModule(module, module.graph), program.example)
                torch._inductor.aoti_compile_and_package(  # noqa: SLF001 - its public name
                    exported, package_path=str(path), inductor_configs={"freezing": True}
                )
        except Exception as error:
            first = str(error).strip().partition("\n")[0][:300]
            raise ExportError(f"inductor cannot compile the program: {type(error).__name__}: {first}") from error
        return self.read(path)

    def read(self, path: Path) -> Callable[[list[Tensor]], list[Tensor]]:
        """Load a package."""
        try:
            call: Any = torch._inductor.aoti_load_package(str(path))  # noqa: SLF001 - its public name
        except Exception as error:
            first = str(error).strip().partition("\n")[0][:300]
            raise ExportError(f"{path} is no package of inductor: {first}") from error
        self._file = path
        args, kwargs = call_arguments(self.example)
        form = pytree.tree_structure((args, kwargs))

        def run(tensors: list[Tensor]) -> list[Tensor]:
            own_args, own_kwargs = pytree.tree_unflatten(tensors, form)
            with torch.no_grad():
                made = call(*own_args, **own_kwargs)
            return [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor)]

        return run

    def export_quantized_model(self, path: str | os.PathLike[str]) -> None:
        """Write the package.

        Raises:
            ExportError: ``compress()`` was not called.
            FileError: ``path`` cannot be written.
        """
        self._ready("export_quantized_model()")
        with atomic_write(path) as lent:
            shutil.copyfile(self._file, lent)


def _has_kernel(node: fx.Node) -> bool:
    """Not so for transposed convolutions, which inductor's integer passes take for ordinary ones."""
    return WEIGHTED.get(node.target) == 0
