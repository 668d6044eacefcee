"""Proof of numbers: what a runtime computes wherever the program rounds, beside fake quantization in PyTorch.

Each part of the program, from the roundings before it to its own, is run in the runtime by itself, on the integers that
PyTorch has there. So what is told of a layer is that layer's own doing: in the whole program a last bit that falls the
other way is handed on, and after fifty layers much of the difference is everybody's. Both are measured, the whole run
as a signal-to-noise ratio; it is the part by itself that passes or fails.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from torch import Tensor
from torch.utils import _pytree as pytree

from torchpare.attach import quantizers_of
from torchpare.attach.reading import ACTIVATIONS
from torchpare.errors import ExportError
from torchpare.graph.capture import call_arguments
from torchpare.runtimes.copied import copied_in_float32
from torchpare.runtimes.inputs import computed, in_order
from torchpare.runtimes.program import QuantizedProgram, Site, build_program
from torchpare.runtimes.protocol import ModelSpeedupRuntime, Runner
from torchpare.runtimes.record import plain_attention

__all__ = ["LayerProof", "NumbersProof", "check_alike", "snr", "verify"]

SHARE = 0.999
"""Of a layer's integers, how many may be off by one step at most; kernels round a product that lies half-way between
two integers their own way."""

MIN_SNR = 40.0
"""Of outputs that are floats, in dB: float32 sums in another order are far above, another function is far below."""


LIKE = 20.0
"""In dB: rounding the other way here and there is far above, a bias in the wrong steps or a mistaken layout below."""

MARGIN = 10.0
"""How much lower, in dB, the ratio of an output may be when nobody looks at what is inside."""


@dataclass(frozen=True)
class LayerProof:
    """One place where the program rounds, or one of its outputs."""

    name: str
    elements: int

    within: float | None
    """The share of integers that are at most one step from PyTorch's; None of an output that is floats."""

    worst: int | None
    """The largest difference, in steps."""

    snr: float
    """Of the values, in dB; infinite where they are equal."""

    snr_in_whole: float
    """The same where the whole program ran in the runtime, everything before it included."""

    watched_snr: float | None = None
    """Of an output, what ``snr_in_whole`` is while every site is looked at. A runtime fuses other layers then, so that
    a fusion which goes wrong shows in the difference between the two."""

    @property
    def ok(self) -> bool:
        """Whether it is the same numbers."""
        if self.within is not None:
            return self.within >= SHARE
        fused_well = self.watched_snr is None or self.snr_in_whole >= min(self.watched_snr, MIN_SNR) - MARGIN
        return self.snr >= MIN_SNR and fused_well


@dataclass(frozen=True)
class NumbersProof:
    """What was found, layer by layer in the order of execution."""

    runtime: str
    layers: tuple[LayerProof, ...]

    model_snr: float
    """Of the whole program's first output in the runtime against the model's own in PyTorch, in dB."""

    own_snr: float | None = None
    """Of a program that rounds no activation against the model that rounds none, in PyTorch: whether the program is the
    model's. None where that tells nothing: of a plain model with a calibration file, and of an output of integers, of
    zeros, or that is not finite."""

    @property
    def first_offending(self) -> LayerProof | None:
        """The first layer that is not the same numbers."""
        return next((layer for layer in self.layers if not layer.ok), None)

    @property
    def is_the_model(self) -> bool:
        """Whether the program is the model's; true where that was not looked at."""
        return self.own_snr is None or self.own_snr >= MIN_SNR

    @property
    def ok(self) -> bool:
        """Whether all are, and the program is the model's."""
        return self.first_offending is None and self.is_the_model

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON knows them; an infinite ratio is null."""
        rows = [{key: _finite(value) for key, value in asdict(layer).items()} for layer in self.layers]
        first = self.first_offending
        return {"runtime": self.runtime, "ok": self.ok, "first_offending": first.name if first else None,
                "model_snr": _finite(self.model_snr), "own_snr": _finite(self.own_snr), "layers": rows}  # fmt: skip

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A row for each layer, and a sentence."""
        table = Table(title=f"{self.runtime} against fake quantization in PyTorch")
        table.add_column("layer")
        for head in ("elements", "within one step", "worst", "SNR dB", "SNR in the whole run"):
            table.add_column(head, justify="right")
        for layer in self.layers:
            within = "float" if layer.within is None else f"{layer.within:.4%}"
            worst = "" if layer.worst is None else str(layer.worst)
            row = (layer.name, str(layer.elements), within, worst, f"{layer.snr:.1f}", f"{layer.snr_in_whole:.1f}")
            table.add_row(*row, style=None if layer.ok else "bold red")
        yield table
        first = self.first_offending
        verdict = "all layers are the same numbers" if first is None else f"{first.name} is the first that differs"
        if not self.is_the_model:
            verdict = (
                f"the program is not the model's: {self.own_snr:.1f} dB without the roundings of activations; {verdict}"
            )
        yield f"{verdict}; the model's output against the runtime's: {self.model_snr:.1f} dB"


