"""Whole experts of a mixture behind a router, chosen by how little the router sends them.

A router scores all experts for each token and sends the token to the best ones. Without an expert, its tokens go to the
next best: that is another function, so nothing here is part of ``all``. What a mixture is compared with is itself with
the router's numbers (logits) for the experts that go set to minus infinity, so that none of them is ever chosen.

Experts are judged by their mean routing score on the example inputs, as in expert dropping of He et al., "Towards
Efficient Mixture of Experts: A Holistic Study of Compression Techniques", 2024: give real ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from torchpare.errors import CaptureError, ProofError, ShrinkError
from torchpare.files.dropped import STRUCTURE
from torchpare.files.experts import with_experts_dropped
from torchpare.layers.experts import Mixture, drop_experts, find_mixtures
from torchpare.speedup.proof import Outputs, largest_difference
from torchpare.speedup.runs import run_exact

__all__ = ["Routed", "can_run_without", "choose_experts", "find_routed", "without_experts"]

_CHOICES: Final = frozenset({"aten::topk", "aten::argmax", "aten::max.dim", "aten::sort", "aten::argsort"})
_PRODUCTS: Final = frozenset({"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::linear"})


_ADVICE: Final = "It is as it was; name other mixtures in op_names, or take experts_width, the width inside experts"


@dataclass(frozen=True)
class Routed:
    """A mixture that was seen to route.

    Attributes:
        mixture: its parts.
        least: how many experts must stay: as many as a token is sent to, or are looked at in each group.
        groups: of how many equal groups the experts are, where the router chooses groups first.
        scores: by expert, the mean routing score, in [0, 1].
    """

    mixture: Mixture
    least: int
    groups: int
    scores: tuple[float, ...]

    @property
    def path(self) -> str:
        """Of the module that holds router and experts."""
        return self.mixture.path


def find_routed(model: nn.Module, example_inputs: Any) -> list[Routed]:
    """Every mixture of a model whose router chooses among its experts when it runs.

    Args:
        model: only run. On the meta device there are no scores: all experts count alike.
        example_inputs: as for `torchpare.plan`.
    """
    mixtures = find_mixtures(model)
    if not mixtures:
        return []
    watcher = _Choices({mixture.path: mixture for mixture in mixtures})
    with watcher.following(model), watcher:
        run_exact(model, example_inputs)
    found = []
    for mixture in mixtures:
        seen = watcher.seen.get(mixture.path)
        if seen is not None and seen.size:
            found.append(Routed(mixture, max(seen.least, seen.groups * seen.in_group), seen.groups, seen.scores()))
    return found


def choose_experts(routed: Sequence[Routed], sparsity: Mapping[str, float]) -> dict[str, list[int]]:
    """By path of the experts, those that go: the asked share with the lowest scores, evenly from each group."""
    dropped = {}
    for mixture in routed:
        size = mixture.mixture.size // mixture.groups
        least = -(-mixture.least // mixture.groups)
        count = min(int(size * sparsity.get(mixture.path, 0.0) + 1e-6), size - max(least, 1))
        gone = []
        for start in range(0, mixture.mixture.size, size):
            # Ties go by position: the later one first.
            order = sorted(range(start, start + size), key=lambda at: (mixture.scores[at], -at))
            gone += order[: max(count, 0)]
        if gone:
            dropped[mixture.mixture.experts] = sorted(gone)
    return dropped


@contextmanager
def without_experts(
    model: nn.Module, routed: Sequence[Routed], dropped: Mapping[str, list[int]], example_inputs: Any, tolerance: float
) -> Iterator[None]:
    """Take experts out of a model and prove that it computes what it did while none of them was chosen.

    An exception in here or in the body puts them back.

    Args:
        model: changed in place.
        routed: all its mixtures that route.
        dropped: by path of the experts of a mixture, those that go; where none do, nothing happens.
        example_inputs: what to prove it on; None for no proof.
        tolerance: the largest allowed difference, relative to the output's range.

    Raises:
        ProofError: the model without the experts computes something else.
    """
    if not dropped:
        yield
        return
    mixtures = [item.mixture for item in routed]
    closed = [(mixture, dropped[mixture.experts]) for mixture in mixtures if mixture.experts in dropped]
    reference = None
    if example_inputs is not None:
        shut = _Shut(closed)
        with shut.following(model), shut:
            reference = run_exact(model, example_inputs, lent=_closed_biases(model, closed))
    done = drop_experts(model, mixtures, dropped)
    before = getattr(model, STRUCTURE, None)
    try:
        setattr(model, STRUCTURE, with_experts_dropped(before, done.lists, done.numbers, done.rows))
        if reference is not None:
            _check(model, example_inputs, reference, tolerance, dropped)
        yield
    except BaseException:
        done.put_back()
        if before is None:
            delattr(model, STRUCTURE)
        else:
            setattr(model, STRUCTURE, before)
        raise


@contextmanager
def can_run_without(dropped: Mapping[str, list[int]]) -> Iterator[None]:
    """Say of a failure of the model's own code that experts are missing.

    Raises:
        ShrinkError: the body raised a `CaptureError` while experts were out.
    """
    try:
        yield
    except CaptureError as error:
        if not dropped:
            raise
        raise ShrinkError(f"without the experts {_listed(dropped)} the model cannot run: {error}. {_ADVICE}") from error


def _check(
    model: nn.Module, inputs: Any, reference: Outputs, tolerance: float, dropped: Mapping[str, list[int]]
) -> None:
    difference = largest_difference(reference, run_exact(model, inputs))
    if not difference <= tolerance:
        message = (
            f"without the experts {_listed(dropped)} the model computes something else than with a router that never "
            f"chooses them: the outputs differ by {difference:.3g} of their range. {_ADVICE}"
        )
        raise ProofError(message)


def _listed(dropped: Mapping[str, list[int]]) -> str:
    return ", ".join(f"{path}.{at}" for path, gone in dropped.items() for at in gone)


def _closed_biases(model: nn.Module, closed: Sequence[tuple[Mixture, list[int]]]) -> dict[str, Tensor]:
    """Numbers that a router adds to its scores to choose by: minus infinity for what must not be chosen."""
    tensors = dict(model.named_buffers())
    lent = {}
    for mixture, gone in closed:
        for name, tensor in tensors.items():
            inside = name.startswith(f"{mixture.path}.") if mixture.path else True
            if (
                inside
                and "bias" in name.rpartition(".")[2]
                and tuple(tensor.shape) in {(mixture.size,), (1, mixture.size)}
            ):
                shut = tensor.detach().double().clone()
                shut[..., gone] = -torch.inf
                lent[name] = shut
    return lent


# -- watching a router -------------------------------------------------------------------------------------------------


class _Following(TorchDispatchMode):
    """Knows in which of several modules the model is."""

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__()
        self.paths, self.inside = paths, list[str]()

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """While this lasts, modules say when they are entered and left."""
        modules, handles = dict(model.named_modules()), []
        for path in self.paths:

            def enter(module: nn.Module, _args: Any, path: str = path) -> None:
                self.enter(module, path)

            def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
                self.leave()

            handles.append(modules[path].register_forward_pre_hook(enter))
            handles.append(modules[path].register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def enter(self, module: nn.Module, path: str) -> None:  # noqa: ARG002 - for those who look into it
        """Called when a module begins to run."""
        self.inside.append(path)

    def leave(self) -> None:
        """Called when it ends, in whatever way."""
        self.inside.pop()


@dataclass
class _Seen:
    """What a router was seen to choose from."""

    least: int = 1
    total: Tensor | None = None
    tokens: int = 0
    size: int = 0
    groups: int = 1
    in_group: int = 1

    def add(self, scores: Tensor, chosen: int) -> None:
        self.least, self.size = max(self.least, chosen), scores.shape[-1]
        if scores.is_meta:
            return
        rows = scores.detach().double().reshape(-1, self.size)
        if bool((rows < 0).any()) or bool((rows > 1).any()):
            rows = rows.softmax(-1)
        rows = rows.nan_to_num(0.0)
        self.total = rows.sum(0) + (0 if self.total is None else self.total)
        self.tokens += len(rows)

    def scores(self) -> tuple[float, ...]:
        if self.total is None:
            return (0.0,) * self.size
        return tuple((self.total / max(self.tokens, 1)).tolist())


class _Choices(_Following):
    """Notes from which scores a mixture chooses its experts, and how many for each token."""

    def __init__(self, mixtures: Mapping[str, Mixture]) -> None:
        super().__init__(list(mixtures))
        self.mixtures, self.seen = mixtures, dict[str, _Seen]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.inside and func.name() in _CHOICES and isinstance(args[0], Tensor) and args[0].is_floating_point():
            mixture, shape = self.mixtures[self.inside[-1]], args[0].shape
            chosen = int(args[1]) if func.name() == "aten::topk" else 1
            if shape[-1:] == (mixture.size,):
                self.seen.setdefault(mixture.path, _Seen()).add(args[0], chosen)
            elif len(shape) > 2 and shape[-2] * shape[-1] == mixture.size:  # the best of each group of experts
                seen = self.seen.setdefault(mixture.path, _Seen())
                seen.groups, seen.in_group = shape[-2], chosen
        return func(*args, **kwargs)


class _Shut(_Following):
    """Sets what routers say of some experts to minus infinity."""

    def __init__(self, closed: Sequence[tuple[Mixture, list[int]]]) -> None:
        super().__init__([mixture.path for mixture, _ in closed])
        self.closed = {mixture.path: (mixture, gone) for mixture, gone in closed}
        self._rows: dict[int, tuple[Tensor, int, list[int]]] = {}
        """By id, tensors that are the router's weight, turned or cast: kept alive, for an id is unique only so long."""

    def enter(self, module: nn.Module, path: str) -> None:
        super().enter(module, path)
        mixture, gone = self.closed[path]
        owner, _, name = mixture.router.removeprefix(f"{path}." if path else "").rpartition(".")
        weight = getattr(module.get_submodule(owner), name)  # the copy that is lent for a run
        self._rows[id(weight)] = (weight, mixture.size, gone)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        leaves = pytree.tree_leaves((args, kwargs))
        known = next((self._rows[id(leaf)] for leaf in leaves if id(leaf) in self._rows), None)
        if known is None or not isinstance(result, Tensor):
            return result
        _, size, gone = known
        if func.name() in _PRODUCTS:
            if result.shape[-1] == size:
                result[..., gone] = -torch.inf
        elif result.numel() == known[0].numel():
            self._rows[id(result)] = (result, size, gone)
        return result
