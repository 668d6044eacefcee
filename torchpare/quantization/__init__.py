"""Quantizers: how a trained model comes to compute with few bits.

A quantizer's constructor reads and checks, ``compress()`` hangs fake quantization on the model, and the model then
trains, evaluates, is copied and saved like any other. See ``docs/quantizers.md`` for which one, and when.
"""

from __future__ import annotations

from torchpare.attach import learned_grids
from torchpare.quantization.adaround import Rounded, round_adaptively
from torchpare.quantization.base import Quantizer
from torchpare.quantization.bias_correction import correct_biases
from torchpare.quantization.bnn import BNNQuantizer
from torchpare.quantization.dorefa import DoReFaQuantizer
from torchpare.quantization.equalization import Equalized, equalize
from torchpare.quantization.lsq import LsqPlusQuantizer, LsqQuantizer
from torchpare.quantization.naive import NaiveQuantizer
from torchpare.quantization.pact import PACTQuantizer
from torchpare.quantization.post_training import ObserverQuantizer, PtqQuantizer
from torchpare.quantization.qat import QAT_Quantizer, QATQuantizer

__all__ = [
    "BNNQuantizer",
    "DoReFaQuantizer",
    "Equalized",
    "LsqPlusQuantizer",
    "LsqQuantizer",
    "NaiveQuantizer",
    "ObserverQuantizer",
    "PACTQuantizer",
    "PtqQuantizer",
    "QATQuantizer",
    "QAT_Quantizer",
    "Quantizer",
    "Rounded",
    "correct_biases",
    "equalize",
    "learned_grids",
    "round_adaptively",
]
