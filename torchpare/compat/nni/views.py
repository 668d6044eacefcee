"""NNI's wrappers as views: made for the caller, with a wrapper's names, of layers that nothing wraps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchpare.attach import attach_masks, masks_of
from torchpare.config import Target, type_name
from torchpare.errors import MaskError

__all__ = ["LayerInfo", "WrapperView", "entry_of", "full_masks"]


class LayerInfo:
    """A layer with its name and type, as ``select_config`` takes it.

    Args:
        name: its qualified name.
        module: the layer.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, module
        self.type = type_name(module)


class WrapperView(LayerInfo):
    """What NNI's wrapper of a layer would be: ``module``, ``name``, ``type``, ``config`` and the masks.

    Attributes that scripts set (``wrapper.if_calculated = True``) stay on the view, and never reach the layer.

    Args:
        target: the selected layer.
        config: the entry that won for it.
        compressor: the pruner or quantizer.
        model: the model that the layer belongs to.
    """

    def __init__(self, target: Target, config: dict[str, Any], compressor: Any, model: nn.Module) -> None:
        super().__init__(target.name, target.module)
        self.config = config
        self.pruner = self.quantizer = compressor
        self._model = model

    @property
    def weight(self) -> nn.Parameter | None:
        """The dense, trainable weight."""
        return self.module._parameters.get("weight")  # noqa: SLF001 - the dense one; reading .weight would multiply

    @property
    def bias(self) -> nn.Parameter | None:
        """The dense, trainable bias."""
        return self.module._parameters.get("bias")  # noqa: SLF001 - as above

    @property
    def weight_mask(self) -> Tensor | None:
        """The weight's mask: a copy, float zeros and ones of the weight's shape. Assign to it to mask the layer."""
        return self._mask("weight")

    @weight_mask.setter
    def weight_mask(self, mask: Tensor) -> None:
        self._set_mask("weight", mask)

    @property
    def bias_mask(self) -> Tensor | None:
        """The bias's mask, as the weight's; None for a layer without bias."""
        return self._mask("bias")

    @bias_mask.setter
    def bias_mask(self, mask: Tensor | None) -> None:
        if mask is not None:
            self._set_mask("bias", mask)

    def _mask(self, key: str) -> Tensor | None:
        parameter = self.module._parameters.get(key)  # noqa: SLF001 - only its shape is read
        return None if parameter is None else _full(parameter, masks_of(self.module).get("", {}).get(key))

    def _set_mask(self, key: str, mask: Tensor) -> None:
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise MaskError(f"{self.name}.{key}_mask would hold values other than 0 and 1; a mask says of each weight "
                            "whether it stays (1) or goes (0)")  # fmt: skip
        attach_masks(self._model, {self.name: {key: mask.bool()}})

    def __repr__(self) -> str:
        return f"WrapperView({self.name!r}, {self.type}, {self.config})"


def entry_of(target: Target) -> dict[str, Any]:
    """The entry that won for a layer, as the dict that its author wrote, with lists for tuples."""
    given = target.entry.model_dump(exclude_defaults=True)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


def full_masks(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """All masks of a model in NNI's form: float, of the parameters' shapes, of each masked layer weight and bias."""
    layers = dict(model.named_modules())
    found: dict[str, dict[str, Tensor]] = {}
    for name, own in masks_of(model).items():
        parameters = layers[name]._parameters.items()  # noqa: SLF001 - only shapes are read
        found[name] = {key: _full(parameter, own.get(key)) for key, parameter in parameters if parameter is not None}
    return found


def _full(parameter: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.ones_like(parameter, requires_grad=False)
    return mask.to(parameter.dtype).expand(parameter.shape).clone()
