"""Masks of whole groups: what is fine-tuned is what is shipped.

A filter that goes takes more with it than its own weights: the scale and shift of the norm after it, and the inputs of
whoever reads its channel. Masked in the convolution alone it would still send the norm's shift onwards, the model would
learn to use that constant, and shrinking would take it away. So filter masks are completed over their groups before the
model learns anything: in ``compress()`` where there is an example input, otherwise with the first batch that arrives.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from torchpare.attach import attach_masks, masks_of
from torchpare.errors import CaptureError
from torchpare.graph import PruningSpace, analyse, group_masks
from torchpare.numerics.shards import whole
from torchpare.types import Masks

__all__ = [
    "complete_masks",
    "complete_on_first_forward",
    "forget_first_forward",
    "is_incomplete",
    "named_arguments",
    "try_to_complete",
]

log = logging.getLogger(__name__)


def complete_masks(space: PruningSpace, masks: Masks, model: nn.Module) -> Masks:
    """The masks, completed over the groups of what will leave the model; what has to stay after all is logged."""
    weights = {name: whole(weight) for name, weight in model.named_parameters(remove_duplicate=False)}
    removal = space.decide(masks, weights=weights)
    for item in removal.restored:
        log.info("%d channels of %s stay: %s", item.channels, ", ".join(item.layers), item.why)
    return group_masks(removal, masks, unmask_returned=True)


def complete_on_first_forward(model: nn.Module) -> None:
    """Complete the model's masks with the first batch it is called on, before it computes anything with it."""
    if not is_incomplete(model):
        model.register_forward_pre_hook(_FirstForward(), with_kwargs=True)  # type: ignore[arg-type] - it returns None


def is_incomplete(model: nn.Module) -> bool:
    """Whether the masks cover the selected layers only, and wait for a first batch to cover their groups."""
    return any(isinstance(hook, _FirstForward) for hook in model._forward_pre_hooks.values())  # noqa: SLF001


def forget_first_forward(model: nn.Module) -> bool:
    """Stop waiting for a first batch; returns whether the model was waiting."""
    waiting = [key for key, hook in model._forward_pre_hooks.items() if isinstance(hook, _FirstForward)]  # noqa: SLF001
    for key in waiting:
        del model._forward_pre_hooks[key]  # noqa: SLF001 - a copied model has the hooks, but not their handles
        model._forward_pre_hooks_with_kwargs.pop(key, None)  # noqa: SLF001
    return bool(waiting)


def try_to_complete(
    model: nn.Module, dummy_input: Any, keywords: dict[str, Any] | None = None, *, warn: bool = True
) -> bool:
    """Complete the model's masks over their groups, or warn why that was not possible and leave them as they are.

    Args:
        model: a masked model.
        dummy_input: as for ``analyse``; or, with ``keywords``, the tuple of positional arguments beside them.
        keywords: the keyword arguments of a call.
        warn: False keeps a failure to itself.

    Returns:
        whether the masks are complete now.
    """
    # Called from a user's forward pass, whose modes must not leak into masks that training will read.
    with torch.inference_mode(False), torch.no_grad():
        try:
            example = named_arguments(model, dummy_input, keywords) if keywords else dummy_input
            attach_masks(model, complete_masks(analyse(model, example), masks_of(model), model))
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the user's own forward pass must go on
            message = (
                "the masks cover the selected layers only, not the norms and consumers after them, because the model "
                f"could not be analysed ({type(error).__name__}: {error}). A shrunk model may then differ from the "
                "masked one; pass dummy_input to the pruner to see this error in compress()"
            )
            if warn:
                log.warning(message)
                warnings.warn(message, stacklevel=2)
            return False
    forget_first_forward(model)
    return True


_PATIENCE = 3


class _FirstForward:
    """A forward pre-hook that completes the masks once; copies and pickles of the model carry it.

    A batch that cannot be analysed (one of a wrong shape, which the model refuses too) does not end the wait; a model
    that cannot be analysed does, after a few batches.
    """

    def __init__(self) -> None:
        self.failures = 0

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            # Not a decorator: that would load the whole compiler for everybody who imports this file.
            torch.compiler.disable(self._complete_now)(model, args, kwargs)  # type: ignore[reportCallIssue]
        else:
            self._complete_now(model, args, kwargs)

    def _complete_now(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if getattr(model, "_is_replica", False):
            message = "under DataParallel masks cannot be completed over their groups: pass dummy_input to the pruner"
            warnings.warn(message, stacklevel=2)
        elif _is_watched(args, kwargs):
            return  # somebody records or counts the model's operators; ours would be among them
        elif not masks_of(model):
            forget_first_forward(model)
        elif not try_to_complete(model, args, kwargs, warn=self.failures == 0):
            self.failures += 1
            if self.failures == _PATIENCE:
                forget_first_forward(model)


def _is_watched(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    tracing = torch.jit.is_tracing()  # type: ignore[reportPrivateImportUsage]
    return is_in_torch_dispatch_mode() or tracing or _is_abstract((args, kwargs))


def _is_abstract(inputs: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in pytree.tree_leaves(inputs))


def named_arguments(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name: ``analyse`` takes either positional ones or a dict of keywords."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    if len(names) < len(args):
        raise CaptureError(f"{type(model).__name__}.forward takes positional arguments without names beside keywords")
    return dict(zip(names, args, strict=False)) | kwargs
