"""What goes as a whole, and how layers share what goes: the options that every pruner has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, get_args

from torchpare.config import SearchEntry, Target, output_layout
from torchpare.errors import ConfigError
from torchpare.numerics import Bank, Block, Element, Filter, Pattern, Reduction, Unit

__all__ = ["MODES", "Allocation", "check_mode", "most_of", "unit_of"]

MODES = ("normal", "global", "balanced", "balance", "dependency_aware")
"""How layers share what goes; ``"balance"`` is another word for ``"balanced"``."""


class Allocation(TypedDict, total=False):
    """How layers share what goes: options of every pruner; see :class:`torchpare.pruning.Pruner`."""

    mode: str
    balance_gran: Sequence[int] | None
    group_score: Reduction


def unit_of(target: Target, structured: bool, mode: str, balance_gran: tuple[int, ...]) -> Unit:
    """What goes of a layer as a whole.

    Args:
        target: the layer, with the entry that won.
        structured: whether filters go, or weights.
        mode: how layers share what goes.
        balance_gran: the sizes of the blocks of single weights that each lose as many.
    """
    if structured:
        groups = getattr(target.module, "groups", 1) if mode == "balanced" else 1
        return Filter(*output_layout(target.module), balanced=groups)
    granularity = target.entry.granularity
    if isinstance(granularity, tuple):
        return Block(granularity)
    if granularity is not None and ":" in granularity:
        outputs, _ = output_layout(target.module)
        return Pattern(*map(int, granularity.split(":")), axis=1 - outputs)
    return Bank(balance_gran) if mode == "balanced" else Element()


def check_mode(
    name: str,
    targets: Mapping[str, Target],
    structured: bool,
    mode: str,
    balance_gran: tuple[int, ...],
    group_score: str,
    shared: bool,
) -> None:
    """Check that the options go together; ``shared`` where entries ask for one share of all layers together.

    Raises:
        ConfigError: an option is unknown, or contradicts another one or an entry.
    """
    if mode not in MODES:
        raise ConfigError(f"{name}: mode is {mode!r}; it is one of {', '.join(map(repr, MODES))}")
    if group_score not in get_args(Reduction):
        raise ConfigError(f"{name}: group_score is {group_score!r}; it is 'sum', 'mean' or 'max'")
    if (mode == "balanced" and not structured) != bool(balance_gran):
        raise ConfigError(f"{name}: mode='balanced' of single weights goes with balance_gran, the sizes of the "
                          "blocks of which each loses as many; nothing else does")  # fmt: skip
    for layer, target in targets.items():
        granularity = target.entry.granularity
        if structured and granularity is not None:
            raise ConfigError(f"{name} prunes whole filters, and the entry of {layer} asks for a granularity of single "
                              "weights: leave it out, or use LevelPruner")  # fmt: skip
        if target.entry.round_to is not None and (mode == "global" or not structured):
            raise ConfigError(f"{name}: the entry of {layer} asks for round_to, which counts the filters of one layer: "
                              "it goes with filter pruners, and not with a share of all layers together")  # fmt: skip
        if mode == "global" and ":" in str(granularity):
            raise ConfigError(f"{name}: the entry of {layer} asks for {granularity!r}, which says how much goes in "
                              "each layer: leave mode='global' out")  # fmt: skip
    _check_caps(name, targets, shared)
    shares = sorted({target.sparsity for target in targets.values()})
    if mode == "global" and len(shares) > 1:
        raise ConfigError(f"{name}: mode='global' prunes one share of all layers together, and the config_list "
                          f"asks for {', '.join(f'{share:g}' for share in shares)}: give one")  # fmt: skip


def _check_caps(name: str, targets: Mapping[str, Target], shared: bool) -> None:
    """See that what no layer may lose more than leaves enough to lose."""
    caps = {layer: most_of(target) for layer, target in targets.items()}
    for layer, target in targets.items():
        if isinstance(target.entry, SearchEntry):
            continue  # whose share is one of the objective's cost
        # A layer may lose less than the others, as long as these can make up for it.
        if (max(caps.values()) if shared else caps[layer]) < target.sparsity:
            raise ConfigError(f"{name}: the entry of {layer} asks for a sparsity of {target.sparsity:g}, and "
                              f"max_sparsity_per_layer allows {caps[layer]:g}: ask for less, or allow "
                              "more")  # fmt: skip


def most_of(target: Target) -> float:
    """The largest share of a layer that may go, where all layers share what goes; 1 where its entry does not say."""
    cap = target.entry.max_sparsity_per_layer
    return 1.0 if cap is None else cap
