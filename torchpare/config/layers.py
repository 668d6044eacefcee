"""Layer kinds: what ``default`` stands for, the name a type goes by, and where outputs lie in a weight."""

from __future__ import annotations

from torch import nn

from torchpare.numerics.shards import fsdp_class

__all__ = ["CONVOLUTIONS", "FILTERED", "WEIGHTED", "output_layout", "plain_class", "type_name"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
"""What ``default`` means to an algorithm that removes filters."""

FILTERED: tuple[type[nn.Module], ...] = (*CONVOLUTIONS, nn.Linear)
"""What an algorithm that removes filters can handle when asked: a linear layer's filters are its output features."""

WEIGHTED: tuple[type[nn.Module], ...] = (*FILTERED, nn.Bilinear, nn.PReLU, nn.Embedding, nn.EmbeddingBag)
"""What an algorithm that removes single weights can handle, which is also what ``default`` means to it."""


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class the user gave this layer: a masked layer's class is a subclass made for it, and remembers its own.

    So is the class of a layer that ``fully_shard`` was called on, which has its own as its last base.
    """
    bases = fsdp_class(type(module))
    kind = bases[-1] if bases else type(module)
    return getattr(kind, "torchpare_plain_class", kind)


def type_name(module: nn.Module) -> str:
    """The class name that ``op_types`` is compared with, such as ``"Conv2d"``, also for a masked layer."""
    return plain_class(module).__name__


def output_layout(module: nn.Module) -> tuple[int, int]:
    """Where a layer's outputs lie in its weight: ``(axis, groups)``.

    A convolution or linear layer has them along axis 0, whatever its groups. A transposed convolution's weight is
    ``(I, O/G, K...)``: output ``g * O/G + j`` is column ``j`` of the rows of group ``g``.
    """
    if isinstance(module, _TRANSPOSED):
        return 1, module.groups
    return 0, 1
