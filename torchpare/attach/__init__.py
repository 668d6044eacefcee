"""Where masks meet a model: the only room, besides speedup, that writes into a live one."""

from __future__ import annotations

from torchpare.attach.layer import CompressedLayer, attach_mask
from torchpare.attach.plain import attach_masks, detach, is_attached, masks_of, plain_state_dict

__all__ = [
    "CompressedLayer",
    "attach_mask",
    "attach_masks",
    "detach",
    "is_attached",
    "masks_of",
    "plain_state_dict",
]
