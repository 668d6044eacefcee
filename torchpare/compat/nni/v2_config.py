"""The ``config_list`` of NNI 2.5 to 2.10, said in ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from torchpare.compat.nni.legacy_compressor import tell_of_entries
from torchpare.config import plain_class
from torchpare.errors import ConfigError

__all__ = ["entries_of_v2", "take_key"]

_SPARSITY = ("sparsity", "sparsity_per_layer", "total_sparsity")


def entries_of_v2(model: nn.Module, config_list: Any, supported: Sequence[type[nn.Module]]) -> Any:
    """Entries with ``sparsity`` for ``sparsity_per_layer`` and ``total_sparsity``, and names for ``op_partial_names``.

    Args:
        model: whose names to look through; only read.
        config_list: a list of dicts; anything else is handed on to whoever says what is wrong with it.
        supported: the layers that the pruner can handle, of which parts of names are read.

    Raises:
        ConfigError: an entry says the same in two ways, or a part of a name reaches no layer.
    """
    if not isinstance(config_list, list | tuple) or not all(isinstance(entry, Mapping) for entry in config_list):
        return config_list
    tell_of_entries(config_list)
    return [_entry(model, dict(entry), f"config_list[{at}]", tuple(supported)) for at, entry in enumerate(config_list)]


def take_key(entries: Any, key: str, usual: Any) -> tuple[Any, Any]:
    """Entries without a key that is the pruner's here, and its value.

    Raises:
        ConfigError: entries have different values.
    """
    if not isinstance(entries, list) or not any(isinstance(one, Mapping) and key in one for one in entries):
        return entries, usual
    found = {one[key] for one in entries if key in one}
    if len(found) > 1:
        raise ConfigError(f"config_list: entries have different {key!r}: {', '.join(map(str, sorted(found)))}; here it "
                          "is one for all layers")  # fmt: skip
    return [{name: value for name, value in one.items() if name != key} for one in entries], next(iter(found))


def _entry(
    model: nn.Module, entry: dict[str, Any], where: str, supported: tuple[type[nn.Module], ...]
) -> dict[str, Any]:
    given = [key for key in _SPARSITY if key in entry]
    if len(given) > 1:
        raise ConfigError(f"{where} has both {given[0]!r} and {given[1]!r}; say it once")
    if given:
        entry["sparsity"] = entry.pop(given[0])
    if "op_partial_names" in entry:
        entry["op_names"] = [*entry.get("op_names", ()), *_reached(model, entry, where, supported)]
        del entry["op_partial_names"]
    return entry


def _reached(model: nn.Module, entry: dict[str, Any], where: str, supported: tuple[type[nn.Module], ...]) -> list[str]:
    parts = entry["op_partial_names"]
    names = [
        name
        for name, module in model.named_modules()
        if any(part in name for part in parts) and issubclass(plain_class(module), supported)
    ]
    if not names:
        raise ConfigError(f"{where}['op_partial_names']: no layer that can be pruned has one of "
                          f"{', '.join(map(repr, parts))} in its name")  # fmt: skip
    return names
