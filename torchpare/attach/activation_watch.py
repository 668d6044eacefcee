"""Running statistics of what layers take in and pass on: sums, never the tensors themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.attach.ranks import terms_over_ranks
from torchpare.attach.watch import dense_weight, remove_all

__all__ = ["ActivationGradientWatch", "ActivationWatch", "Inputs", "channel_axis"]


def channel_axis(layer: nn.Module) -> int:
    """Where the channels lie in what a layer returns, counted from the back: ``(..., C, H, W)``, or ``(..., C)``."""
    weight = layer._parameters["weight"]  # noqa: SLF001 - its rank; reading .weight would multiply by a mask
    assert weight is not None
    return -1 if weight.dim() < 3 else 1 - weight.dim()


class ActivationWatch:
    """Adds up what ``measure`` says of each layer's outputs, one forward pass after the other.

    Args:
        layers: by name.
        measure: of an output and its channel axis, the terms to add up.
        evaluation: whether passes in evaluation mode and without gradients count too.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        measure: Callable[[Tensor, int], tuple[Any, ...]],
        *,
        evaluation: bool = True,
    ) -> None:
        self.measure, self.evaluation = measure, evaluation
        self.sums: dict[str, tuple[Any, ...]] = {}
        self.passes = dict.fromkeys(layers, 0)
        self._devices = {name: dense_weight(layer).device for name, layer in layers.items()}
        self._handles = [layer.register_forward_hook(partial(self._see, name)) for name, layer in layers.items()]

    @property
    def batches(self) -> int:
        """How many forward passes every layer has seen."""
        return min(self.passes.values(), default=0)

    def over_ranks(self, name: str) -> tuple[Any, ...] | None:
        """What was added up of a layer in all processes that train together; None where nothing was."""
        return terms_over_ranks(self.sums.get(name), self._devices[name])

    def step(self) -> None:
        """A minibatch has been learnt: passes are counted when they are seen."""

    def remove(self) -> None:
        """Stop watching; what was seen stays."""
        remove_all(self._handles)

    def state_dict(self) -> dict[str, Any]:
        """What was seen, for a checkpoint: tensors and numbers."""
        sums = {name: [_copied(term) for term in terms] for name, terms in self.sums.items()}
        return {"sums": sums, "passes": dict(self.passes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have seen what a checkpoint says, and nothing else."""
        self.sums = {name: tuple(terms) for name, terms in state["sums"].items()}
        self.passes = dict(state["passes"])

    @torch.no_grad()
    def _see(self, name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        del inputs
        if not (self.evaluation or layer.training or torch.is_grad_enabled()):
            return
        self._add(name, self.measure(output.detach(), channel_axis(layer)))

    def _add(self, name: str, terms: tuple[Any, ...]) -> None:
        known = self.sums.get(name)
        self.sums[name] = terms if known is None else tuple(_plus(a, b) for a, b in zip(known, terms, strict=True))
        self.passes[name] += 1


class ActivationGradientWatch(ActivationWatch):
    """Adds up what ``measure`` says of each layer's outputs and the gradients that come back to them.

    Outputs are copied until their gradients are there: what follows a layer may change them in place.

    Args:
        layers: by name.
        measure: of an output, its gradient and its channel axis, the terms to add up.
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], measure: Callable[[Tensor, Tensor, int], tuple[Any, ...]]
    ) -> None:
        super().__init__(layers, lambda *_: ())
        self._measure_both = measure

    def _see(self, name: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        del inputs
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(partial(self._come_back, name, channel_axis(layer), output.detach().clone()))

    @torch.no_grad()
    def _come_back(self, name: str, axis: int, output: Tensor, grad: Tensor) -> None:
        self._add(name, self._measure_both(output, grad.detach(), axis))


class Inputs:
    """Adds up what ``measure`` says of each layer's first input, one call after the other.

    Args:
        layers: by name.
        measure: of an input, what to add up.
    """

    def __init__(self, layers: Mapping[str, nn.Module], measure: Callable[[Tensor], Tensor]) -> None:
        self.measure = measure
        self.sums: dict[str, Tensor] = {}
        self._handles = [layer.register_forward_pre_hook(partial(self._see, name)) for name, layer in layers.items()]

    def remove(self) -> None:
        """Stop watching; what was seen stays."""
        remove_all(self._handles)

    @torch.no_grad()
    def _see(self, name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        del layer
        seen = self.measure(inputs[0].detach())
        self.sums[name] = self.sums[name] + seen if name in self.sums else seen


def _copied(term: Any) -> Any:
    return term.clone() if isinstance(term, Tensor) else term


def _plus(known: Any, term: Any) -> Any:
    """The sum, where the new term lies: a model that was moved since has its sums elsewhere."""
    return known.to(term.device) + term if isinstance(known, Tensor) and isinstance(term, Tensor) else known + term
