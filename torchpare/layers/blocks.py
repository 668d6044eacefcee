"""Taking whole blocks out of a stack of layers, with every number that counts them; and putting them back.

A stack is an ``nn.ModuleList`` or ``nn.Sequential`` (of experts, an ``nn.ModuleDict`` too). After a block that goes,
the others move up: their names change, and so do the indices that blocks remember of themselves (``layer_idx``) and the
numbers and lists by which the model or its settings count them (``config.num_hidden_layers``, ``config.layer_types``).
"""

# ruff: noqa: SLF001 - children are replaced where nn.Module keeps them

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from torchpare.layers.settings import is_settings
from torchpare.layers.settings_edits import replace_settings

__all__ = ["drop_blocks"]

_COUNT = re.compile(
    r"^(num|n)_?(hidden_|encoder_|decoder_|transformer_)?(layers?|blocks?)$|^(encoder_|decoder_)layers$|^depth$"
)
_INDEX = re.compile(r"^(layer|block)_?(idx|index|id|number)$|^(idx|index)$")
_PER_LAYER = re.compile(r"(layer|block|attention)")


def drop_blocks(model: nn.Module, dropped: Mapping[str, Sequence[int]]) -> Callable[[], None]:
    """Take blocks out of a model, in place.

    Args:
        model: what to change.
        dropped: by path of a stack, the indices of the blocks that go.

    Returns:
        the way back: a function that puts everything as it was.

    Raises:
        KeyError: there is no such stack.
        IndexError: it has no such block, or none would be left.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    undo: list[Callable[[], None]] = []
    for path, indices in dropped.items():
        stack, count = modules[path], len(modules[path]._modules)
        if not isinstance(stack, (nn.ModuleList, nn.ModuleDict, nn.Sequential)):
            raise KeyError(path)
        gone = set(indices)
        if not gone <= set(range(count)) or len(gone) >= count:
            message = f"{path!r} has {count} blocks; {sorted(gone)} cannot go"
            raise IndexError(message)
        before = dict(stack._modules)
        blocks = [block for at, block in enumerate(before.values()) if at not in gone]
        undo.append(lambda stack=stack, before=before: _refill(stack._modules, before))
        _renumber(before, gone, undo)
        _recount(model, path, count, gone, undo)
        _refill(stack._modules, dict(zip(_keys(stack, before), blocks, strict=False)))

    def put_back() -> None:
        for step in reversed(undo):
            step()

    return put_back


def _keys(stack: nn.Module, before: Mapping[str, Any]) -> list[str]:
    """The first names of a dict of modules; numbers for other stacks."""
    return list(before) if isinstance(stack, nn.ModuleDict) else [str(at) for at in range(len(before))]


def _refill(mapping: dict[Any, Any], content: Mapping[Any, Any]) -> None:
    mapping.clear()
    mapping.update(content)


def _renumber(blocks: Mapping[str, nn.Module | None], gone: set[int], undo: list[Callable[[], None]]) -> None:
    """The indices by which blocks, and modules inside them, know their place."""
    place = 0
    for at, block in enumerate(blocks.values()):
        if at in gone or block is None:
            continue
        for module in block.modules():
            for name, value in list(vars(module).items()):
                if type(value) is int and value == at and _INDEX.match(name):
                    _set(vars(module), name, place, undo)
        place += 1


def _recount(model: nn.Module, path: str, count: int, gone: set[int], undo: list[Callable[[], None]]) -> None:
    """The numbers and lists by which modules above the stack, and settings, count its blocks."""
    above = [
        module for name, module in model.named_modules() if path == name or path.startswith(f"{name}." if name else "")
    ]
    for module in above:
        for name, value in list(vars(module).items()):
            new = _new_count(path, name, value, vars(module), count, gone)
            if new is not None:
                _set(vars(module), name, new, undo)
    settings: dict[int, Any] = {}
    for module in above:
        for value in vars(module).values():
            if is_settings(value):
                settings[id(value)] = value
    copies: dict[int, Any] = {}
    for identity, value in settings.items():
        edits = {name: _new_count(path, name, own, vars(value), count, gone) for name, own in vars(value).items()}
        edits = {name: new for name, new in edits.items() if new is not None}
        if edits:
            copies[identity] = copy.copy(value)
            vars(copies[identity]).update(edits)
    for module, name, value in replace_settings(model, copies):
        _set(vars(module), name, value, undo)


def _new_count(path: str, name: str, value: Any, beside: Mapping[str, Any], count: int, gone: set[int]) -> Any:
    """What a number or a list that counts the blocks becomes; None for what does not, or counts another stack's."""
    for side in ("encoder", "decoder"):
        own = any(side in other and _COUNT.match(other) for other in beside)
        if (side in name and side not in path) or (side in path and side not in name and own):
            return None
    if type(value) is int and value == count and _COUNT.match(name):
        return count - len(gone)
    if type(value) is list and len(value) == count and _PER_LAYER.search(name):
        return [item for at, item in enumerate(value) if at not in gone]
    return None


def _set(namespace: dict[str, Any], name: str, value: Any, undo: list[Callable[[], None]]) -> None:
    before = namespace[name]
    undo.append(lambda: namespace.__setitem__(name, before))
    namespace[name] = value
