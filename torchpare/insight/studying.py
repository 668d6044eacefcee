"""One call that looks at a model from all sides."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from torchpare.config.layers import type_name
from torchpare.errors import ConfigError, TorchpareError
from torchpare.insight.activation_ranges import activations
from torchpare.insight.batches import Batches
from torchpare.insight.costs import check_runs, layer_costs
from torchpare.insight.couplings import coupling
from torchpare.insight.frontiers import Frontier
from torchpare.insight.outcome import Insight
from torchpare.insight.rest import at_rest, device_of, run_once, stand_in
from torchpare.insight.rounding_errors import check_bits, rounding
from torchpare.insight.sensitivities import sensitivity
from torchpare.report import Measurement, describe_machine
from torchpare.report.frontier_figure import FrontierPoint
from torchpare.search import SensitivityAnalysis

__all__ = ["study"]

log = logging.getLogger(__name__)

T = TypeVar("T")

QUARTERS = (0.25, 0.5, 0.75)
"""The sparsities of which sensitivity is looked for: each costs an evaluation for each layer."""


def study(  # noqa: PLR0913 - all but the model and its input have a default
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
            example has is taken: labels after the inputs are left out.
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
    if evaluate is not None and not callable(evaluate):
        raise ConfigError(
            f"evaluate is a {type(evaluate).__name__}; it is a function of the model that returns a number"
        )
    check_bits(bits)
    check_runs(runs, warmup)
    if evaluate is not None:
        SensitivityAnalysis(model, evaluate, sparsities)
    points = tuple(points)
    front = Frontier.of(points) if points else None
    batches = Batches(example_inputs, data, max_batches)
    ((args, kwargs),) = Batches(example_inputs).on(device_of(model))
    subject = stand_in(model)
    with at_rest(subject):
        run_once(subject, args, kwargs, "example_inputs")
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

    costs = tried("costs", lambda: layer_costs(subject, example, runs=runs, warmup=warmup))
    seen = tried("activations", lambda: activations(subject, example, batches.data, max_batches=max_batches))
    errors = tried("rounding", lambda: rounding(subject, example, batches.data, bits=bits, max_batches=max_batches))
    coupled = tried("coupling", lambda: coupling(model, example))
    sensitive = None
    if evaluate is None:
        skipped["sensitivity"] = "no evaluate was given: a function that says what a model is worth"
    else:
        sensitive = tried(
            "sensitivity", lambda: sensitivity(model, evaluate, sparsities, more_is_better=more_is_better)
        )
    environment = {
        "Machine": describe_machine(), "PyTorch": torch.__version__, "Threads": str(torch.get_num_threads()),
        "Device": str(device_of(model)),
    }  # fmt: skip
    kind = type_name(model)
    return Insight(name or kind, kind, costs, seen, errors, coupled, sensitive, front, skipped, environment)