def verify(runtime: ModelSpeedupRuntime, test_data: Any) -> NumbersProof:
    """Run a program in a runtime and in PyTorch, and compare each place where it rounds, and its outputs.

    Of a file that was loaded in place of the program, ONNX Runtime and OpenVINO run the parts of that file; inductor
    and ExecuTorch cannot take theirs apart, run the parts of the program, and of the file only the outputs.

    Args:
        runtime: ``compress()`` was called.
        test_data: an input in the form of the runtime's ``dummy_input``.

    Raises:
        ExportError: there is no program, or the runtime cannot run it or a part of it.
    """
    program = runtime.made()
    got = [leaf.float() for leaf in runtime.runner(test_data)()]  # type: ignore[attr-defined] - refuses other sizes
    expected, seen = program.values(test_data)
    alone, together = runtime.run_parts(test_data, seen)
    rounded = len(program.sites)
    layers = [_of_site(*each, seen[each[0].name]) for each in zip(program.sites, alone, together, strict=False)]
    outputs = zip(expected, alone[rounded:], got, together[rounded:], strict=True)
    layers += [_of_output(f"output {at}", *each) for at, each in enumerate(outputs)]
    model = runtime.model_output(test_data)
    return NumbersProof(runtime.runtime, tuple(layers), snr(model, got[0]), _own_snr(runtime, test_data))


def check_alike(run: Runner, program: QuantizedProgram) -> None:
    """That a runtime computes what the program does, on its example, and no other function.

    Raises:
        ExportError: it does not.
    """
    given = [leaf.contiguous() for leaf in in_order(program.example, program.example) if isinstance(leaf, Tensor)]
    wanted, _ = program.values(program.example)
    for at, (want, have) in enumerate(zip(wanted, run(given), strict=True)):
        ratio = snr(want, have)
        if bool(want.any()) and ratio < LIKE:
            raise ExportError(f"its output {at} is another function's: {ratio:.0f} dB from the program's own")


def snr(want: Tensor, have: Tensor) -> float:
    """How much stronger a signal is than what differs from it, in dB; infinite where nothing does."""
    want, have = want.double(), have.double()
    noise = float(((want - have) ** 2).sum())
    signal = float((want**2).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else -math.inf


def _own_snr(runtime: ModelSpeedupRuntime, test_data: Any) -> float | None:
    """How far a program that rounds no activation is from the model that rounds none; None if that tells nothing.

    With activations rounded it would tell little: a last bit that falls the other way is handed on.
    """
    quantizers = list(quantizers_of(model := copied_in_float32(runtime.model)))
    if runtime.config is not None and not quantizers:
        return None
    for _, layer, kind, _ in quantizers:
        if kind in ACTIVATIONS:
            del layer._modules[ACTIVATIONS[kind]]  # noqa: SLF001 - of a copy, whose hooks go without
    program = build_program(model, runtime.example)  # before the model runs, which may count how often it did
    args, kwargs = call_arguments(computed(test_data))
    with torch.no_grad(), plain_attention():
        made = model(*args, **kwargs)
    want = next(leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor))
    if not (want.is_floating_point() and bool(want.any() and want.isfinite().all())):
        return None
    outputs, _ = program.values(test_data)
    return snr(want, outputs[0])


def _of_site(site: Site, alone: Tensor, together: Tensor, want: Tensor) -> LayerProof:
    zero, step = site.step.zero_point, (want.int() - alone.int()).abs()
    within = float((step <= 1).double().mean()) if step.numel() else 1.0
    worst = int(step.max()) if step.numel() else 0
    ratios = (snr(want.int() - zero, made.int() - zero) for made in (alone, together))
    return LayerProof(site.name, want.numel(), within, worst, *ratios)


def _of_output(name: str, want: Tensor, alone: Tensor, whole: Tensor, watched: Tensor) -> LayerProof:
    return LayerProof(name, want.numel(), None, None, snr(want, alone), snr(want, whole), snr(want, watched))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
