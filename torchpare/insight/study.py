"""One call that looks at a model from all sides, and the value that it returns: tables, a file, and one page."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from rich.console import Console, ConsoleOptions, RenderResult
from torch import nn

from torchpare.config.layers import type_name
from torchpare.errors import ConfigError, TorchpareError
from torchpare.files.atomic import atomic_write
from torchpare.insight.activations import Activations, activations
from torchpare.insight.batches import Batches
from torchpare.insight.costs import Costs, layer_costs
from torchpare.insight.coupling import Coupling, coupling
from torchpare.insight.frontiers import Frontier
from torchpare.insight.rest import at_rest, device_of, run_once
from torchpare.insight.rounding import Rounding, rounding
from torchpare.insight.sensitivities import Sensitivity, sensitivity
from torchpare.report import (
    FactsBlock,
    Headline,
    Measurement,
    Page,
    Section,
    describe_machine,
    numbers,
    render_page,
    write_page,
)
from torchpare.report.frontier_figure import FrontierPoint

__all__ = ["Insight", "study"]

log = logging.getLogger(__name__)

T = TypeVar("T")

QUARTERS = (0.25, 0.5, 0.75)
"""The sparsities of which sensitivity is looked for: each costs an evaluation for each layer."""


@dataclass(frozen=True)
class Insight:
    """What was found out about a model. What could not be worked out is None, and `skipped` says why."""

    name: str
    kind: str
    """The name of the model's class."""
    costs: Costs | None
    activations: Activations | None
    rounding: Rounding | None
    coupling: Coupling | None
    sensitivity: Sensitivity | None
    frontier: Frontier | None
    skipped: dict[str, str] = field(default_factory=dict)
    """By the name of what is missing, the reason."""
    environment: dict[str, str] = field(default_factory=dict)
    version: int = 1
    """Of the layout of `to_dict`."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON knows it."""
        parts = {name: None if part is None else part.to_dict() for name, part in self._parts().items()}
        said = {"version": self.version, "name": self.name, "kind": self.kind}
        return {**said, **parts, "skipped": self.skipped, "environment": self.environment}

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write it for programs to read.

        Raises:
            FileError: the file cannot be written.
        """
        with atomic_write(path) as lent:
            lent.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def write_html(self, path: str | os.PathLike[str]) -> None:
        """Write the page: one file, with everything in it.

        Raises:
            MissingExtraError: jinja2 is not installed.
            FileError: the file cannot be written.
        """
        write_page(self.page(), path)

    def page(self) -> Page:
        """The page as a value; its sections can stand in another one."""
        return Page(
            self.name, self._summary(), None, self.sections(), self._headlines(), self.environment, "torchpare insight"
        )

    def sections(self) -> tuple[Section, ...]:
        """A section for each thing that was found out, for any page."""
        found = []
        if self.costs:
            found.append(Section("Costs by layer", "", self.costs.blocks()))
        if self.frontier:
            found.append(Section("Accuracy and latency", "", self.frontier.blocks()))
        if self.sensitivity:
            found.append(Section("Sensitivity", "What the model is still worth when one layer alone is pruned: layers "
                                 "that bear much can lose much.", self.sensitivity.blocks()))  # fmt: skip
        if self.activations:
            found.append(Section("Channels that say nothing", "They can go without a loss on data like these.",
                                 self.activations.channel_blocks()))  # fmt: skip
            found.append(Section("Activation ranges", "What layers return. A grid of integers has to cover the whole range "
                                 "or clip it: outliers make every step wider.", self.activations.range_blocks()))  # fmt: skip
        if self.rounding:
            found.append(Section("Quantization error", "Each weight and each input rounded by itself.",
                                 self.rounding.blocks()))  # fmt: skip
        if self.coupling:
            found.append(Section("Layers that share channels", "Through residuals, gates and groups: what one of a set "
                                 "loses, all of it lose.", self.coupling.blocks()))  # fmt: skip
        if self.skipped:
            found.append(Section("What is missing, and why", "", (FactsBlock(self.skipped),)))
        return tuple(found)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Every analysis as a table, and what is missing."""
        yield f"{self.name}: {self._summary()}"
        for part in self._parts().values():
            if part is not None:
                yield ""
                yield part
        for name, reason in self.skipped.items():
            yield f"\nno {name}: {reason}"

    def _repr_html_(self) -> str:
        """The page, as notebooks show it, in a frame of its own so that its style stays there."""
        from html import escape

        return f'<iframe srcdoc="{escape(render_page(self.page()))}" style="width:100%;height:640px;border:0"></iframe>'

    def _parts(self) -> dict[str, Any]:
        return {"costs": self.costs, "activations": self.activations, "rounding": self.rounding,
                "coupling": self.coupling, "sensitivity": self.sensitivity, "frontier": self.frontier}  # fmt: skip

    def _summary(self) -> str:
        if self.costs is None:
            return f"A {self.kind}."
        return f"A {self.kind} of {len(self.costs.layers)} layers, run in evaluation mode on a batch of {self.costs.batch}."

    def _headlines(self) -> tuple[Headline, ...]:
        found = []
        if self.costs:
            slowest = self.costs.slowest[0]
            found += [
                Headline("Parameters", *_split(numbers.count(self.costs.params))),
                Headline("Multiply-accumulates", *_split(numbers.count(self.costs.macs)), "for one sample"),
                Headline("Latency", *_split(numbers.duration(self.costs.whole.median)),
                         f"{numbers.duration(self.costs.whole.lower_quartile)} to "
                         f"{numbers.duration(self.costs.whole.upper_quartile)}"),
                Headline("Slowest layer", f"{100 * self.costs.share(slowest):.0f}", "% of the time", slowest.name),
            ]  # fmt: skip
        if self.activations and self.activations.channels:
            idle = sum(each.idle for each in self.activations.channels)
            total = sum(each.channels for each in self.activations.channels)
            found.append(Headline("Channels that say nothing", f"{idle:,}", "", f"of {total:,}"))
        if self.rounding and self.rounding.layers:
            bits = min(self.rounding.bits)
            worst = self.rounding.worst(bits)[0]
            found.append(Headline(f"Worst layer at {bits} bits", f"{worst.worst(bits):.0f}", "dB", worst.name))
        return tuple(found)


