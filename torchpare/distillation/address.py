"""Where a tensor is found: a layer, and what of its output; ``"encoder.layer.0.attention[1]"``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from torchpare.errors import ConfigError

__all__ = ["Address", "pick", "read_address"]

_ADDRESS = re.compile(r"([^\[\]]*)((?:\[\w+\])*)")


class Address(NamedTuple):
    """The path of a layer ("" is the model itself), and keys into what it returns."""

    layer: str
    keys: tuple[int | str, ...]

    def __str__(self) -> str:
        return self.layer + "".join(f"[{key}]" for key in self.keys)


def read_address(text: str) -> Address:
    """The address that a text names.

    Raises:
        ConfigError: it is not a name, with or without keys in brackets after it.
    """
    parts = _ADDRESS.fullmatch(text)
    if parts is None or not text:
        raise ConfigError(
            f"{text!r} names no layer; give a name such as 'layer1', and, for one of several tensors that it returns, "
            "its place: 'attention[1]'"
        )
    keys = re.findall(r"\[(\w+)\]", parts[2])
    return Address(parts[1], tuple(int(key) if key.isdigit() else key for key in keys))


def pick(output: Any, address: Address, whose: str) -> Tensor:
    """The tensor at an address, of what its layer returned.

    Raises:
        ConfigError: there is none; the message tells what there is.
    """
    found: Any = output
    for key in address.keys:
        inside: Any = found if isinstance(found, Mapping) else {}
        if isinstance(found, tuple | list):
            inside = dict(enumerate(found))
        if key in inside:
            found = inside[key]
        else:
            raise ConfigError(f"the {whose}'s '{address}': there is no [{key}] in {_told(found)}")
    tensor = found if isinstance(found, Tensor) else next(_inside(found), None)
    if tensor is None or not tensor.is_floating_point():
        raise ConfigError(
            f"the {whose}'s '{address}' gives {_told(found)}, and no numbers with a fraction that could be compared"
        )
    return tensor


def _inside(found: Any) -> Iterator[Tensor]:
    items: Iterable[Any] = ()
    if isinstance(found, Mapping):
        items = found.values()
    elif isinstance(found, tuple | list):
        items = found
    return (item for item in items if isinstance(item, Tensor))


def _told(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"{type(found).__name__} with the keys {', '.join(map(repr, found)) or 'none'}"
    if isinstance(found, tuple | list):
        return f"a {type(found).__name__} of {', '.join(type(item).__name__ for item in found) or 'nothing'}"
    if isinstance(found, Tensor):
        return f"a tensor of {found.dtype}"
    return f"{type(found).__name__}"
