"""Words of later NNI configs, said in ours: ``quant_dtype`` and schemes such as ``"per_channel_symmetric"``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torchpare.config.selectors import problem

__all__ = ["translated"]

_SCHEME = re.compile(r"per_(tensor|channel)_(affine|symmetric)")
_DTYPE = re.compile(r"(u?)int([0-9]*)")


def translated(given: Mapping[str, Any]) -> dict[str, Any]:
    """An entry whose ``quant_scheme`` says how alone, and whose ``quant_dtype`` is ``signed`` and ``quant_bits``.

    Raises:
        PydanticCustomError: ``quant_dtype`` is none, or says what another key says otherwise.
    """
    entry = dict(given)
    if "quant_scheme" in entry:
        entry["quant_scheme"], granularity = _split(entry["quant_scheme"], _scheme)
        _merge(entry, "granularity", granularity, "quant_scheme")
    if "quant_dtype" in entry:
        bits, signed = _split(entry.pop("quant_dtype"), _dtype)
        _merge(entry, "quant_bits", bits, "quant_dtype")
        _merge(entry, "signed", signed, "quant_dtype")
    return entry


def _scheme(value: Any) -> tuple[Any, Any]:
    """The scheme, and the granularity in its name, if there is one."""
    match = _SCHEME.fullmatch(value) if isinstance(value, str) else None
    return (match[2], match[1]) if match else (value, None)


def _dtype(value: Any) -> tuple[int | None, bool]:
    """How many bits, if it says, and whether signed."""
    match = _DTYPE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise problem(f"['quant_dtype'] has {value!r}; give 'int', 'uint', or one with bits such as 'int8'")
    return int(match[2]) if match[2] else None, not match[1]


def _split(value: Any, parts: Callable[[Any], tuple[Any, Any]]) -> tuple[Any, Any]:
    """Both parts of a value, or of each value of a dict by type."""
    if not isinstance(value, Mapping):
        return parts(value)
    both = {kind: parts(own) for kind, own in value.items()}
    return {kind: first for kind, (first, _) in both.items()}, {kind: second for kind, (_, second) in both.items()}


def _merge(entry: dict[str, Any], key: str, found: Any, said_by: str) -> None:
    """Write ``found`` under ``key``, for the types that it speaks of."""
    by_type = {kind: own for kind, own in found.items() if own is not None} if isinstance(found, dict) else found
    if by_type is None or by_type == {}:
        return
    known = entry.get(key)
    if known is None:
        entry[key] = by_type
        return
    kinds = {*(known if isinstance(known, Mapping) else ()), *(by_type if isinstance(by_type, dict) else ())}
    for kind in kinds or {""}:
        ours = known.get(kind) if isinstance(known, Mapping) else known
        theirs = by_type.get(kind) if isinstance(by_type, dict) else by_type
        if ours is not None and theirs is not None and ours != theirs:
            raise problem(f"[{said_by!r}] asks for {key} {theirs!r}, and [{key!r}] for {ours!r}; say it once")
    if isinstance(by_type, dict) and isinstance(known, Mapping):
        entry[key] = {**known, **by_type}
