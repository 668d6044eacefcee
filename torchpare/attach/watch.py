"""Running statistics of gradients: sums, never the tensors themselves.

A watch hangs on the layers by torch's own hooks and on the optimizer by its own, and is taken off by `remove`. What it
adds up depends on nothing but the batches it saw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchpare.attach.layer import CompressedLayer
from torchpare.attach.ranks import averages_over_ranks, many_ranks
from torchpare.attach.reading import in_use
from torchpare.attach.steps import before_step, remove_all
from torchpare.numerics.shards import in_pieces, whole

__all__ = ["GradientWatch", "MaskGradientWatch", "Watch", "dense_weight"]


class Watch(Protocol):
    """What pruners that look at data ask of one."""

    @property
    def sums(self) -> Mapping[str, Any]:
        """By layer, what was added up."""
        ...

    @property
    def batches(self) -> int:
        """How many minibatches it has seen."""
        ...

    def over_ranks(self, name: str) -> Any:
        """What was added up of a layer in all processes that train together; None where nothing was."""

    def step(self) -> None:
        """A minibatch has been learnt."""

    def remove(self) -> None:
        """Stop watching; what was seen stays."""

    def state_dict(self) -> dict[str, Any]:
        """What was seen, for a checkpoint: tensors and numbers."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have seen what a checkpoint says, and nothing else."""


class GradientWatch:
    """Adds up what ``measure`` says of each layer's weight and its gradient, one optimizer step after the other.

    With an optimizer, each step is seen just before it is taken, with the weights that the gradients belong to, after
    mixed precision has unscaled them. Without one, gradients are seen when they have been computed, and count with the
    next call of `step`; where processes train together, that is when the mean of their gradients is taken, so that all
    of them have to call it.

    Args:
        layers: by name.
        measure: of the weight as the model uses it and the gradient, the scores to add up.
        optimizer: whose steps to count.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        measure: Callable[[str, Tensor, Tensor], Tensor],
        optimizer: Optimizer | None,
    ) -> None:
        self.layers, self.measure = dict(layers), measure
        self.sums: dict[str, Tensor] = {}
        self.batches = 0
        self._latest: dict[str, Tensor] = {}
        self._apart: dict[str, Tensor] = {}
        self._handles: list[Any] = []
        self._own_steps = optimizer is None
        # Where gradients are averaged after the step, the weights that they belong to are those from before it.
        self._weights = self._weights_now() if optimizer is None and many_ranks() else {}
        if optimizer is not None:
            self._handles.append(before_step(optimizer, self._before_step))
        else:
            for name, layer in self.layers.items():
                self._handles.append(
                    dense_weight(layer).register_post_accumulate_grad_hook(partial(self._computed, name))
                )

    def step(self) -> None:
        """A minibatch has been learnt; nothing to do where an optimizer tells its own steps."""
        if not self._own_steps:
            return
        if many_ranks():
            self._latest, self._apart = self._together(), {}
            self._weights = self._weights_now()
        if self._latest:
            self._add(self._latest)
            self._latest = {}

    def over_ranks(self, name: str) -> Tensor | None:
        """What was added up of a layer: gradients that were averaged are the same everywhere."""
        return self.sums.get(name)

    def remove(self) -> None:
        """Stop watching; what was seen stays."""
        remove_all(self._handles)

    def state_dict(self) -> dict[str, Any]:
        """What was seen, for a checkpoint: tensors and numbers."""
        return {"sums": {name: own.clone() for name, own in self.sums.items()}, "batches": self.batches}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have seen what a checkpoint says, and nothing else."""
        self.sums, self.batches = dict(state["sums"]), int(state["batches"])
        self._latest, self._apart = {}, {}

    def _before_step(self) -> None:
        seen = {
            name: self._measured(name) for name, layer in self.layers.items() if dense_weight(layer).grad is not None
        }
        if seen:
            self._add(seen)

    def _computed(self, name: str, parameter: Tensor) -> None:
        if not many_ranks():
            self._latest[name] = self._measured(name)
            return
        # DDP has not averaged the gradient yet, and nobody may wait for others in the middle of a backward pass.
        assert parameter.grad is not None
        self._apart[name] = parameter.grad.detach().clone()
        if not in_pieces(parameter):
            self._weights[name] = in_use(self.layers[name], "weight").detach().clone()

    @torch.no_grad()
    def _together(self) -> dict[str, Tensor]:
        """What there is to say of the weights before this step and the means of their gradients, by layer."""
        seen = dict(self._apart)
        for name, layer in self.layers.items():
            # What fully_shard has put in a parameter's place had no hook yet; its gradient is still there.
            grad = dense_weight(layer).grad
            if name not in seen and grad is not None and in_pieces(grad):
                seen[name] = grad.detach()
        grads = averages_over_ranks({name: whole(grad) for name, grad in seen.items()}, self._weights)
        return {name: self.measure(name, self._weights[name], grad) for name, grad in grads.items()}

    @torch.no_grad()
    def _weights_now(self) -> dict[str, Tensor]:
        return {name: in_use(layer, "weight").detach().clone() for name, layer in self.layers.items()}

    @torch.no_grad()
    def _measured(self, name: str) -> Tensor:
        layer = self.layers[name]
        grad = dense_weight(layer).grad
        assert grad is not None
        return self.measure(name, in_use(layer, "weight").detach(), whole(grad.detach()))

    def _add(self, seen: Mapping[str, Tensor]) -> None:
        for name, scores in seen.items():
            # A model that was moved since has its sums elsewhere.
            self.sums[name] = self.sums[name].to(scores.device) + scores if name in self.sums else scores
        self.batches += 1


class MaskGradientWatch:
    """Adds up what ``measure`` says of each masked layer's dense weight and the gradient of its masked weight.

    The gradient is the whole one, also of weights that are masked away, whose own gradient is zero.

    Args:
        layers: by name; masked ones.
        measure: of the dense weight and the gradient, what to add up.
    """

    def __init__(self, layers: Mapping[str, nn.Module], measure: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.layers, self.measure = dict(layers), measure
        self.sums: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            assert isinstance(layer, CompressedLayer)
            layer.torchpare_gradient_watch = partial(self._see, name)

    def take(self) -> dict[str, Tensor]:
        """What was added up since the last call, by layer; layers that no gradient reached are missing."""
        sums, self.sums = self.sums, {}
        return sums

    def remove(self) -> None:
        """Stop watching."""
        for layer in self.layers.values():
            layer.__dict__.pop("torchpare_gradient_watch", None)

    @torch.no_grad()
    def _see(self, name: str, grad: Tensor) -> None:
        # A step that mixed precision leaves out for its infinite gradients must not leave them here for good.
        grad = grad.detach().nan_to_num(0.0, 0.0, 0.0)
        seen = self.measure(dense_weight(self.layers[name]).detach(), grad)
        self.sums[name] = self.sums[name] + seen if name in self.sums else seen


def dense_weight(layer: nn.Module) -> nn.Parameter:
    """The parameter of a layer that has the gradient, masked or not."""
    weight = layer._parameters["weight"]  # noqa: SLF001 - reading .weight would multiply by a mask
    assert weight is not None
    return weight
