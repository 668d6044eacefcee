"""A pruned model as files, and a state back into it: ``model.pth``, ``mask.pth`` and ONNX."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.attach import attach_masks, detach, masks_of, plain_state_dict
from torchpare.attach.loading import masks_in
from torchpare.errors import ExportError
from torchpare.files.atomic import atomic_write
from torchpare.files.example import device_of, example_of
from torchpare.files.masks import save_masks
from torchpare.files.onnx import export_onnx
from torchpare.numerics.shards import refuse_sharded
from torchpare.pruning.groups import forget_first_forward, is_incomplete, try_to_complete
from torchpare.types import Masks

__all__ = ["export", "load_state"]

Target = str | os.PathLike[str]


def export(
    model: nn.Module,
    model_path: Target,
    mask_path: Target | None,
    onnx_path: Target | None,
    input_shape: Sequence[int] | None,
    device: torch.device | str | None,
    dummy_input: Any,
    masks: Masks,
) -> None:
    """Write the files of :meth:`torchpare.pruning.Pruner.export_model`; ``masks`` are those of a model without any."""
    refuse_sharded(model, "cannot be exported", ExportError)
    if not isinstance(model_path, str | os.PathLike):
        raise ExportError(f"model_path is a {type(model_path).__name__}; it is the path of the file to write")
    if input_shape is not None:
        dummy_input = example_of(model, input_shape, device)
    if onnx_path is not None and dummy_input is None:
        raise ExportError(
            f"onnx_path={os.fspath(onnx_path)!r} was given without input_shape, and a graph can only be recorded on an "
            "input: pass input_shape, such as [1, 3, 224, 224]"
        )
    if is_incomplete(model):
        if dummy_input is not None:
            try_to_complete(model, dummy_input)
        else:
            warnings.warn(
                "the masks that are exported cover the selected layers only, not the norms and consumers after them: "
                "call the model once before, or pass input_shape or the pruner's dummy_input",
                stacklevel=3,
            )
    if onnx_path is not None:  # first, since only this can fail: then no file is written
        baked = copy.deepcopy(model)
        forget_first_forward(baked)
        detach(baked, bake=True)
        baked.to(device or device_of(model)).eval()
        export_onnx(baked, onnx_path, dummy_input)
    with atomic_write(model_path) as lent:
        torch.save(plain_state_dict(model), lent)
    if mask_path is not None:
        save_masks(masks or masks_of(model), mask_path)


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a plain or a masked state into a model that may be masked; see ``Pruner.load_model_state_dict``."""
    attach_masks(model, masks_in(model, state))
    model.load_state_dict(state)
