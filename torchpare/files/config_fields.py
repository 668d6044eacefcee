"""The whole numbers of a transformers config by path, nested configs and rows of numbers included, and edited copies.

A path is a tuple: `("hidden_size",)`, `("text_config", "hidden_size")`, `("hidden_sizes", 2)`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["UNSET", "Field", "dotted", "edited", "float_fields", "size_fields", "value_at", "without_entries"]

Field = tuple[str | int, ...]

UNSET = "unset"
"""Stands for a field that the config does not have, though its class may ask for it."""

_OPTIONAL = ("head_dim",)  # asked for by getattr with a default; a class that does not ask is not changed by it


def size_fields(config: Any) -> dict[Field, int | str | None]:
    """Every field that may hold a size: whole numbers, items of rows of them, and fields that are None or not there."""
    found: dict[Field, int | str | None] = {}
    for prefix, part in _parts(config):
        values = _settings(part)
        for name, value in values.items():
            if name.endswith(("token_id", "_token_ids")) or name == "bos_token_id":
                continue  # these index the vocabulary, and no width follows from them
            if value is None or type(value) is int:
                found[(*prefix, name)] = value
            elif type(value) in (list, tuple) and value and all(type(item) is int for item in value):
                found |= {(*prefix, name, place): item for place, item in enumerate(value)}
        found |= {(*prefix, name): UNSET for name in _OPTIONAL if not hasattr(part, name)}
    return found


def float_fields(config: Any) -> dict[Field, float]:
    """Every field that holds a number with a fraction, such as the epsilon of norms."""
    return {
        (*prefix, name): value
        for prefix, part in _parts(config)
        for name, value in _settings(part).items()
        if type(value) is float
    }


def value_at(config: Any, field: Field) -> Any:
    """What a config holds at a path; None where there is nothing."""
    for key in field:
        config = config[key] if isinstance(key, int) else getattr(config, key, None)
    return config


def edited(config: Any, values: Mapping[Field, Any]) -> Any:
    """A copy of a config with other values; the config itself is only read."""
    result = copy.deepcopy(config)
    for (*way, name), value in values.items():
        if value == UNSET:
            continue
        owner = value_at(result, tuple(way[:-1] if isinstance(name, int) else way))
        if isinstance(name, int):
            row = list(getattr(owner, str(way[-1])))
            row[name] = value
            setattr(owner, str(way[-1]), type(getattr(owner, str(way[-1])))(row))
        else:
            setattr(owner, name, value)
    return result


def without_entries(config: Any, field: Field, gone: list[int]) -> Any:
    """A copy for fewer layers: `field` counts them, and rows of that length beside it have an entry for each."""
    count = value_at(config, field)
    result = edited(config, {field: count - len(gone)})
    owner = value_at(result, field[:-1])
    for name, value in _settings(owner).items():
        if type(value) in (list, tuple) and len(value) == count:
            setattr(owner, name, type(value)(item for place, item in enumerate(value) if place not in gone))
    return result


def dotted(field: Field) -> str:
    """A path as one reads it: `text_config.hidden_size`, `hidden_sizes[2]`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in field).removeprefix(".")


def _settings(part: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if not name.startswith("_")}


def _parts(config: Any, prefix: Field = ()) -> Iterator[tuple[Field, Any]]:
    """A config and the configs in it."""
    yield prefix, config
    for name, value in _settings(config).items():
        if hasattr(type(value), "to_diff_dict") and hasattr(type(value), "model_type"):
            yield from _parts(value, (*prefix, name))
