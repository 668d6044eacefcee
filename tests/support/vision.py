"""What tests of vision models share, handed on from the zoo: torchvision's models and honest random weights."""

from __future__ import annotations

from torchpare.zoo.randomise import randomise
from torchpare.zoo.vision import torchvision_models

__all__ = ["randomise", "torchvision_models"]
