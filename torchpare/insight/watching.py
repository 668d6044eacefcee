"""Hooks that see what each layer returns, and keep statistics of it for each of its calls in a pass."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from torch import nn

from torchpare.config.layers import type_name
from torchpare.insight.layers import ChannelAxes, floats_of, leaves
from torchpare.insight.streams import ChannelEnds, Stream

__all__ = ["Seen", "Watch"]

_MOST_CALLS = 32
"""Calls of one layer in one pass that are told apart; what a loop calls more often is taken together with the last."""


class Seen(NamedTuple):
    """What one call of a layer returned, over all batches."""

    kind: str
    """The name of the layer's class."""
    stream: Stream
    ends: ChannelEnds


class Watch:
    """Hooks on the layers of a model, until it is removed.

    Attributes:
        seen: by layer and number of the call in a pass, in the order in which they were first called.
    """

    def __init__(self, model: nn.Module) -> None:
        self.seen: dict[tuple[str, int], Seen] = {}
        self._whole = f"({type_name(model)})"
        self._calls: dict[str, int] = {}
        self._axes = ChannelAxes()
        self._handles = [
            module.register_forward_hook(partial(self._see, name)) for name, module in leaves(model).items()
        ]

    def start(self) -> None:
        """A new pass begins."""
        self._calls, self._axes = {}, ChannelAxes()

    def remove(self) -> None:
        """Stop watching; what was seen stays."""
        while self._handles:
            self._handles.pop().remove()

    def named(self) -> dict[str, Seen]:
        """By the name of the layer; where it is called more often in a pass, with the number of the call."""
        repeated = {name for name, call in self.seen if call > 0}
        return {
            f"{name or self._whole}, call {call + 1}" if name in repeated else name or self._whole: seen
            for (name, call), seen in self.seen.items()
        }

    def _see(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        del inputs
        value = floats_of(output)
        if value is None:
            return
        call = min(self._calls.get(name, 0), _MOST_CALLS - 1)
        self._calls[name] = call + 1
        if (name, call) not in self.seen:
            self.seen[name, call] = Seen(type_name(module), Stream(), ChannelEnds())
        _, stream, ends = self.seen[name, call]
        stream.see(value)
        ends.see(value, self._axes.of(module, value))
