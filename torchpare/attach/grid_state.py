"""The tensors of a quantizer: how they are loaded, and how they move with the model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["GridState"]


class GridState(nn.Module):
    """What a quantizer knows, as buffers and, of what is learnt, parameters."""

    scale: Tensor
    zero_point: Tensor
    low: Tensor
    high: Tensor
    seen: Tensor
    steps: Tensor
    grid: Tensor
    """Lowest and highest integer, and whether it is symmetric: what tells a checkpoint of another grid."""

    @abstractmethod
    def loaded(self) -> None:
        """Follow what a checkpoint has brought."""

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        """A checkpoint that knows no quantizers leaves this one as it is; a granularity that fits is taken over."""
        grid = state_dict.get(prefix + "grid", self.grid)
        if grid.shape == self.grid.shape and grid.tolist() != self.grid.tolist():
            error_msgs.append(
                f"{prefix}grid: saved of {_in_words(grid)}, and here is {_in_words(self.grid)}: compress the model "
                "with the config_list that it was saved with"
            )
            return
        if not any(prefix + name in state_dict for name in (*self._buffers, *self._parameters)):
            return
        for name in ("scale", "zero_point", "low", "high"):
            given, known = state_dict.get(prefix + name), self._buffers.get(name)
            if given is not None and known is not None and given.shape != known.shape:
                # The scales of a float64 weight are float64; those that somebody made half of are float32 again.
                kind = torch.promote_types(given.dtype, known.dtype)
                self._buffers[name] = torch.empty(given.shape, dtype=kind, device=known.device)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )  # type: ignore[arg-type]
        self.loaded()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GridState:
        """Move with the model, but keep the precision: a scale in half precision would be another scale."""
        exact = {name: own.detach() for name, own in (*self.named_buffers(), *self.named_parameters())}
        super()._apply(fn, recurse)
        for name, old in exact.items():
            new = getattr(self, name)
            if new.dtype != old.dtype:
                new.data = old.to(new.device)
                new.grad = None if new.grad is None else new.grad.to(old.dtype)
        return self


def _in_words(grid: Tensor) -> str:
    low, high, symmetric = grid.tolist()
    return f"{'a symmetric' if symmetric else 'an affine'} grid of the integers from {low} to {high}"
