"""Entries of pruners: how much to prune, and in which form."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from pydantic import field_validator, model_validator

from torchpare.config.selectors import Selector, problem, read_selectors

__all__ = ["Entry", "SearchEntry", "read_entries"]

_PATTERN = re.compile(r"(\d+):(\d+)")


class Entry(Selector):
    """One checked dict of a pruner's ``config_list``; see `Selector` for ``op_types``, ``op_names`` and ``exclude``."""

    example = "{'sparsity': 0.5, 'op_types': ['default']}"
    verb = "pruned"

    foreign: ClassVar[Mapping[str, str]] = {
        **Selector.foreign, "sparsity_per_layer": "sparsity", "total_sparsity": "sparsity", "sparse_ratio": "sparsity",
        "max_sparse_ratio": "max_sparsity_per_layer",
    }  # fmt: skip

    sparsity: float | None = None
    """The share to prune, in [0, 1): of a layer's filters for filter pruners, of its weights for ``LevelPruner``."""

    structures: tuple[str, ...] | None = None
    """What to remove, for :func:`torchpare.plan` and pruners of filters: ``"channels"``, ``"mlp"``, ``"embedding"``,
    ``"heads"``, ``"head_dim"``, ``"groups"``, ``"hidden"``, ``"experts"``, ``"experts_width"``, ``"layers"``, or
    ``"all"``; see :data:`torchpare.graph.structures.STRUCTURES`. With it, ``op_names`` may name containers, and an
    entry without ``op_names`` and ``op_types`` reaches the whole model. Pruners find structures by running the model on
    ``dummy_input``, and take no ``"layers"``."""

    granularity: str | tuple[int, ...] | None = None
    """What goes as a whole, for pruners of single weights: ``"element"``, the usual; ``"2:4"``, which keeps 2 of every
    4 weights along the input axis (the sparsity follows from it); or the sizes of blocks along the first axes of the
    weight, such as ``[4, 4]``, all other axes whole."""

    round_to: int | None = None
    """Keep multiples of this number (8, 16, 32, 64) of filters, or, for :func:`torchpare.plan`, of what its structures
    count, where a layer or group is that large: kernels are made for such widths. Not with ``mode="global"``."""

    max_sparsity_per_layer: float | None = None
    """What no layer that the entry reaches loses more than, in [0, 1], where ``sparsity`` is one share of all layers
    together: with ``mode="global"``, in ``SlimPruner`` and in searches."""

    @field_validator("max_sparsity_per_layer", mode="before")
    @classmethod
    def _cap_is_a_share(cls, value: Any) -> float:
        if isinstance(value, bool | np.bool_) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
            raise problem(f"is {value!r}; it is the largest share that a layer may lose, in [0, 1], such as 0.9")
        return float(value)

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

    @model_validator(mode="after")
    def _says_what(self) -> Entry:
        if self.sparsity is None and not self.exclude:
            raise problem(
                "has neither 'sparsity' nor 'exclude': True, so it says nothing about the layers it reaches; add "
                "'sparsity': 0.5 to prune half"
            )
        return self


class SearchEntry(Entry):
    """An entry of a search, which may leave it to the search's objective how much goes."""

    example = "{'op_types': ['default']}"

    @model_validator(mode="after")
    def _says_what(self) -> SearchEntry:
        return self


def read_entries(config_list: Any, kind: type[Selector] = Entry) -> tuple[Any, ...]:
    """Check the form of a ``config_list``; whether its names exist is for :func:`torchpare.config.select`.

    Args:
        config_list: a list or tuple of dicts with the keys of ``kind``.
        kind: what an algorithm's entries may say: those of pruners if not given.

    Raises:
        ConfigError: it is not a non-empty list of dicts, or an entry has an unknown key or a value that cannot be used.
    """
    return read_selectors(config_list, kind)


def _is_size(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) > 0
