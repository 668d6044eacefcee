"""Which layers an entry of NNI 3 reaches: names and patterns of names, of these types, less what is excluded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from torchpare.compat.nni.changes import tell
from torchpare.config import plain_class, type_name
from torchpare.errors import CompatError, ConfigError

__all__ = ["DependencyGroup", "auto_set_denpendency_group_ids", "said_once", "selected"]

_WHERE = ("op_names", "op_types", "op_names_re", "exclude_op_names", "exclude_op_types", "exclude_op_names_re")


class DependencyGroup:
    """That layers choose their channels together where they can only lose them together.

    Args:
        dummy_input: an example input, by which such layers are found.
    """

    def __init__(self, dummy_input: Any) -> None:
        self.dummy_input = dummy_input


def auto_set_denpendency_group_ids(  # its name in NNI
    model: nn.Module, config_list: Sequence[Mapping[str, Any]], dummy_input: Any = None
) -> list[dict[str, Any]]:
    """The ``config_list`` with ``dependency_group_id`` in each entry.

    Args:
        model: whose layers depend on each other; not needed yet.
        config_list: of NNI 3.
        dummy_input: an example input of the model, by which dependencies are found when the pruner begins.

    Raises:
        ConfigError: there is no example input.
    """
    del model
    if dummy_input is None:
        raise ConfigError("auto_set_denpendency_group_ids: give dummy_input, an example input of the model, by which "
                          "the layers that share channels are found")  # fmt: skip
    return [{**entry, "dependency_group_id": DependencyGroup(dummy_input)} for entry in config_list]


def selected(
    model: nn.Module, entry: Mapping[str, Any], where: str, default: Sequence[type[nn.Module]]
) -> tuple[list[str], dict[str, Any]]:
    """The names that an entry reaches, and what else it says.

    Args:
        model: only read.
        entry: of NNI 3.
        where: its place in the ``config_list``, for messages.
        default: what ``"default"`` stands for among the types.

    Raises:
        ConfigError: a pattern is none, a name or type is not in the model, or nothing is reached.
    """
    given = {key: _listed(entry[key], f"{where}[{key!r}]") for key in _WHERE if entry.get(key)}
    layers = {name: module for name, module in model.named_modules() if name}
    names = _names(layers, given, "op_names", where)
    types = given.get("op_types")
    if "op_names" not in given and "op_names_re" not in given:
        names = set(layers) if types else set()
    if types:
        names = {name for name in names if _is_of(layers[name], types, default)}
    left_out = _names(layers, given, "exclude_op_names", where)
    kinds = given.get("exclude_op_types", [])
    reached = [name for name in layers
               if name in names and name not in left_out and not _is_of(layers[name], kinds, default)]  # fmt: skip
    if not reached:
        asked = ", ".join(f"{key}={value}" for key, value in given.items()) or "no op_names, op_names_re or op_types"
        raise ConfigError(f"{where} reaches no layer of {type_name(model)}: it says {asked}")
    return reached, {key: value for key, value in entry.items() if key not in _WHERE}


def said_once(reached: Sequence[Sequence[str]]) -> None:
    """Tell that the last entry wins, where several reach one layer."""
    every = [name for names in reached for name in names]
    if len(every) != len(set(every)):
        tell("first_wins")


def refused(entry: Mapping[str, Any], where: str, known: Mapping[str, str]) -> None:
    """Refuse keys that have no counterpart.

    Args:
        entry: what is left of one.
        where: its place, for the message.
        known: keys without counterpart, and what to do instead.

    Raises:
        CompatError: there is one.
    """
    for key, instead in known.items():
        if entry.get(key) is not None:
            raise CompatError(f"{where}[{key!r}] has no counterpart in torchpare; instead: {instead}")


def _names(layers: Mapping[str, nn.Module], given: Mapping[str, list[str]], key: str, where: str) -> set[str]:
    """The layers whose names are listed, or match a pattern."""
    found = set()
    for at, name in enumerate(given.get(key, [])):
        if name not in layers:
            raise ConfigError(f"{where}[{key!r}][{at}]: {name!r} names no layer of the model")
        found.add(name)
    for at, pattern in enumerate(given.get(f"{key}_re", [])):
        try:
            found |= {name for name in layers if re.match(pattern, name)}
        except re.error as error:
            raise ConfigError(f"{where}['{key}_re'][{at}]: {pattern!r} is no pattern: {error}") from None
    return found


def _is_of(module: nn.Module, types: Sequence[str], default: Sequence[type[nn.Module]]) -> bool:
    return type_name(module) in types or ("default" in types and plain_class(module) in default)


def _listed(value: Any, where: str) -> list[str]:
    if isinstance(value, str) or not isinstance(value, list | tuple | set):
        raise ConfigError(f"{where} is {value!r}; give a list of text")
    return list(value)
