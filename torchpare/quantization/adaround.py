"""Weights rounded up or down as the layer's output asks, not to whichever is nearer.

Nagel, Amjad, van Baalen, Louizos, Blankevoort, "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML
2020: for each layer, rounding is learnt from a few unlabelled batches so that what the layer returns in the quantized
model is like what it returns in the float model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from torchpare.attach import CompressedLayer, FakeQuantize
from torchpare.attach.reading import QUANTIZER, before_quantizer, fold_factor
from torchpare.config.layers import FILTERED
from torchpare.errors import QuantizationError
from torchpare.numerics.affine import dequantize
from torchpare.numerics.rounding import annealed, lower_codes, rounding_penalty, rounding_start, share_up
from torchpare.quantization.held import Batches, Memory, Samples
from torchpare.quantization.twin import compressed, float_twin, quantized_layers, run, watched

__all__ = ["Rounded", "round_adaptively"]


@dataclass(frozen=True)
class Rounded:
    """What learning the rounding of a layer came to.

    Attributes:
        nearest_error: mean squared difference of the layer's output from the float model's, weights rounded to nearest.
        learnt_error: the same as learnt.
        moved: the share of its weights that do not go to the nearer neighbour.
    """

    nearest_error: float
    learnt_error: float
    moved: float


def round_adaptively(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    iterations: int = 1000,
    batch_size: int = 32,
    rate: float = 1e-2,
    strength: float = 0.01,
    generator: torch.Generator | None = None,
    memory_cap: int | None = None,
) -> dict[str, Rounded]:
    """Learn the rounding of every quantized convolution and linear layer, and write it into the weights.

    Layers are gone through in the order in which they are called, each with the inputs that the quantized model gives
    it by then. Afterwards the parameters lie on their grids, so that rounding to nearest gives what was learnt. Where
    nearest was no worse on the batches, a layer is left as it is.

    Args:
        model: quantized and calibrated; its weights are changed in place.
        batches: inputs like those the model will meet: each a tensor, a tuple of positional arguments, or a dict of
            keyword arguments. No labels are needed; the paper uses 1024 pictures.
        iterations: steps of Adam for each layer; the paper takes 10000.
        batch_size: samples in each.
        rate: the learning rate.
        strength: what an undecided weight costs beside the squared error.
        generator: chooses the samples.
        memory_cap: how many bytes of batches, and of one layer's inputs and wanted outputs, to keep in memory; the
            others wait in a temporary file, in the folder that ``TMPDIR`` says, and what is learnt is the same. No
            limit if None. Beside them are the two models, and what one batch makes on its way through them.

    Returns:
        By layer name what came of it, in the order of the calls.

    Raises:
        QuantizationError: nothing is quantized, there are no batches, weights lie on no even grid (DoReFa, BNN), or a
            layer's outputs are not finite. In the last case the layers before the one that is named are rounded.
        ConfigError: ``memory_cap`` is no number of bytes.
    """
    with Memory(memory_cap) as memory:
        order, held = quantized_layers(model, batches, memory)
        _check_grids(model, order)
        return _rounded(
            model, order, held, memory, lambda task: task.learn(iterations, batch_size, rate, strength, generator)
        )


def _check_grids(model: nn.Module, order: list[str]) -> None:
    for name in order:
        if isinstance(compressed(model, name), FILTERED) and not _quantizer(compressed(model, name)).on_grid:
            raise QuantizationError(f"{name}.weight is quantized by a formula, not on a grid of its own: there is no "
                                    "up and down to choose between")  # fmt: skip


def _rounded(
    model: nn.Module, order: list[str], held: Batches, memory: Memory, learn: Callable[[_Task], Rounded]
) -> dict[str, Rounded]:
    twin = float_twin(model)
    done: dict[str, Rounded] = {}
    for name in order:
        layer = compressed(model, name)
        if not isinstance(layer, FILTERED) or not _quantizer(layer).active:
            continue
        sets = _sets(model, twin, name, held, memory)
        if sets:
            with torch.enable_grad():
                done[name] = learn(_Task(layer, twin.get_submodule(name), sets))
        for inputs, outputs in reversed(sets):
            outputs.release()
            inputs.release()
    return done


def _sets(model: nn.Module, twin: nn.Module, name: str, held: Batches, memory: Memory) -> list[tuple[Samples, Samples]]:
    """A layer's inputs and the outputs wanted for them, one pair for all samples of a size; no batch becomes one.

    Raises:
        QuantizationError: values are not finite.
    """
    layer = compressed(model, name)
    single = 1 if isinstance(layer, nn.Linear) else before_quantizer(layer, "weight").dim() - 1
    sets: dict[Any, tuple[Samples, Samples]] = {}
    given: list[Tensor] = []
    wanted: list[Tensor] = []

    # Of one batch at a time; copies, for what follows a layer may write to what it returned.
    with (
        watched(model, name, lambda x, _: given.append(x.clone())),
        watched(twin, name, lambda _, y: wanted.append(y.clone())),
    ):
        for batch in held:
            run(model, batch)
            run(twin, batch)
            for x, y in zip(given, wanted, strict=True):
                if not bool(x.isfinite().all() & y.isfinite().all()):
                    raise QuantizationError(
                        f"{name} is given or returns NaN or infinite values, from which nothing is learnt"
                    )
                pair = (x[None], y[None]) if x.dim() == single else (x, y)
                if len(pair[0]):
                    own = sets.setdefault(pair[0].shape[1:], (Samples(memory), Samples(memory)))
                    for samples, rows in zip(own, pair, strict=True):
                        samples.add(rows)
            given.clear()
            wanted.clear()
    return list(sets.values())


class _Task:
    """The rounding of one layer."""

    def __init__(self, layer: CompressedLayer, plain: nn.Module, sets: list[tuple[Samples, Samples]]) -> None:
        self.layer, self.plain, self.sets = layer, plain, sets
        quantizer = _quantizer(layer)
        weight = before_quantizer(layer, "weight").detach()
        self.shape, self.grid = weight.shape, quantizer.spec.grid
        self.scale, self.zero_point = quantizer.qparams(weight)
        granules = quantizer.granules(weight)
        self.below, fraction, self.open = lower_codes(granules, self.scale, self.zero_point, self.grid)
        self.v = rounding_start(fraction.clamp(0, 1)).requires_grad_()
        fold: Any = layer.torchpare_fold
        self.factor = fold_factor(layer, fold[0]) if fold else torch.ones((), device=weight.device)

    def weight(self, share: Tensor) -> Tensor:
        """The layer's weight, each value between its neighbours or on one of them."""
        values = dequantize(self.below + share * self.open, self.scale, self.zero_point)
        return values.reshape(self.shape) / self.factor

    def output(self, weight: Tensor, given: Tensor) -> Tensor:
        own = {"weight": weight.to(given.dtype)}
        bias = self.layer._parameters.get("bias")  # noqa: SLF001 - a corrected bias is the quantized layer's
        if bias is not None:
            own["bias"] = bias.detach()
        return functional_call(self.plain, own, (given,))

    def samples(self, count: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Some samples of one size, each size as often as it has samples."""
        at = 0
        if len(self.sets) > 1:
            sizes = torch.tensor([float(len(x)) for x, _ in self.sets])
            at = int(torch.multinomial(sizes, 1, generator=generator))
        given, wanted = self.sets[at]
        some = torch.randint(len(given), (min(count, len(given)),), generator=generator)
        return given[some], wanted[some]

    def learn(
        self, iterations: int, batch_size: int, rate: float, strength: float, generator: torch.Generator | None
    ) -> Rounded:
        nearest = self.layer.weight
        assert isinstance(nearest, Tensor)
        nearest = nearest.detach().clone()
        optimizer = torch.optim.Adam([self.v], rate)
        for at in range(iterations):
            given, wanted = self.samples(batch_size, generator)
            share = share_up(self.v)
            difference = self.output(self.weight(share), given) - wanted
            # As in the paper the error is summed over channels and averaged over samples and places.
            axis = -1 if isinstance(self.plain, nn.Linear) else 1
            loss = difference.square().sum(axis).mean()
            done = at / iterations
            if done >= 0.2:
                loss = loss + strength * rounding_penalty(share[self.open], annealed(done))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return self._settle(nearest)

    @torch.no_grad()
    def _settle(self, nearest: Tensor) -> Rounded:
        """Decide for every weight, and keep the better of what was learnt and rounding to nearest."""
        learnt = self.weight((share_up(self.v) >= 0.5).to(self.below.dtype)).to(nearest.dtype)
        errors = [self._error(weight) for weight in (nearest, learnt)]
        moved = float(((learnt - nearest).abs() > 0.5 * _step(self)).double().mean())
        if errors[1] >= errors[0]:
            return Rounded(errors[0], errors[0], 0.0)
        parameter = self.layer._parameters["weight"]  # noqa: SLF001 - what is written to is the parameter itself
        assert parameter is not None
        mask = self.layer._buffers.get("weight_mask")  # noqa: SLF001
        parameter.copy_(learnt if mask is None else torch.where(mask, learnt, parameter))
        _quantizer(self.layer).fix(self.scale, self.zero_point)
        return Rounded(errors[0], errors[1], moved)

    def _error(self, weight: Tensor) -> float:
        total, count = 0.0, 0
        for inputs, outputs in self.sets:
            for x, y in zip(inputs.parts(256), outputs.parts(256), strict=True):
                total += float((self.output(weight, x) - y).double().square().sum())
                count += y.numel()
        return total / max(count, 1)


def _step(task: _Task) -> Tensor:
    """The step of the grid at each weight."""
    return task.scale.expand(task.below.shape).reshape(task.shape) / task.factor.abs()


def _quantizer(layer: CompressedLayer) -> FakeQuantize:
    quantizer = layer._modules["weight" + QUANTIZER]  # noqa: SLF001 - a child under a made-up name
    assert isinstance(quantizer, FakeQuantize)
    return quantizer
