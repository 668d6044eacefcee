"""torchvision, also where its compiled operators do not fit the installed torch.

Such a torchvision fails to import, since it registers fake kernels for two operators that then do not exist. Declaring
these is enough for its classifiers; detectors call one of them, non-maximum suppression, which is written out here.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from torchpare.errors import MissingExtraError

__all__ = ["suppressed", "torchvision_models"]

_MISSING = ("nms", "qnms")
_KEPT: list[torch.library.Library] = []  # a Library that is collected takes its operators with it


@cache
def torchvision_models() -> ModuleType:
    """`torchvision.models`, importable and runnable even where torchvision's compiled operators are missing.

    Raises:
        MissingExtraError: torchvision is not installed.
    """
    try:
        import torchvision.models
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise MissingExtraError(
            "torchvision is not installed; it comes with: pip install 'torchpare[zoo]', or with --no-deps beside a "
            "torch of your own"
        ) from error
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for name in _MISSING:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl("nms", suppressed, "CPU")
        _KEPT.append(library)
        import torchvision.models
        import torchvision.ops.boxes

        # It asks for the whole compiled part before it calls the one operator that we have.
        torchvision.ops.boxes._assert_has_ops = lambda: None  # noqa: SLF001
    return torchvision.models


def suppressed(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """Non-maximum suppression: from the best box down, those that overlap no better kept one by more than `overlap`.

    Args:
        boxes: `(N, 4)`, each as left, top, right, bottom.
        scores: `(N,)`.
        overlap: intersection over union, from 0 to 1.

    Returns:
        The indices of the boxes that stay, the best first.
    """
    order = scores.argsort(descending=True, stable=True)
    corners = boxes[order]
    low = torch.maximum(corners[:, None, :2], corners[None, :, :2])
    high = torch.minimum(corners[:, None, 2:], corners[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = (corners[:, 2:] - corners[:, :2]).prod(-1)
    beaten = shared > overlap * (areas[:, None] + areas[None, :] - shared)
    stays = torch.ones(len(order), dtype=torch.bool)
    for index in range(len(order)):
        if stays[index]:
            stays[index + 1 :] &= ~beaten[index, index + 1 :]
    return order[stays]
