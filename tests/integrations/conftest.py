"""Lightning and transformers import torchvision, whose compiled operators may not fit the installed torch."""

from __future__ import annotations

from tests.support.vision import torchvision_models

torchvision_models()