def study(
    model: nn.Module,
    example_inputs: Any,
    data: Iterable[Any] | None = None,
    evaluate: Callable[[nn.Module], Any] | None = None,
    *,
    bits: Sequence[int] = (8, 4),
    sparsities: Sequence[float] = QUARTERS,
    more_is_better: bool = True,
    points: Iterable[FrontierPoint | tuple[str, float | Measurement, float]] = (),
    max_batches: int | None = None,
    runs: int = 20,
    warmup: int = 3,
    name: str | None = None,
) -> Insight:
    """Look at a model from all sides.

    Costs and couplings need an example input; activation ranges and quantization errors get better with data;
    sensitivities need ``evaluate``, which is called once for each layer and sparsity.

    Args:
        model: any module that runs on the example; afterwards it is as it was before, to the last bit.
        example_inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
        data: batches that can be gone through more than once, such as a list or a ``DataLoader``. Of a batch, what the
            example has is taken: labels behind the inputs are left out.
        evaluate: what a model is worth, such as its accuracy; no sensitivities without it.
        bits: of which quantization errors are measured.
        sparsities: of which sensitivities are.
        more_is_better: whether a larger value of ``evaluate`` is a better one.
        points: ``(name, seconds, accuracy)`` of models, for the frontier of accuracy and latency.
        max_batches: how many batches to look at; all if not given.
        runs: how many passes are timed, with and without hooks.
        warmup: how many go by first.
        name: the title; the name of the model's class if not given.

    Returns:
        what could be worked out; ``skipped`` says what could not, and why.

    Raises:
        ConfigError: an argument cannot be used.
        CaptureError: the model does not run on the example.
    """
    points = tuple(points)
    if evaluate is not None and not callable(evaluate):
        raise ConfigError(
            f"evaluate is a {type(evaluate).__name__}; it is a function of the model that returns a number"
        )
    batches = Batches(example_inputs, data, max_batches)
    ((args, kwargs),) = Batches(example_inputs).on(device_of(model))
    with at_rest(model):
        run_once(model, args, kwargs, "example_inputs")
    example = kwargs or args
    skipped: dict[str, str] = {}

    def tried(what: str, found: Callable[[], T]) -> T | None:
        log.info("looking for %s", what)
        try:
            return found()
        except ConfigError:
            raise
        except (TorchpareError, RuntimeError) as error:
            skipped[what] = str(error)
            return None

    costs = tried("costs", lambda: layer_costs(model, example, runs=runs, warmup=warmup))
    seen = tried("activations", lambda: activations(model, example, batches.data, max_batches=max_batches))
    errors = tried("rounding", lambda: rounding(model, example, batches.data, bits=bits, max_batches=max_batches))
    coupled = tried("coupling", lambda: coupling(model, example))
    sensitive = None
    if evaluate is None:
        skipped["sensitivity"] = "no evaluate was given: a function that says what a model is worth"
    else:
        sensitive = tried(
            "sensitivity", lambda: sensitivity(model, evaluate, sparsities, more_is_better=more_is_better)
        )
    front = Frontier.of(points) if points else None
    environment = {
        "Machine": describe_machine(), "PyTorch": torch.__version__, "Threads": str(torch.get_num_threads()),
        "Device": str(device_of(model)),
    }  # fmt: skip
    kind = type_name(model)
    return Insight(name or kind, kind, costs, seen, errors, coupled, sensitive, front, skipped, environment)


def _split(words: str) -> tuple[str, str]:
    """A figure and its unit."""
    figure, _, unit = words.partition(" ")
    return figure, unit
