"""Mixtures of experts behind a router: finding them in a model, and taking whole experts out.

A mixture is told by its build, not by its class: some module holds a router (a weight with one row for each expert) and
the experts themselves, either as a list (``nn.ModuleList``, ``nn.ModuleDict``) of modules that are all alike or as
parameters of three axes, the first of which counts them.
"""

# ruff: noqa: SLF001 - parameters and children are replaced where nn.Module keeps them

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.layers.parameters import renewed
from torchpare.layers.settings import is_settings
from torchpare.layers.settings_edits import replace_settings

__all__ = ["Dropping", "Mixture", "drop_experts", "find_mixtures"]

_COUNT = re.compile(r"^(num|n|moe_num)_?(local_|routed_)?experts$")
_ROUTER = re.compile(r"gate|router|routing|switch|wg")
_LEVELS = 2  # how far above the experts their router may lie


@dataclass(frozen=True)
class Mixture:
    """A router and its experts.

    Attributes:
        path: of the module that holds both.
        size: how many experts there are.
        router: the router's weight by qualified name, of shape (experts, width).
        experts: path of the list of experts, or of the module whose parameters stack them.
    """

    path: str
    size: int
    router: str
    experts: str


@dataclass
class Dropping:
    """What was changed, and the way back.

    Attributes:
        numbers: by path of a module, its numbers (those of its settings with a dot) and what they became.
        lists: by path of a list of experts, those that left it.
        rows: by qualified name of a tensor, the rows that stayed.
    """

    numbers: dict[str, dict[str, int]] = field(default_factory=dict)
    lists: dict[str, list[int]] = field(default_factory=dict)
    rows: dict[str, list[int]] = field(default_factory=dict)
    undo: list[Callable[[], None]] = field(default_factory=list, repr=False)

    def put_back(self) -> None:
        """Make the model what it was."""
        while self.undo:
            self.undo.pop()()

    def set(self, namespace: dict[str, Any], name: str, value: Any) -> None:
        """Set an entry of a dict, such that it can be put back."""
        before = namespace[name]
        self.undo.append(lambda: namespace.__setitem__(name, before))
        namespace[name] = value


def find_mixtures(model: nn.Module) -> list[Mixture]:
    """Whatever is built like a router with experts; whether it routes shows only when it runs."""
    modules = dict(model.named_modules())
    listed = {path: size for path, module in modules.items() if (size := _listed(module))}
    stacked = {path: size for path, module in modules.items() if (size := _stacked(module))}
    found = []
    for experts, size in {**listed, **stacked}.items():
        for path in _above(experts)[: _LEVELS + 1]:
            router = _router(modules[path], path, experts, size)
            if router is not None:
                found.append(Mixture(path, size, router, experts))
                break
    return found


def drop_experts(model: nn.Module, mixtures: Sequence[Mixture], dropped: Mapping[str, Sequence[int]]) -> Dropping:
    """Take experts out of a model, in place, with the rows of the router and every number that counts them.

    Args:
        model: what to change.
        mixtures: all those of the model, see `find_mixtures`.
        dropped: by path of the experts of a mixture, the indices of those that go.

    Raises:
        IndexError: a mixture has no such expert, or none would be left.
    """
    done = Dropping()
    left: dict[int, set[int]] = {}
    for mixture in mixtures:
        gone = set(dropped.get(mixture.experts, ()))
        kept = [at for at in range(mixture.size) if at not in gone]
        left.setdefault(mixture.size, set()).add(len(kept))
        if not kept or not gone <= set(range(mixture.size)):
            done.put_back()
            message = f"{mixture.experts!r} has {mixture.size} experts; {sorted(gone)} cannot go"
            raise IndexError(message)
        if gone:
            _cut(model, mixture, kept, done)
    counts = {size: next(iter(kept)) for size, kept in left.items() if len(kept) == 1 and size not in kept}
    _recount_settings(model, counts, done)
    return done


# -- finding -----------------------------------------------------------------------------------------------------------


def _inside(path: str, other: str) -> bool:
    return path.startswith(f"{other}.") if other else bool(path)


def _above(path: str) -> list[str]:
    """The paths of the modules around a module, the innermost first."""
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(len(parts) - 1, -1, -1)]


