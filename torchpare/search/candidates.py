"""What an assignment of bits makes of a model: quantized in PyTorch, to score it, and as a program, to time it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from torchpare.config import type_name
from torchpare.errors import ConfigError, QuantizationError, SearchError
from torchpare.graph.capture import call_arguments
from torchpare.quantization import ObserverQuantizer
from torchpare.runtimes import RUNTIMES
from torchpare.runtimes.copied import copied
from torchpare.search.latency import relative_latency

__all__ = ["FLOAT", "Candidates"]

FLOAT = 32
"""The number of bits of a layer that is not quantized."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Makes candidates of a model; see :class:`~torchpare.search.mixed_precision.MixedPrecisionSearch`.

    Raises:
        ConfigError: ``bits`` cannot be used, or no layer of the types is called.
        QuantizationError: there is no calibration batch, or the model does not run on one.
    """

    model: nn.Module
    dummy_input: Any
    calibration: list[Any]
    evaluator: Callable[[nn.Module], float] | None
    given_bits: tuple[int, ...]
    op_types: tuple[str, ...]
    runtime: str
    runs: int
    layers: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        known = all(
            isinstance(own, int) and not isinstance(own, bool) and (1 <= own <= 16 or own == FLOAT)
            for own in self.given_bits
        )
        if len(set(self.given_bits)) < 2 or not known:
            raise ConfigError(f"bits is {self.given_bits!r}; give two or more of 1 to 16, and {FLOAT} for float")
        if not self.calibration:
            raise QuantizationError("calibration holds no batch: give some that are like those the model will meet")
        layers = tuple(name for name, layer in self.model.named_modules() if type_name(layer) in self.op_types)
        if not layers:
            raise ConfigError(f"op_types is {self.op_types!r}, and the model has no layer of them")
        called = self._called(layers)
        if not called:
            raise ConfigError(f"op_types is {self.op_types!r}, and the model calls no layer of them")
        object.__setattr__(self, "layers", called)

    def _called(self, layers: tuple[str, ...]) -> tuple[str, ...]:
        """Those layers that some batch goes through: the others have nothing to calibrate, and cost no time."""
        made, seen = copied(self.model), set[str]()
        for name in layers:
            made.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: seen.add(name))
        for batch in self.calibration:
            args, kwargs = call_arguments(batch)
            try:
                with torch.no_grad():
                    made(*args, **kwargs)
            except Exception as error:
                raise QuantizationError(f"the model does not run on a calibration batch: {type(error).__name__}: "
                                        f"{str(error).partition(chr(10))[0][:300]}") from error  # fmt: skip
            if len(seen) == len(layers):
                break
        return tuple(name for name in layers if name in seen)

    @property
    def bits(self) -> tuple[int, ...]:
        """What a layer may have, from the least."""
        return tuple(sorted(set(self.given_bits)))

    @property
    def lower(self) -> tuple[int, ...]:
        """What it may have below the most."""
        return self.bits[:-1]

    def alone(self, layer: str, bits: int) -> dict[str, int]:
        """The assignment in which one layer has few bits, and all others the most."""
        return {**dict.fromkeys(self.layers, self.bits[-1]), layer: bits}

    def quantized(self, assigned: Mapping[str, int]) -> nn.Module:
        """A calibrated copy of the model, in evaluation mode."""
        made = copied(self.model)
        asked = [
            {"quant_types": ["weight", "input"], "quant_bits": bits, "op_names": names}
            for bits in self.bits
            if bits != FLOAT and (names := [name for name in self.layers if assigned[name] == bits])
        ]
        if asked:
            ObserverQuantizer(made, asked, dummy_input=self.dummy_input).calibrate(self.calibration)
        return made

    def score(self, assigned: Mapping[str, int]) -> float:
        """What a candidate is worth.

        Raises:
            SearchError: the evaluator says something that is no number.
        """
        made = self.quantized(assigned)
        if self.evaluator is None:
            return self._signal_to_noise(made)
        score = self.evaluator(made)
        if isinstance(score, Tensor) and score.numel() == 1:
            score = score.item()
        if not isinstance(score, int | float) or math.isnan(score):
            raise SearchError(f"the evaluator said {score!r} of a quantized model; it returns a number, and not NaN")
        return float(score)

    def latency(self, assigned: Mapping[str, int]) -> float:
        """How long a candidate's program takes, of the float model's in the same runtime."""
        if all(bits == FLOAT for bits in assigned.values()):
            return 1.0
        made = RUNTIMES[self.runtime](
            self.quantized(assigned), dummy_input=self.dummy_input, calib_data_loader=self.calibration
        )
        made.compress()
        return relative_latency(made.runner(self.dummy_input), self._float_run, self.runs)

    def check_runtime(self) -> None:
        """That the runtime executes the float model, before time is spent on any other.

        Raises:
            MissingExtraError: it is not installed.
            ExportError: it cannot.
        """
        self._float_run()

    @cached_property
    def _float_run(self) -> Callable[[], object]:
        dense = RUNTIMES[self.runtime](copied(self.model), dummy_input=self.dummy_input)
        dense.compress()
        self._kept.append(dense)
        return dense.runner(self.dummy_input)

    @cached_property
    def _kept(self) -> list[Any]:
        return []

    @cached_property
    def _wanted(self) -> list[Tensor]:
        """What the float model makes of the calibration batches."""
        return self._outputs(copied(self.model))

    def _outputs(self, model: nn.Module) -> list[Tensor]:
        found = []
        with torch.no_grad():
            for batch in self.calibration:
                args, kwargs = call_arguments(batch)
                leaves = pytree.tree_leaves(model(*args, **kwargs))
                found.append(next(leaf for leaf in leaves if isinstance(leaf, Tensor)).double())
        return found

    def _signal_to_noise(self, made: nn.Module) -> float:
        pairs = list(zip(self._wanted, self._outputs(made), strict=True))
        noise = sum(float((ours - theirs).square().sum()) for ours, theirs in pairs)
        signal = sum(float(ours.square().sum()) for ours, _ in pairs)
        return 10 * math.log10(signal / noise) if signal and noise else math.inf if not noise else -math.inf
