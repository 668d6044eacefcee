"""A layer's weights and a criterion become the scores of its units, or an error that names the layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from torchpare.attach.reading import in_use
from torchpare.config import Target
from torchpare.errors import MaskError
from torchpare.numerics import Unit

__all__ = ["scores_of"]


@torch.no_grad()
def scores_of(
    algorithm: str,
    target: Target,
    unit: Unit,
    structured: bool,
    criterion: Callable[[Target, Tensor], Tensor],
    mask: Tensor | None,
    others: Iterable[Target],
) -> Tensor:
    """The scores of a layer's units; what is gone already goes first, so that pruning further only removes more.

    Args:
        algorithm: the pruner's name, for messages.
        target: the layer.
        unit: what goes of it as a whole.
        structured: whether filters go, or weights.
        criterion: ``(target, folded weight) -> scores``, as `Pruner.score_of`.
        mask: of the weight, if it has one.
        others: the layers that a score may come from, to name the one that is spoilt.

    Raises:
        MaskError: the weight or the scores hold NaN or infinities, or are of another shape.
    """
    weight = in_use(target.module, "weight")
    folded = unit.fold(weight.detach())
    if not _finite(folded):
        raise _unrankable(algorithm, target)
    scores = criterion(target, folded)
    expected = folded.shape[:1] if structured else folded.shape
    if scores.shape != expected:
        raise MaskError(
            f"{algorithm}.score gave scores of shape {tuple(scores.shape)} for {target.name}, whose "
            f"{'filters' if structured else 'weights'} are {tuple(expected)}: return one score for each"
        )
    if not _finite(scores):  # which may come from another layer's weights, by what it passes on
        raise _unrankable(algorithm, next((other for other in others if _is_spoilt(other)), target))
    scores = unit.gather(scores)
    return scores if mask is None else scores.masked_fill(~unit.kept(mask, weight), -torch.inf)


def _unrankable(algorithm: str, target: Target) -> MaskError:
    return MaskError(
        f"{target.name}.weight holds NaN or infinite values, or gives such scores, so {algorithm} cannot rank them: "
        "repair the checkpoint, or exclude the layer"
    )


def _finite(tensor: Tensor) -> bool:
    return not tensor.numel() or all(bool(bound.isfinite()) for bound in tensor.aminmax())  # NaN is both


def _is_spoilt(target: Target) -> bool:
    return not _finite(in_use(target.module, "weight").detach())