def _listed(module: nn.Module) -> int:
    """How many modules a list has, all of them alike and with weights; 0 for anything else."""
    if not isinstance(module, (nn.ModuleList, nn.ModuleDict)) or len(module) < 2:
        return 0
    builds = {
        (type(expert), *((name, tuple(parameter.shape)) for name, parameter in expert.named_parameters()))
        for expert in module.children()
    }
    return len(module) if len(builds) == 1 and len(next(iter(builds))) > 1 else 0


def _stacked(module: nn.Module) -> int:
    """The common first size of a module's own parameters with three axes; 0 where there are no two of them."""
    sizes = [len(own) for own in module._parameters.values() if own is not None and own.dim() == 3]
    return sizes[0] if len(sizes) > 1 and len(set(sizes)) == 1 and sizes[0] > 1 else 0


def _router(module: nn.Module, path: str, experts: str, size: int) -> str | None:
    """The weight with a row for each expert; of several the one whose name says so."""
    names = []
    for name, parameter in module.named_parameters():
        full = f"{path}.{name}" if path else name
        if parameter.dim() == 2 and len(parameter) == size and not _inside(full, experts):
            names.append(full)
    names.sort(key=lambda name: not _ROUTER.search(name.removeprefix(path)))
    return next(iter(names), None)


# -- cutting -----------------------------------------------------------------------------------------------------------


def _cut(model: nn.Module, mixture: Mixture, kept: list[int], done: Dropping) -> None:
    modules = dict(model.named_modules())
    experts, router = modules[mixture.experts], mixture.router.rpartition(".")[0]
    if isinstance(experts, (nn.ModuleList, nn.ModuleDict)):
        before = dict(experts._modules)
        done.undo.append(lambda: _refill(experts._modules, before))
        children = list(before.values())
        _refill(experts._modules, {key: children[at] for key, at in zip(before, kept, strict=False)})
        done.lists[mixture.experts] = [at for at in range(mixture.size) if at not in kept]
    for path, module in _members(modules, mixture):
        whole = path in (mixture.experts, router)
        for registry in (module._parameters, module._buffers):
            for name, tensor in list(registry.items()):
                if tensor is not None and _counts(tensor, mixture.size, whole=whole):
                    done.set(registry, name, _rows(tensor, kept))
                    done.rows[f"{path}.{name}" if path else name] = kept
        for name, value in list(vars(module).items()):
            of_linear = name == "out_features" and path == router
            if type(value) is int and value == mixture.size and (_COUNT.match(name) or of_linear):
                done.set(vars(module), name, len(kept))
                done.numbers.setdefault(path, {})[name] = len(kept)


def _members(modules: Mapping[str, nn.Module], mixture: Mixture) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a mixture, without what lies inside the experts."""
    for path, module in modules.items():
        within = path == mixture.path or _inside(path, mixture.path)
        if within and not _inside(path, mixture.experts):
            yield path, module


def _counts(tensor: Tensor, size: int, *, whole: bool) -> bool:
    """Whether a tensor has an entry for each expert: along its first axis, or as a vector beside the router."""
    if tensor.dim() == 0:
        return False
    return len(tensor) == size if whole else tuple(tensor.shape) in {(size,), (1, size)}


def _rows(tensor: Tensor, kept: list[int]) -> Tensor:
    axis = 0 if len(tensor) > 1 else tensor.dim() - 1
    small = tensor.detach().index_select(axis, torch.tensor(kept, device=tensor.device))
    if not isinstance(tensor, nn.Parameter):
        return small
    return renewed(tensor, small, lambda grad: _rows(grad, kept))


def _recount_settings(model: nn.Module, counts: Mapping[int, int], done: Dropping) -> None:
    """The numbers in settings, which speak for all mixtures of a size at once."""
    copies: dict[int, Any] = {}
    for path, module in model.named_modules() if counts else ():
        for key, value in vars(module).items():
            if not is_settings(value):
                continue
            edits = {
                name: counts[own]
                for name, own in vars(value).items()
                if type(own) is int and own in counts and _COUNT.match(name)
            }
            if edits and id(value) not in copies:
                copies[id(value)] = copy.copy(value)
                vars(copies[id(value)]).update(edits)
                done.numbers.setdefault(path, {}).update({f"{key}.{name}": new for name, new in edits.items()})
    for module, name, value in replace_settings(model, copies):
        done.set(vars(module), name, value)


def _refill(mapping: dict[Any, Any], content: Mapping[Any, Any]) -> None:
    mapping.clear()
    mapping.update(content)
