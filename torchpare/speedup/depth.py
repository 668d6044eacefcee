"""Depth: whole blocks of a stack, chosen by how little they change what passes through them.

A block of a residual network adds something to its input; where it adds little, the network does nearly the same
without it. Its *influence* is one minus the cosine between its input and its output, averaged over positions (Men et
al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", 2024, equation 1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.errors import CaptureError, ProofError, ShrinkError
from torchpare.files.dropped import STRUCTURE, with_dropped
from torchpare.graph.recorder import output_tensors
from torchpare.layers.blocks import drop_blocks
from torchpare.speedup.proof import largest_difference
from torchpare.speedup.runs import run_exact

__all__ = ["Stack", "bypassed", "choose_blocks", "find_stacks", "influence", "told_of_blocks", "without_blocks"]


@dataclass(frozen=True)
class Stack:
    """A stack of blocks that could go one by one.

    Attributes:
        path: of the ``nn.ModuleList`` or ``nn.Sequential``.
        size: how many blocks it has.
        influences: by index of a block whose output is shaped like its input, how much it changes.
    """

    path: str
    size: int
    influences: dict[int, float]


def influence(before: Tensor, after: Tensor) -> float:
    """One minus the mean cosine between what goes into a block and what comes out, in [0, 2].

    Args:
        before: ``(N, L, C)`` tokens, ``(N, C, H, W)`` maps, or anything with channels last.
        after: of the same shape.
    """
    axis = 1 if before.dim() >= 4 else -1
    cosine = F.cosine_similarity(before.double(), after.double(), dim=axis)
    return float(1 - cosine.mean())


def find_stacks(model: nn.Module, example_inputs: Any) -> list[Stack]:
    """Every stack of blocks from which some could go: run once each, shaped alike inside and out.

    Raises:
        CaptureError: the model cannot be run on the example inputs.
    """
    stacks = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > 1
    }
    calls: dict[tuple[str, int], list[float | None]] = {}
    handles = []
    for path, stack in stacks.items():
        for at, block in enumerate(stack):
            if not any(True for _ in block.children()) or not any(True for _ in block.parameters()):
                continue  # a layer is no block: without it, nothing passes

            def note(
                _module: nn.Module, args: Any, kwargs: Any, output: Any, key: tuple[str, int] = (path, at)
            ) -> None:
                calls.setdefault(key, []).append(_influence_of(args, kwargs, output))

            handles.append(block.register_forward_hook(note, with_kwargs=True))
    try:
        run_exact(model, example_inputs)
    except Exception as error:
        message = f"could not run {type(model).__name__} on the example inputs: {type(error).__name__}: {error}"
        raise CaptureError(message) from error
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for path, stack in stacks.items():
        alike = Counter(_signature(block) for block in stack)
        twins = {at for at, block in enumerate(stack) if alike[_signature(block)] > 1}
        own = {at: seen[0] for (name, at), seen in calls.items() if name == path and len(seen) == 1}
        able = {at: value for at, value in own.items() if value is not None and at in twins}
        if able:
            found.append(Stack(path, len(stack), able))
    return found


def _signature(block: nn.Module) -> tuple[object, ...]:
    """What blocks that can stand for each other have in common: class, and names and shapes of parameters."""
    return (type(block), *((name, tuple(parameter.shape)) for name, parameter in block.named_parameters()))


def _influence_of(args: Any, kwargs: Any, output: Any) -> float | None:
    before = next(output_tensors((args, kwargs)), None)
    after = next(output_tensors(output), None)
    if before is None or after is None or before.shape != after.shape or not before.is_floating_point():
        return None
    return 0.0 if before.is_meta else influence(before, after)


def choose_blocks(stacks: Sequence[Stack], sparsity: dict[str, float]) -> dict[str, list[int]]:
    """By path of a stack, the blocks of least influence: the asked share of those that could go, and never all."""
    dropped = {}
    for stack in stacks:
        share = int(len(stack.influences) * sparsity.get(stack.path, 0.0) + 1e-6)
        order = sorted(stack.influences, key=lambda at: (stack.influences[at], at))
        count = min(share, stack.size - 1)
        if count:
            dropped[stack.path] = sorted(order[:count])
    return dropped


@contextmanager
def bypassed(model: nn.Module, dropped: dict[str, list[int]]) -> Iterator[None]:
    """While this lasts, the blocks that would go hand their input on: what the model computes without them."""
    modules = dict(model.named_modules(remove_duplicate=False))
    handles = []

    def hand_on(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        before = next(output_tensors((args, kwargs)))
        if isinstance(output, Tensor):
            return before
        if isinstance(output, (tuple, list)):
            return type(output)([before, *output[1:]])
        return output

    for path, indices in dropped.items():
        for at in indices:
            block = list(modules[path]._modules.values())[at]  # noqa: SLF001 - a block may stand there twice
            assert block is not None
            handles.append(block.register_forward_hook(hand_on, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def without_blocks(
    model: nn.Module, dropped: dict[str, list[int]], example_inputs: Any, tolerance: float
) -> Iterator[None]:
    """Take blocks out of a model and prove that it computes what it did while they were bypassed.

    An exception in here or in the body puts them back.

    Args:
        model: changed in place.
        dropped: by path of a stack, the blocks that go; where none do, nothing happens.
        example_inputs: what to prove it on; None for no proof.
        tolerance: the largest allowed difference, relative to the output's range.

    Raises:
        ProofError: the model without the blocks computes something else.
    """
    if not dropped:
        yield
        return
    reference = None
    if example_inputs is not None:
        with bypassed(model, dropped):
            reference = run_exact(model, example_inputs)
    put_back = drop_blocks(model, dropped)
    before = getattr(model, STRUCTURE, None)
    try:
        setattr(model, STRUCTURE, with_dropped(before, dropped))
        if reference is not None:
            _check(largest_difference(reference, run_exact(model, example_inputs)), tolerance, dropped)
        yield
    except BaseException:
        put_back()
        if before is None:
            delattr(model, STRUCTURE)
        else:
            setattr(model, STRUCTURE, before)
        raise


def _check(difference: float, tolerance: float, dropped: dict[str, list[int]]) -> None:
    if not difference <= tolerance:
        message = (
            f"without {_listed(dropped)} the model computes something else than with these blocks bypassed: the "
            f"outputs differ by {difference:.3g} of their range. It is as it was; name other stacks in op_names"
        )
        raise ProofError(message)


def _listed(dropped: dict[str, list[int]]) -> str:
    return ", ".join(f"{path}.{at}" for path, indices in dropped.items() for at in indices)


@contextmanager
def told_of_blocks(dropped: Mapping[str, Collection[int]], model: nn.Module) -> Iterator[None]:
    """Where a model cannot run without the blocks that would go, say so, and where its code asks for them."""
    try:
        yield
    except CaptureError as error:
        if not any(dropped.values()):
            raise
        cause: BaseException = error.__cause__ or error
        own = [frame for frame in extract_tb(cause.__traceback__) if not frame.filename.startswith(_elsewhere())]
        line = f" in {Path(own[-1].filename).name}:{own[-1].lineno}: {own[-1].line}" if own else ""
        going = "; ".join(f"{list(blocks)} of {path!r}" for path, blocks in dropped.items() if blocks)
        raise ShrinkError(
            f"{type(model).__name__} cannot run without the blocks that would go ({going}): {type(cause).__name__}: "
            f"{cause}{line}. It is as it was. Where the code asks for blocks by number, as many have to stay: "
            "leave the structure 'layers' out for them, or exclude them by name"
        ) from cause


def _elsewhere() -> tuple[str, ...]:
    """Where code lies that is not the user's."""
    return str(Path(torch.__file__).parent), str(Path(__file__).parent.parent)
