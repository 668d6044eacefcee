"""Entries of quantizers: which tensors of a layer, with how many bits, and on what kind of grid.

Keys that say how (``quant_scheme``, ``granularity``, ``signed``, ``narrow_range``, ``observer``) take one value for all
types or a dict by type, as ``quant_bits`` does: ``{"weight": "channel", "output": "tensor"}``. What an entry leaves out
is the algorithm's own choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np
from pydantic import Field, field_validator, model_validator

from torchpare.config.quantization_words import translated
from torchpare.config.selectors import Selector, problem
from torchpare.numerics.affine import MAX_BITS, Grid

__all__ = ["QUANT_TYPES", "Granularity", "Observer", "QuantEntry", "QuantSpec", "QuantType"]

QuantType = Literal["weight", "input", "output"]
QUANT_TYPES: tuple[QuantType, ...] = get_args(QuantType)

Granularity = Literal["tensor", "channel", "group"]
Observer = Literal["min_max", "moving_average", "percentile", "kl", "mse"]


@dataclass(frozen=True)
class QuantSpec:
    """How one tensor is quantized."""

    grid: Grid = field(default_factory=Grid)
    granularity: Granularity = "tensor"
    group_size: int = 0
    observer: Observer = "min_max"
    percentile: float = 99.99
    start_step: int = 0


class QuantEntry(Selector):
    """One checked dict of a quantizer's ``config_list``; see `Selector` for ``op_types``, ``op_names``, ``exclude``."""

    example = "{'quant_types': ['weight'], 'quant_bits': 8, 'op_types': ['Conv2d']}"
    verb = "quantized"
    words = ("quant_dtype",)

    quant_types: tuple[QuantType, ...] = ()
    """Which tensors: of ``"weight"``, ``"input"``, ``"output"``. A weight is every matrix or filter that the layer
    owns, an input every floating-point tensor it is called with by position; all inputs of one layer share a grid."""

    quant_bits: dict[str, int] = Field(default_factory=dict)
    """1 to 16: a number for all types, or a dict with one for each of ``quant_types``."""

    quant_start_step: int = 0
    """How many training steps pass before values are rounded; ranges are observed from the start. Steps are those of
    the optimizer, or, of a quantizer made without one, training passes through the layer."""

    quant_scheme: dict[str, str] = Field(default_factory=dict)
    """``"affine"``: the grid lies where the data do; ``"symmetric"``: zero is its middle. A symmetric grid is signed
    and narrow, an affine one neither, unless ``signed`` and ``narrow_range`` say so."""

    granularity: dict[str, str] = Field(default_factory=dict)
    """``"tensor"``: one scale; of a weight also ``"channel"``: one for each output channel, or ``"group"``: one for
    each ``group_size`` weights that follow each other in an output channel."""

    group_size: int | None = None
    """For ``"group"``: how many weights share a scale, such as 32. It divides what an output channel holds."""

    signed: dict[str, bool] = Field(default_factory=dict)
    """Whether integers go below zero."""

    narrow_range: dict[str, bool] = Field(default_factory=dict)
    """Without the lowest integer: -127 to 127."""

    observer: dict[str, str] = Field(default_factory=dict)
    """How the range is found: ``"min_max"`` (all that was seen), ``"moving_average"`` (of the batches' ranges),
    ``"percentile"``, ``"kl"``, ``"mse"`` (what is worth covering). `ObserverQuantizer` takes all of them, those
    that train the first two at most, for what they observe."""

    percentile: float | None = None
    """For ``"percentile"``: above 50, up to 100; 99.99 if not given."""

    @field_validator("quant_types", mode="before")
    @classmethod
    def _types_are_known(cls, value: Any) -> tuple[str, ...]:
        given = cls._names_are_listed(value)
        for at, item in enumerate(given):
            if item not in QUANT_TYPES:
                raise problem(f"is {item!r}; it is one of {_listed(QUANT_TYPES)}", at=at)
        return tuple(dict.fromkeys(given))

    @field_validator("quant_bits", mode="before")
    @classmethod
    def _bits_are_counted(cls, value: Any) -> dict[str, Any]:
        def check(bits: Any) -> int:
            if isinstance(bits, bool | np.bool_) or not isinstance(bits, int | np.integer) or not 1 <= bits <= MAX_BITS:
                raise problem(f"is {bits!r}; give a whole number of bits from 1 to {MAX_BITS}, such as 8")
            return int(bits)

        return _by_type(value, check)

    @field_validator("quant_scheme", mode="before")
    @classmethod
    def _scheme_is_known(cls, value: Any) -> dict[str, Any]:
        return _by_type(value, _one_of("affine", "symmetric"))

    @field_validator("granularity", mode="before")
    @classmethod
    def _granularity_is_known(cls, value: Any) -> dict[str, Any]:
        return _by_type(value, _one_of(*get_args(Granularity)))

    @field_validator("observer", mode="before")
    @classmethod
    def _observer_is_known(cls, value: Any) -> dict[str, Any]:
        return _by_type(value, _one_of(*get_args(Observer)))

    @field_validator("signed", "narrow_range", mode="before")
    @classmethod
    def _is_a_switch(cls, value: Any) -> dict[str, Any]:
        return _by_type(value, cls._exclude_is_a_switch)

    @field_validator("quant_start_step", "group_size", mode="before")
    @classmethod
    def _is_counted(cls, value: Any) -> int:
        if isinstance(value, bool | np.bool_) or not isinstance(value, Integral) or value < 0:
            raise problem(f"is {value!r}, not a whole number of 0 or more")
        return int(value)

    @field_validator("percentile", mode="before")
    @classmethod
    def _is_a_percentile(cls, value: Any) -> float:
        if isinstance(value, bool | np.bool_) or not isinstance(value, Real) or not 50 < float(value) <= 100:
            raise problem(f"is {value!r}; give a number above 50, up to 100, such as 99.9")
        return float(value)

    @model_validator(mode="before")
    @classmethod
    def _one_for_all_is_one_for_each(cls, given: dict[str, Any]) -> dict[str, Any]:
        given = translated(given)
        types = given.get("quant_types") or ()
        keys = ("quant_bits", "quant_scheme", "granularity", "signed", "narrow_range", "observer")
        known = [kind for kind in types if kind in QUANT_TYPES] if isinstance(types, list | tuple) else []
        spread = {key: given[key] for key in keys if key in given and not isinstance(given[key], Mapping)}
        # Values are checked by the fields' own validators, also where no type is there to carry them.
        return {**given, **{key: dict.fromkeys(known or QUANT_TYPES, value) for key, value in spread.items()}}

    @model_validator(mode="after")
    def _says_what(self) -> QuantEntry:
        if self.exclude:
            return self
        if not self.quant_types or not self.quant_bits:
            missing = "quant_types" if not self.quant_types else "quant_bits"
            raise problem(f"has neither {missing!r} nor 'exclude': True; a quantizer's entry says which tensors to "
                          "quantize and with how many bits: 'quant_types': ['weight'], 'quant_bits': 8")  # fmt: skip
        for kind in self.quant_types:
            if kind not in self.quant_bits:
                raise problem(f"['quant_bits'] has no {kind!r}, which is in 'quant_types'; give its number of bits")
        for key in ("quant_bits", "quant_scheme", "granularity", "signed", "narrow_range", "observer"):
            for kind in getattr(self, key):
                if kind not in self.quant_types:
                    raise problem(f"[{key!r}] speaks of {kind!r}, which is not in 'quant_types'; add it there, or "
                                  "leave it out here")  # fmt: skip
        self._agrees()
        return self

    def _agrees(self) -> None:
        grouped = "group" in self.granularity.values()
        if grouped and not self.group_size:
            raise problem("['granularity'] is 'group' without a 'group_size'; give how many weights share a scale")
        if self.group_size is not None and not grouped:
            raise problem("['group_size'] is given, and 'granularity' is not 'group'; say so, or leave it out")
        if self.percentile is not None and "percentile" not in self.observer.values():
            raise problem("['percentile'] is given, and 'observer' is not 'percentile'; say so, or leave it out")
        for kind in self.quant_types:
            if kind != "weight" and self.granularity.get(kind, "tensor") != "tensor":
                raise problem(f"['granularity'] of {kind!r} is {self.granularity[kind]!r}; activations have one scale: "
                              "'tensor'")  # fmt: skip
            if self.narrow_range.get(kind) and self.quant_bits[kind] == 1:
                raise problem(f"['narrow_range'] leaves 1 bit of {kind!r} a single integer; give 2 bits, or False")

    def spec(self, kind: QuantType, default: QuantSpec) -> QuantSpec:
        """How the tensor of one type is quantized, where this entry leaves something out as ``default`` has it."""
        grid = replace(default.grid, bits=self.quant_bits[kind], narrow=False)
        narrow = default.grid.narrow
        if kind in self.quant_scheme:
            symmetric = narrow = self.quant_scheme[kind] == "symmetric"
            grid = replace(grid, symmetric=symmetric, signed=symmetric)
        grid = replace(grid, signed=self.signed.get(kind, grid.signed))
        narrow = self.narrow_range.get(kind, narrow and grid.bits > 1)
        return QuantSpec(
            grid=replace(grid, narrow=narrow),
            granularity=self.granularity.get(kind, default.granularity),  # type: ignore[arg-type]
            group_size=self.group_size or default.group_size,
            observer=self.observer.get(kind, default.observer),  # type: ignore[arg-type]
            percentile=self.percentile or default.percentile,
            start_step=self.quant_start_step,
        )


def _by_type(value: Any, check: Callable[[Any], Any]) -> dict[str, Any]:
    for kind in value:
        if kind not in QUANT_TYPES:
            raise problem(f"has the key {kind!r}; its keys are of {_listed(QUANT_TYPES)}")
    return {kind: check(own) for kind, own in value.items()}


def _one_of(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise problem(f"is {value!r}; it is one of {_listed(choices)}")
        return value

    return check


def _listed(choices: tuple[str, ...]) -> str:
    return ", ".join(map(repr, choices))
