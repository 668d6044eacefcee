"""What every runtime offers: build it from a model, let it compile, run it, write and read what it compiled."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from torchpare.attach import quantizers_of
from torchpare.errors import ExportError, TorchpareError
from torchpare.files.calibration import Calibration
from torchpare.files.example import example_of
from torchpare.graph.capture import call_arguments
from torchpare.runtimes.asked import check_model, check_switch, file_of, threads_of
from torchpare.runtimes.copied import copied_in_float32
from torchpare.runtimes.inputs import computed, in_order, shapes_of
from torchpare.runtimes.program import QuantizedProgram, build_program
from torchpare.runtimes.record import plain_attention

__all__ = ["ModelSpeedupRuntime", "Runner", "Runtime"]

Runner = Callable[[list[Tensor]], list[Tensor]]
"""What runs a program once: from the input's tensors to the output's, in their order."""


@runtime_checkable
class Runtime(Protocol):
    """A quantized model in the hands of something that executes it."""

    runtime: str
    """What executes, for tables: "ONNX Runtime"."""

    def compress(self) -> None:
        """Make the program and hand it to the runtime."""
        ...

    def inference(self, test_data: Any) -> tuple[Any, float]:
        """What the program computes of an input, and in how many seconds."""
        ...

    def export_quantized_model(self, path: str | os.PathLike[str]) -> None:
        """Write what the runtime executes to a file."""
        ...

    def load_quantized_model(self, path: str | os.PathLike[str]) -> None:
        """Execute what such a file holds from now on."""
        ...


class ModelSpeedupRuntime(ABC):
    """What the runtimes share; a new one says how it takes a program, a file, and an input.

    Args:
        model: quantized by one of `torchpare.quantization`, or plain. It stays as it is.
        input_shape: of one input, the batch included, such as ``[1, 3, 224, 224]``; the batch may vary later where the
            model allows it.
        config: of a plain model, what a quantizer's ``export_model`` returned or wrote: its grids are used.
        dummy_input: in place of ``input_shape``, for models of several inputs, or of integers: a tensor, a tuple of
            positional arguments, or a dict of keyword arguments.
        calib_data_loader: batches like those the model will meet, in the form of ``dummy_input``; a plain model is
            quantized by them, and places that integer kernels need and no quantizer covers are calibrated by them.
        observer: how the ranges of these are found.
        exclude: of a plain model without config, the layers that stay float.
        threads: within one operator; torch's own number if None.
        attention: whether calibration rounds queries and keys too (see `torchpare.runtimes.build_program`). If None, of
            plain models where the runtime is faster by that, which is OpenVINO.
        round_inputs: let the kernel for linear layers of which the weights alone are quantized, in four bits, round its
            inputs to eight bits as they come: faster, and no longer what PyTorch computes. ONNX Runtime alone can.

    Raises:
        ExportError: neither or both of ``input_shape`` and ``dummy_input`` are given, the runtime cannot round, or the
            model has no values.
        ConfigError: the model is none, or ``threads`` is no number of threads.
    """

    runtime: ClassVar[str]
    rounds_inputs: ClassVar[bool] = False
    """Whether it knows ``round_inputs``."""

    rounds_attention: ClassVar[bool] = False
    """Whether it is faster where queries and keys are rounded."""

    symmetric: ClassVar[bool] = False
    """Whether grids that are found by calibration have zero in their middle, because it takes no others."""

    def __init__(  # noqa: PLR0913 - what a program is made of, and how it is run
        self,
        model: nn.Module,
        input_shape: Sequence[int] | None = None,
        config: Calibration | str | os.PathLike[str] | None = None,
        *,
        dummy_input: Any = None,
        calib_data_loader: Iterable[Any] | None = None,
        observer: str = "min_max",
        exclude: Sequence[str] = (),
        threads: int | None = None,
        attention: bool | None = None,
        round_inputs: bool = False,
    ) -> None:
        check_model(model)
        if attention is not None:
            check_switch(attention, "attention")
        check_switch(round_inputs, "round_inputs")
        if round_inputs and not self.rounds_inputs:
            raise ExportError(f"{self.runtime} rounds no inputs of its own accord: leave round_inputs out")
        self.round_inputs = round_inputs
        if (input_shape is None) == (dummy_input is None):
            raise ExportError("give either input_shape, such as [1, 3, 224, 224], or dummy_input")
        self.model, self.config = model, config
        self.example = example_of(model, input_shape, "cpu").float() if input_shape is not None else dummy_input
        self.calibration, self.observer, self.exclude = calib_data_loader, observer, exclude
        self.threads, self.attention = threads_of(threads), attention
        self.program: QuantizedProgram | None = None
        self._run: Runner | None = None

    # ------------------------------------------------------------------------------------------- what a runtime says

    @abstractmethod
    def take(self, program: QuantizedProgram) -> Runner:
        """Compile a program; returns what runs it: from the input's tensors to the output's, in their order."""

    @abstractmethod
    def export_quantized_model(self, path: str | os.PathLike[str]) -> None:
        """Write what the runtime executes.

        Raises:
            ExportError: ``compress()`` was not called.
            FileError: ``path`` cannot be written.
        """

    @abstractmethod
    def read(self, path: Path) -> Runner:
        """Take a file; returns what runs it."""

    @abstractmethod
    def run_parts(self, data: Any, seen: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What the runtime makes at each site of the program, and then of each output, for `torchpare.runtimes.verify`.

        Args:
            data: in the form of ``dummy_input``.
            seen: the integers at each site by the site's name, in PyTorch.

        Returns:
            twice the integers at each site and then the outputs: of each part run by itself, on what was seen; and of
            the whole program while every site is looked at.

        Raises:
            ExportError: there is no program, or the runtime refuses it or a part of it.
        """

    # --------------------------------------------------------------------------------------------------- the interface

    def compress(self) -> None:
        """Make the program, if it is not made yet, and hand it to the runtime.

        Raises:
            MissingExtraError: the runtime is not installed.
            ExportError: the model cannot be one program, or the runtime refuses it.
            QuantizationError: there are no calibration batches in the loader, or values are not finite.
        """
        if self.program is None:
            attention = self.attention
            if attention is None:  # where quantizers chose what is rounded, nothing is added for speed alone
                plain = self.config is None and next(quantizers_of(self.model), None) is None
                attention = self.rounds_attention and plain and self.calibration is not None
            self.program = build_program(
                self.model, self.example, config=self.config, calibration=self.calibration, observer=self.observer,
                exclude=self.exclude, symmetric=self.symmetric, attention=attention,
            )  # fmt: skip
        self._run = self.take(self.program)

    def inference(self, test_data: Any) -> tuple[Any, float]:
        """Run the program once.

        Args:
            test_data: in the form of ``dummy_input``: a tensor, a tuple, or a dict.

        Returns:
            what the model would return (of a file that was loaded without the model: its tensor, or a list of them),
            on the CPU; and the wall time of the runtime alone, in seconds.

        Raises:
            ExportError: there is no program yet, or the runtime cannot run it on this input.
        """
        run = self._ready("inference()")
        tensors = self._checked(test_data)
        start = time.perf_counter()
        try:
            outputs = run(tensors)
        except TorchpareError:
            raise
        except Exception as error:
            first = str(error).strip().partition("\n")[0][:300]
            shapes = [tuple(tensor.shape) for tensor in tensors]
            raise ExportError(f"{self.runtime} cannot run the program on inputs of shapes {shapes}: {first}") from error
        seconds = time.perf_counter() - start
        if self.program is not None:
            return self.program.rebuilt(outputs), seconds
        return (outputs[0] if len(outputs) == 1 else outputs), seconds

    def runner(self, test_data: Any) -> Callable[[], object]:
        """What runs the program once on this input, for timing.

        Raises:
            ExportError: there is no program yet, or the input has other sizes than the example.
        """
        run, tensors = self._ready("runner()"), self._checked(test_data)
        return lambda: run(tensors)

    def load_quantized_model(self, path: str | os.PathLike[str]) -> None:
        """Execute what a file of ``export_quantized_model`` holds from now on.

        Raises:
            MissingExtraError: the runtime is not installed.
            ExportError: there is no such file, or it is not one.
        """
        self._run = self.read(file_of(path))

    def folder(self) -> Path:
        """A new folder that is gone when this object is."""
        made = tempfile.mkdtemp(prefix="torchpare-")
        weakref.finalize(self, shutil.rmtree, made, ignore_errors=True)
        return Path(made)

    def tensors(self, data: Any) -> list[Tensor]:
        """The tensors of an input in the order in which the program takes them, on the CPU, floats in float32.

        Raises:
            ExportError: the input has others than the example.
        """
        leaves = in_order(self.example, computed(data))
        return [leaf.contiguous() for leaf in leaves if isinstance(leaf, Tensor)]

    def made(self) -> QuantizedProgram:
        """The program that ``compress()`` made.

        Raises:
            ExportError: it was not called: a file that was loaded tells nothing of what PyTorch computes.
        """
        if self.program is None:
            raise ExportError("there is no program to compare with: call compress() first")
        return self.program

    def model_output(self, data: Any) -> Tensor:
        """The first tensor that the model itself returns, in float32 and evaluation mode; it stays as it is.

        As programs have it, without torch's fused attention layers: those return zeros for tokens that are padding.
        """
        args, kwargs = call_arguments(computed(data))
        with torch.no_grad(), plain_attention():
            made = copied_in_float32(self.model)(*args, **kwargs)
        return next(leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor))

    # -------------------------------------------------------------------------------------------------------- inwards

    def _checked(self, data: Any) -> list[Tensor]:
        """The tensors of an input that is of the example's sizes, the batch aside: some programs read on regardless.

        Raises:
            ExportError: it is of others, or of another type than the example and float32.
        """
        tensors, known = self.tensors(data), self.tensors(self.example)
        given, own = (
            [leaf for leaf in in_order(self.example, each) if isinstance(leaf, Tensor)] for each in (data, self.example)
        )
        same = len(given) == len(own) and all(
            one.shape[1:] == other.shape[1:] and one.dim() == other.dim() and one.dtype in (other.dtype, takes.dtype)
            for one, other, takes in zip(given, own, known, strict=True)
        )
        if not same:
            raise ExportError(
                f"{self.runtime} cannot run the program on inputs of shapes {shapes_of(given)}: the example's are "
                f"{shapes_of(own)}, of which the batch alone may vary"
            )
        return tensors

    def _ready(self, what: str) -> Runner:
        if self._run is None:
            raise ExportError(f"{what} needs a program: call compress() or load_quantized_model(path) first")
        return self._run
