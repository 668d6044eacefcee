"""How sharply a loss bends along each weight, estimated by random signs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.attach.ranks import many_ranks, ranks, terms_over_ranks
from torchpare.attach.watch import dense_weight
from torchpare.errors import MaskError
from torchpare.numerics.shards import is_whole_in_passes

__all__ = ["CurvatureWatch"]


class CurvatureWatch:
    """Adds up what ``measure`` says of each layer's weight and an estimate of the Hessian's diagonal, loss by loss.

    For random signs ``v`` the mean of ``v * (H v)`` is the diagonal of ``H``: Bekas, Kokiopoulou, Saad, "An Estimator
    for the Diagonal of a Matrix", Applied Numerical Mathematics 2007. Signs are drawn for all layers at once:
    the estimate is of the diagonal of the whole Hessian.

    Args:
        layers: by name.
        measure: of a layer's name, its weight and the curvature, what to add up.
        probes: how many random sign vectors for each loss.
        generator: of the signs, on the CPU.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        measure: Callable[[str, Tensor, Tensor], Tensor],
        probes: int,
        generator: torch.Generator,
    ) -> None:
        self.layers, self.measure, self.probes = dict(layers), measure, probes
        self.sums: dict[str, Tensor] = {}
        self.batches = 0
        self._generator = generator

    def over_ranks(self, name: str) -> Tensor | None:
        """The mean over all processes that train together: the Hessian of their mean loss is the mean of theirs."""
        weight = dense_weight(self.layers[name])
        terms = terms_over_ranks(None if name not in self.sums else (self.sums[name], 1), weight.device)
        if not many_ranks() or terms is None:
            return self.sums.get(name)
        total, _ = terms
        return torch.as_tensor(total) / ranks()

    def step(self) -> None:
        """A minibatch has been learnt: losses are counted when they are seen."""

    def remove(self) -> None:
        """Nothing hangs anywhere."""

    def state_dict(self) -> dict[str, Any]:
        """What was seen and which signs are drawn next, for a checkpoint: tensors and numbers."""
        sums = {name: own.clone() for name, own in self.sums.items()}
        return {"sums": sums, "batches": self.batches, "signs": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have seen what a checkpoint says, and nothing else."""
        self.sums, self.batches = dict(state["sums"]), int(state["batches"])
        self._generator.set_state(state["signs"])

    def see(self, loss: Tensor) -> None:
        """Look at one loss; its graph stays, so that it can still be taken back.

        Raises:
            MaskError: an operator of the model cannot be differentiated twice, or weights are sharded.
        """
        for name, layer in self.layers.items():
            if is_whole_in_passes(layer):
                raise MaskError(f"{name}.weight is sharded, and no loss is differentiated twice by what is whole "
                                "in a pass alone: prune by second order before fully_shard, or with DDP")  # fmt: skip
        weights = {
            name: dense_weight(layer) for name, layer in self.layers.items() if dense_weight(layer).requires_grad
        }
        with torch.enable_grad():
            try:
                slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
                _check_twice(slopes)
                reached = {n: (w, s) for (n, w), s in zip(weights.items(), slopes, strict=True) if s is not None}
                for name, curvature in self._diagonal(reached).items():
                    seen = self.measure(name, weights[name].detach(), curvature)
                    known = self.sums.get(name)
                    # A model that was moved since has its sums elsewhere.
                    self.sums[name] = seen if known is None else known.to(seen.device) + seen
            except RuntimeError as error:
                raise MaskError(f"the loss cannot be differentiated twice: {error}") from error
        self.batches += 1

    def _diagonal(self, reached: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        weights, slopes = [w for w, _ in reached.values()], [s for _, s in reached.values()]
        total = {name: torch.zeros_like(weight) for name, (weight, _) in reached.items()}
        for _ in range(self.probes):
            signs = [self._signs(weight) for weight in weights]
            bent = torch.autograd.grad(slopes, weights, signs, retain_graph=True, allow_unused=True)
            for name, sign, along in zip(reached, signs, bent, strict=True):
                if along is not None:  # a loss that is linear in a weight does not bend along it
                    total[name] += sign * along / self.probes
        return total

    def _signs(self, weight: Tensor) -> Tensor:
        drawn = torch.randint(0, 2, weight.shape, generator=self._generator)
        return (2 * drawn - 1).to(weight.device, weight.dtype)


def _check_twice(slopes: Iterable[Tensor | None]) -> None:
    """Refuse gradients on whose way something has none of its own: torch leaves that part of the sum out in silence.

    Raises:
        RuntimeError: an operator says that it can be differentiated only once.
    """
    waiting = [slope.grad_fn for slope in slopes if slope is not None and slope.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("an operator is marked with @once_differentiable")
        new = {following for following, _ in node.next_functions if following is not None} - seen
        seen |= new
        waiting += new
