"""Terms as plain data, for recipe files: ``[{"soft_targets": {"temperature": 4}}, {"hidden_states": {...}}]``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, Final

from torchpare.distillation.attention import AttentionMaps, AttentionScores
from torchpare.distillation.hidden_states import HiddenStates
from torchpare.distillation.relations import Relations, TokenRelations
from torchpare.distillation.soft_targets import SoftTargets
from torchpare.distillation.term import FeatureTerm, Term
from torchpare.errors import ConfigError

__all__ = ["TERMS", "terms_from_config"]

TERMS: Final[dict[str, type[SoftTargets | FeatureTerm]]] = {
    kind.word(): kind for kind in (SoftTargets, HiddenStates, AttentionMaps, AttentionScores, Relations, TokenRelations)
}
"""Every kind of term, by its word."""


def terms_from_config(config: Any, where: str = "terms") -> list[Term]:
    """The terms that a recipe lists.

    Args:
        config: a list; each item is a dict with one key, the kind of term, and a dict of its arguments after it. A
            kind that needs none may stand alone: ``["soft_targets"]``.
        where: what to call the list in messages.

    Raises:
        ConfigError: a kind or key that does not exist (with the nearest that does), or a value that cannot be used.

    Example:
        >>> terms_from_config([{"soft_targets": {"temperature": 2.0, "weight": 0.5}}])[0].temperature
        2.0
    """
    if not isinstance(config, list | tuple) or not config:
        raise ConfigError(f"{where} is {config!r}, not a list of terms such as [{{'soft_targets': {{'weight': 0.9}}}}]")
    return [_read(item, f"{where}[{at}]") for at, item in enumerate(config)]


def _read(item: Any, where: str) -> Term:
    if isinstance(item, str):
        item = {item: {}}
    if not isinstance(item, Mapping) or len(item) != 1:
        raise ConfigError(f"{where} is {item!r}, not a dict with one key, the kind of term: {_listed(TERMS)}")
    (word, arguments), *_ = item.items()
    kind = TERMS.get(word)
    if kind is None:
        raise ConfigError(f"{where}[{word!r}]: there is no such term; {_nearest(word, TERMS)}")
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"{where}[{word!r}] is {arguments!r}, not a dict of arguments")
    known = {field.name: field for field in fields(kind)}
    for key in arguments:
        if key not in known:
            raise ConfigError(f"{where}[{word!r}][{key!r}]: there is no such key; {_nearest(key, known)}")
    for key, field in known.items():
        if field.default is MISSING and key not in arguments:
            raise ConfigError(f"{where}[{word!r}] has no {key!r}, which it needs")
    try:
        return kind(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _nearest(given: Any, known: Mapping[str, Any]) -> str:
    near = get_close_matches(str(given), known, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"There are {_listed(known)}"


def _listed(known: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, known))
