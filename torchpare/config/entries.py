"""A ``config_list`` becomes checked entries; every error names the entry, the key, what was given and the remedy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from torchpare.errors import ConfigError

__all__ = ["Entry", "problem", "read_entries"]

_PATTERN = re.compile(r"(\d+):(\d+)")


class Entry(BaseModel):
    """One checked dict of a ``config_list``.

    An entry reaches the layers whose type is in ``op_types`` *and* whose name is in ``op_names``, of those two the ones
    that are given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sparsity: float | None = None
    """The share to prune, in [0, 1): of a layer's filters for filter pruners, of its weights for ``LevelPruner``."""

    op_types: tuple[str, ...] | None = None
    """Class names, compared exactly; ``"default"`` stands for all types that the chosen algorithm can handle."""

    op_names: tuple[str, ...] | None = None
    """Full dotted names, as in ``model.named_modules()``."""

    structures: tuple[str, ...] | None = None
    """What to remove, for :func:`torchpare.plan`: ``"channels"``, ``"mlp"``, ``"embedding"``, ``"heads"``,
    ``"head_dim"``, ``"groups"``, ``"hidden"``, ``"experts"``, ``"experts_width"``, ``"layers"``, or ``"all"``; see
    :data:`torchpare.graph.structures.STRUCTURES`. With it, ``op_names`` may name containers, and an entry without
    ``op_names`` and ``op_types`` reaches the whole model."""

    granularity: str | tuple[int, ...] | None = None
    """What goes as a whole, for pruners of single weights: ``"element"``, the usual; ``"2:4"``, which keeps 2 of every
    4 weights along the input axis (the sparsity follows from it); or the sizes of blocks along the first axes of the
    weight, such as ``[4, 4]``, all other axes whole."""

    round_to: int | None = None
    """Keep multiples of this number (8, 16, 32, 64) of filters, or, for :func:`torchpare.plan`, of what its structures
    count, where a layer or group is that large: kernels are made for such widths. Not with ``mode="global"``."""

    exclude: bool = False
    """True leaves the layers reached by this entry alone."""

    @field_validator("sparsity", mode="before")
    @classmethod
    def _sparsity_is_a_share(cls, value: Any) -> float:
        if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
            raise problem(f"is {value!r} ({type(value).__name__}), not a number; give a share such as 0.5")
        # A float32 knows 0.7 only as 0.699999988: its shortest text is what its author meant.
        number = float(str(value)) if isinstance(value, np.floating) else float(value)
        if not (math.isfinite(number) and 0 <= number < 1):
            hint = f"; for {number:g} % give {number / 100:g}" if 1 < number < 100 else ""
            raise problem(f"is {number:g}, outside [0, 1); it is the share to prune, such as 0.5 for half{hint}")
        return number

    @field_validator("round_to", mode="before")
    @classmethod
    def _multiple_is_positive(cls, value: Any) -> int:
        if isinstance(value, bool | np.bool_) or not isinstance(value, Integral) or value < 1:
            raise problem(f"is {value!r}, not a whole number above 0; give the multiple to keep, such as 8")
        return int(value)

    @field_validator("granularity", mode="before")
    @classmethod
    def _granularity_is_known(cls, value: Any) -> str | tuple[int, ...]:
        if isinstance(value, str):
            pattern = _PATTERN.fullmatch(value)
            known = value == "element" or (pattern is not None and 0 < int(pattern[1]) < int(pattern[2]))
        else:
            known = isinstance(value, list | tuple) and bool(value) and all(map(_is_size, value))
        if not known:
            raise problem(f"is {value!r}; give 'element', a pattern such as '2:4', or the sizes of a block: [4, 4]")
        return value if isinstance(value, str) else tuple(map(int, value))

    @model_validator(mode="before")
    @classmethod
    def _a_pattern_says_how_much(cls, given: dict[str, Any]) -> dict[str, Any]:
        pattern = _PATTERN.fullmatch(str(given.get("granularity", "")))
        if pattern is None or not 0 < int(pattern[1]) < int(pattern[2]):
            return {"sparsity": 0.0, **given} if pattern else given  # what is wrong with the pattern is told of it
        share = 1 - int(pattern[1]) / int(pattern[2])
        asked = given.get("sparsity", share)
        if isinstance(asked, Real) and abs(float(asked) - share) > 1e-6:
            raise problem(f"asks for a sparsity of {float(asked):g}, and the pattern {pattern[0]!r} is one of "
                          f"{share:g}; leave the sparsity out")  # fmt: skip
        return {**given, "sparsity": asked}

    @field_validator("op_types", "op_names", "structures", mode="before")
    @classmethod
    def _names_are_listed(cls, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            raise problem(f"is the text {value!r}, not a list; give [{value!r}]")
        if not isinstance(value, list | tuple):
            raise problem(f"is {value!r} ({type(value).__name__}), not a list of text; give a list such as ['Conv2d']")
        if not value:
            raise problem("is empty, so the entry reaches nothing; name at least one, or leave the key out")
        for at, item in enumerate(value):
            if not isinstance(item, str):
                raise problem(f"is {item!r} ({type(item).__name__}), not text", at=at)
        return tuple(value)

    @field_validator("exclude", mode="before")
    @classmethod
    def _exclude_is_a_switch(cls, value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise problem(f"is {value!r} ({type(value).__name__}), not True or False")
        return bool(value)

    @model_validator(mode="after")
    def _says_where_and_what(self) -> Entry:
        if self.op_types is None and self.op_names is None and self.structures is None:
            raise problem(
                "has neither 'op_types' nor 'op_names', so it reaches no layer; add 'op_types': ['default'] for all "
                "layers that the algorithm can handle"
            )
        if self.sparsity is None and not self.exclude:
            raise problem(
                "has neither 'sparsity' nor 'exclude': True, so it says nothing about the layers it reaches; add "
                "'sparsity': 0.5 to prune half"
            )
        return self


def read_entries(config_list: Any, kind: type[Entry] = Entry) -> tuple[Entry, ...]:
    """Check the form of a ``config_list``; whether its names exist is for :func:`torchpare.config.select`.

    Args:
        config_list: a list or tuple of dicts with the keys of ``kind``.
        kind: what an algorithm's entries may say; see `torchpare.config.schedules` for more.

    Raises:
        ConfigError: it is not a non-empty list of dicts, or an entry has an unknown key or a value that cannot be used.
    """
    if isinstance(config_list, Mapping):
        raise ConfigError("config_list is one dict, not a list of dicts; put it in a list: [{...}]")
    if not isinstance(config_list, list | tuple):
        raise ConfigError(f"config_list is a {type(config_list).__name__}, not a list of dicts such as "
                          "[{'sparsity': 0.5, 'op_types': ['default']}]")  # fmt: skip
    if not config_list:
        raise ConfigError("config_list is empty, so nothing would be compressed; give at least one entry such as "
                          "{'sparsity': 0.5, 'op_types': ['default']}")  # fmt: skip
    return tuple(_read_entry(at, entry, kind) for at, entry in enumerate(config_list))


def _read_entry(at: int, entry: Any, kind: type[Entry]) -> Entry:
    where = f"config_list[{at}]"
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where} is {entry!r} ({type(entry).__name__}), not a dict")
    for key in entry:
        if key not in kind.model_fields:
            near = get_close_matches(str(key), kind.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "remove it."
            raise ConfigError(
                f"{where}[{key!r}]: there is no such key; {hint} Keys are {', '.join(map(repr, kind.model_fields))}."
            )
    try:
        return kind.model_validate(dict(entry))
    except ValidationError as error:
        first = error.errors()[0]
        index = first.get("ctx", {}).get("at")
        path = "".join(f"[{key!r}]" for key in first["loc"]) + ("" if index is None else f"[{index}]")
        raise ConfigError(f"{where}{path} {first['msg']}") from None


def _is_size(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) > 0


def problem(message: str, at: int | None = None) -> PydanticCustomError:
    """What is wrong with a value, and the remedy; ``at`` is its place in a list."""
    # The message is passed as data: pydantic would read braces in it as places to fill.
    return PydanticCustomError("config", "{message}", {"message": message, "at": at})
