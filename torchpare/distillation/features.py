"""Seeing what layers return while a model runs, by torch's own hooks."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchpare.distillation.address import Address, pick
from torchpare.errors import ConfigError
from torchpare.graph.recorder import output_tensors

__all__ = ["Feature", "Watch", "plain_model"]


class Feature(NamedTuple):
    """A tensor that a layer returned."""

    tensor: Tensor
    number: int
    """How many tensors the layer had returned before it, in this and in earlier calls within the run."""


class Watch:
    """Keeps what some layers return in the latest run of a model, and not what recomputing for a gradient returns.

    Copies and pickles of the model are free of it.

    Args:
        model: gets forward hooks, until `remove`.
        layers: their paths; "" is the model itself.
        whose: "student" or "teacher", for messages.

    Raises:
        ConfigError: the model has no such layer.
    """

    def __init__(self, model: nn.Module, layers: Iterable[str], whose: str) -> None:
        self.whose = whose
        modules = dict(model.named_modules(remove_duplicate=False))
        paths = list(dict.fromkeys(layers))
        for path in paths:
            if path not in modules:
                near = get_close_matches(path, modules, n=3)
                hint = f"the nearest are {', '.join(map(repr, near))}" if near else f"it is a {type(model).__name__}"
                raise ConfigError(f"the {whose} has no layer {path!r}; {hint}")
        self._names = {id(modules[path]): path for path in paths}  # a layer with two names is seen under both
        self._aliases = {path: self._names[id(modules[path])] for path in paths}
        self._running = self._whole = False
        self._seen: dict[str, list[Any]] = {}
        self._grads: dict[str, bool] = {}
        self._handles = [model.register_forward_pre_hook(_Hook(self._begin))]
        for path in dict.fromkeys(self._aliases.values()):
            self._handles.append(modules[path].register_forward_hook(_Hook(self._keep, path)))
        self._handles.append(model.register_forward_hook(_Hook(self._end)))

    def remove(self) -> None:
        """Take the hooks off, and forget."""
        while self._handles:
            self._handles.pop().remove()
        self._seen = {}

    def take(self) -> Features:
        """What was returned in the latest run, which is forgotten here."""
        seen, self._seen = self._seen, {}
        return Features(self.whose, seen, self._aliases, dict(self._grads))

    def _begin(self) -> None:
        self._seen, self._grads, self._running = {}, {}, True
        self._whole = torch.is_grad_enabled()

    def _keep(self, path: str, output: Any) -> None:
        if self._running:
            self._seen.setdefault(path, []).append(output)
            self._grads[path] = self._whole and not torch.is_grad_enabled()

    def _end(self) -> None:
        self._running = False


class Features:
    """What layers returned in one run."""

    def __init__(self, whose: str, seen: dict[str, list[Any]], aliases: dict[str, str], grads: dict[str, bool]) -> None:
        self.whose, self._seen, self._aliases, self._grads = whose, seen, aliases, grads

    def at(self, address: Address) -> list[Feature]:
        """The tensor at an address, for each call of its layer within the run.

        Raises:
            ConfigError: the layer did not run, ran where no gradient can reach it, or returned no such tensor.
        """
        path = self._aliases[address.layer]
        if path not in self._seen:
            raise ConfigError(
                f"the {self.whose}'s layer '{address.layer}' has not run since the distiller looked last: run the "
                "student before each call of the distiller. A layer that is never called itself (a list that is only "
                "looped over) cannot be compared"
            )
        found, before = [], 0
        for output in self._seen[path]:
            tensor = pick(output, address, self.whose)
            tensors = list(output_tensors(output))
            place = next(at for at, other in enumerate(tensors) if other is tensor)
            found.append(Feature(tensor, before + place))
            before += len(tensors)
        return found

    def without_gradient(self, address: Address) -> bool:
        """Whether the layer ran with gradients switched off, inside a model that ran with them."""
        return self._grads[self._aliases[address.layer]]


class _Hook:
    """A hook that copies and pickles of its module do not have: there, it does nothing."""

    def __init__(self, does: Any, path: str | None = None) -> None:
        self.does, self.path = does, path

    def __call__(self, _module: nn.Module, _args: Any, output: Any = None) -> None:
        if self.path is None:
            self.does()
        else:
            self.does(self.path, output)

    def __reduce__(self) -> Any:
        return _hook_of_a_copy, ()


def _hook_of_a_copy() -> Any:
    return _does_nothing


def _does_nothing(*_: Any) -> None:
    """What is left of a hook in a copy."""


def plain_model(model: nn.Module) -> nn.Module:
    """The model itself, out of what DistributedDataParallel, DataParallel and torch.compile put around it."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif isinstance(model, torch._dynamo.OptimizedModule):  # noqa: SLF001 - what torch.compile returns
            model = model._orig_mod  # noqa: SLF001 - the one name it has
        else:
            return model
