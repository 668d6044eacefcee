"""Grids for a program from a few batches, where no quantizer chose them: of weights, and of values that pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import fx

from torchpare.attach import FakeQuantize
from torchpare.config.quantization import Observer as ObserverName
from torchpare.errors import ConfigError, ExportError, QuantizationError, TorchpareError
from torchpare.numerics.affine import Grid, check_finite
from torchpare.quantization.post_training import Observer
from torchpare.quantization.qat import ACTIVATION, WEIGHT
from torchpare.runtimes.asked import batches_of, within
from torchpare.runtimes.explicit import FloatPlace
from torchpare.runtimes.folding import WEIGHTED, weight_axis
from torchpare.runtimes.inputs import computed, in_order, shapes_of
from torchpare.runtimes.integers import Step, Stored, step_of, store
from torchpare.runtimes.operators import constant, owner
from torchpare.runtimes.placing import Wish

__all__ = ["calibrated_steps", "weight_in_eight_bits"]


def weight_in_eight_bits(module: fx.GraphModule, stored: dict[str, Stored], exclude: Sequence[str]) -> list[FloatPlace]:
    """Put the constant weights of convolutions, linear layers and tables in eight bits, each channel or row by itself.

    Args:
        module: only read.
        stored: what is found is added, by the name under which the graph reads it.
        exclude: layers that stay as they are.

    Returns:
        what stays float, and why.

    Raises:
        QuantizationError: a weight holds NaN or infinities.
    """
    floats: list[FloatPlace] = []
    for node in module.graph.nodes:
        table = node.target is torch.ops.aten.embedding.default
        if node.target not in WEIGHTED and not table:
            continue
        source = node.args[0] if table else node.args[1]
        name, axis, weight = owner(node), 0 if table else weight_axis(node), constant(module, source)
        if within(name, exclude):
            floats.append(FloatPlace(name, "excluded"))
        elif axis is None or weight is None:
            floats.append(FloatPlace(f"{name}.weight", "no constant with its channels along one axis"))
        else:
            low, high = weight.aminmax()
            check_finite(low, high, f"{name}.weight")
            scale, _ = FakeQuantize(WEIGHT, f"{name}.weight", axis=axis, follows=True).qparams(weight)
            found = store((weight / scale).round().clamp(-127, 127) * scale, scale, axis)
            assert isinstance(found, Stored), found
            stored[str(source.target)] = found
    return floats


def calibrated_steps(
    module: fx.GraphModule,
    places: Sequence[Wish],
    example: Any,
    batches: Iterable[Any],
    observer: str,
    *,
    symmetric: bool = False,
) -> list[Step]:
    """Grids for values of a graph, each over the range that it has in some batches.

    Args:
        module: only read and run.
        places: the values that are watched.
        example: the input that the module was recorded on.
        batches: inputs in the form of the example.
        observer: how a range follows from what was seen.
        symmetric: whether zero is the middle of every grid, int8; if not, of those alone that have to be so, and
            others lie where the data do, uint8.

    Raises:
        ConfigError: there is no such observer, or the batches cannot be gone through.
        QuantizationError: there are no batches, one is not in the form of the example or does not run, or values
            are not finite.
    """
    if observer not in get_args(ObserverName):
        raise ConfigError(f"observer is {observer!r}; it is one of {', '.join(map(repr, get_args(ObserverName)))}")
    usual = replace(ACTIVATION, observer=observer)
    centred = replace(usual, grid=Grid(ACTIVATION.grid.bits, signed=True, symmetric=True))
    specs = [centred if symmetric or place.symmetric else usual for place in places]
    observers = [Observer(spec, place.name) for spec, place in zip(specs, places, strict=True)]
    watched: dict[fx.Node, list[Observer]] = {}
    for place, each in zip(places, observers, strict=True):
        watched.setdefault(place.value, []).append(each)

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            for each in watched.get(n, ()):
                each.observe(value)
            return value

    with torch.no_grad():
        for batch in batches_of(batches):
            _run(Watch(module), example, batch)
    steps = []
    for spec, each in zip(specs, observers, strict=True):
        each.freeze()
        step = step_of(*each.qparams(torch.empty(0)), spec.grid)
        assert isinstance(step, Step), step
        steps.append(step)
    return steps


def _run(watch: fx.Interpreter, example: Any, batch: Any) -> None:
    """Run a graph on one calibration batch.

    Raises:
        QuantizationError: it is not in the form of the example, or does not run.
    """
    try:
        leaves = in_order(example, computed(batch))
    except ExportError as error:
        raise QuantizationError(f"a calibration batch is not in the form of the example: {error}") from error
    given, known = shapes_of(leaves), shapes_of(in_order(example, example))
    told = (
        f"calibration holds a batch of shapes {given}, and the example's are {known}: give a list of such inputs, or a "
        "loader of them"
    )
    if [len(shape) for shape in given] != [len(shape) for shape in known]:
        raise QuantizationError(told)
    watch.extra_traceback = False
    try:
        watch.run(*leaves, enable_io_processing=False)
    except TorchpareError:
        raise
    except Exception as error:
        raise QuantizationError(f"{told}. It does not run: {str(error).partition(chr(10))[0][:300]}") from error
