"""Where masks and quantizers meet a model: the only room, besides speedup, that writes into a live one."""

from __future__ import annotations

from torchpare.attach.compressor import Compressor
from torchpare.attach.layer import CompressedLayer, attach_mask
from torchpare.attach.learned_grids import learned_grids
from torchpare.attach.plain import attach_masks, detach, is_attached, masks_of, plain_state_dict
from torchpare.attach.quantized import (
    attach_activation_quantizer,
    attach_weight_quantizer,
    detach_quantizers,
    quantizable,
    quantizers_of,
)
from torchpare.attach.quantizer import FakeQuantize

__all__ = [
    "CompressedLayer",
    "Compressor",
    "FakeQuantize",
    "attach_activation_quantizer",
    "attach_mask",
    "attach_masks",
    "attach_weight_quantizer",
    "detach",
    "detach_quantizers",
    "is_attached",
    "learned_grids",
    "masks_of",
    "plain_state_dict",
    "quantizable",
    "quantizers_of",
]
