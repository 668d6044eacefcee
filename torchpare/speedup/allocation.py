"""What a ``config_list`` asks of stacks of blocks, and of experts behind a router: what no group of channels is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from torchpare.config import Entry
from torchpare.config.structures import layers_within
from torchpare.errors import ConfigError
from torchpare.graph.structures import EXPERTS, LAYERS
from torchpare.speedup.depth import Stack
from torchpare.speedup.experts import Routed

__all__ = ["allocate_depth", "allocate_experts", "said_elsewhere"]


def allocate_depth(entries: Sequence[Entry], stacks: Sequence[Stack], model: nn.Module) -> dict[str, float]:
    """By path of a stack, the share of its blocks that entries with the structure ``"layers"`` ask for; the last wins.

    Raises:
        ConfigError: such an entry reaches no stack.
    """
    shares: dict[str, float] = {}
    for at, entry in enumerate(entries):
        if LAYERS not in (entry.structures or ()):
            continue
        names = layers_within(entry, model, f"config_list[{at}]")
        reached = [stack.path for stack in stacks if names is None or stack.path in names]
        if not reached:
            there = ", ".join(repr(stack.path) for stack in stacks) or "none"
            raise ConfigError(
                f"config_list[{at}] reaches no stack of blocks that could go one by one; there are: {there}"
            )
        shares.update(dict.fromkeys(reached, 0.0 if entry.exclude else entry.sparsity or 0.0))
    return shares


def allocate_experts(entries: Sequence[Entry], routed: Sequence[Routed], model: nn.Module) -> dict[str, float]:
    """By path of a mixture that routes, the share of its experts that entries with ``"experts"`` ask for."""
    shares: dict[str, float] = {}
    for at, entry in enumerate(entries):
        reached = _routed_by(entry, routed, model, f"config_list[{at}]")
        shares.update(dict.fromkeys(reached, 0.0 if entry.exclude else entry.sparsity or 0.0))
    return shares


def said_elsewhere(entries: Sequence[Entry], routed: Sequence[Routed], model: nn.Module) -> set[int]:
    """The positions of entries that need not reach a group of channels, for they reach experts behind a router."""
    return {at for at, entry in enumerate(entries) if _routed_by(entry, routed, model, f"config_list[{at}]")}


def _routed_by(entry: Entry, routed: Sequence[Routed], model: nn.Module, where: str) -> list[str]:
    if EXPERTS not in (entry.structures or ()) or not routed:
        return []
    names = layers_within(entry, model, where)
    return [item.path for item in routed if names is None or names & {item.path, item.mixture.experts}]
