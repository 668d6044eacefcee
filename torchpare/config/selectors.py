"""What the entries of every ``config_list`` have in common: which layers they reach, and how they are read.

Every error names the entry, the key, what was given and the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from torchpare.errors import ConfigError

__all__ = ["Selector", "problem", "read_selectors"]


class Selector(BaseModel):
    """One checked dict of a ``config_list``, as far as it says which layers it reaches.

    An entry reaches the layers whose type is in ``op_types`` *and* whose name is in ``op_names``, of those two the ones
    that are given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    example: ClassVar[str]
    """An entry as one might write it, for messages."""

    verb: ClassVar[str]
    """What happens to the layers it reaches, for messages: "pruned"."""

    words: ClassVar[tuple[str, ...]] = ()
    """Keys of other tools that are understood as keys of ours."""

    foreign: ClassVar[Mapping[str, str]] = {
        "op_partial_names": "op_names", "op_names_re": "op_names", "exclude_op_names": "exclude",
        "exclude_op_types": "exclude", "exclude_op_names_re": "exclude",
    }  # fmt: skip
    """Keys of other versions of the older toolkit, and what says the same here, for messages."""

    op_types: tuple[str, ...] | None = None
    """Class names, compared exactly; ``"default"`` stands for all types that the chosen algorithm can handle."""

    op_names: tuple[str, ...] | None = None
    """Full dotted names, as in ``model.named_modules()``."""

    exclude: bool = False
    """True leaves the layers reached by this entry alone."""

    @field_validator("op_types", "op_names", "structures", mode="before", check_fields=False)
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
    def _says_where(self) -> Selector:
        if self.op_types is None and self.op_names is None and getattr(self, "structures", None) is None:
            raise problem(
                "has neither 'op_types' nor 'op_names', so it reaches no layer; add 'op_types': ['default'] for all "
                "layers that the algorithm can handle"
            )
        return self


def read_selectors(config_list: Any, kind: type[Selector]) -> tuple[Any, ...]:
    """Check the form of a ``config_list``; whether its names exist is for :func:`torchpare.config.select`.

    Args:
        config_list: a list or tuple of dicts with the keys of ``kind``.
        kind: what an algorithm's entries may say.

    Raises:
        ConfigError: it is not a non-empty list of dicts, or an entry has an unknown key or a value that cannot be used.
    """
    if isinstance(config_list, Mapping):
        raise ConfigError("config_list is one dict, not a list of dicts; put it in a list: [{...}]")
    if not isinstance(config_list, list | tuple):
        raise ConfigError(f"config_list is a {type(config_list).__name__}, not a list of dicts such as "
                          f"[{kind.example}]")  # fmt: skip
    if not config_list:
        raise ConfigError("config_list is empty, so nothing would be compressed; give at least one entry such as "
                          f"{kind.example}")  # fmt: skip
    return tuple(_read_entry(at, entry, kind) for at, entry in enumerate(config_list))


def _read_entry(at: int, entry: Any, kind: type[Selector]) -> Selector:
    where = f"config_list[{at}]"
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where} is {entry!r} ({type(entry).__name__}), not a dict")
    for key in entry:
        if key not in kind.model_fields and key not in kind.words:
            near = get_close_matches(str(key), kind.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "remove it."
            if key in kind.foreign:
                hint = f"here {kind.foreign[key]!r} says it, or `import torchpare.compat.nni` reads NNI's words."
            raise ConfigError(
                f"{where}[{key!r}]: there is no such key; {hint} Keys are {', '.join(map(repr, kind.model_fields))}."
            )
    try:
        return kind.model_validate(dict(entry))
    except ValidationError as error:
        first = error.errors()[0]
        index = first.get("ctx", {}).get("at")
        path = "".join(f"[{key!r}]" for key in first["loc"]) + ("" if index is None else f"[{index}]")
        gap = "" if first["msg"].startswith("[") else " "  # what is wrong with a whole entry may begin with a key
        raise ConfigError(f"{where}{path}{gap}{first['msg']}") from None


def problem(message: str, at: int | None = None) -> PydanticCustomError:
    """What is wrong with a value, and the remedy; ``at`` is its place in a list."""
    # The message is passed as data: pydantic would read braces in it as places to fill.
    return PydanticCustomError("config", "{message}", {"message": message, "at": at})
