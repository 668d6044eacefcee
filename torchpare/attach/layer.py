"""Where masks and quantizers meet a weight: the layer stays where it is, and ``layer.weight`` is the weight in use.

A compressed layer's class becomes a subclass of its own class, made once per (class, parameter names) and cached. In
that subclass each of those parameters has a property of the same name. A class property wins over
``nn.Module.__getattr__``, so everything that reads ``layer.weight`` (the layer's own ``forward``, a parent that reads
its children's weights, the user, an exporter) sees ``quantizer(parameter * mask)``, of the two what there is. The
parameter itself stays registered under its own name, dense and trainable: optimizers, checkpoints and ``isinstance``
notice nothing, and autograd gives exact zeros where masked.

Laws kept here: reading changes nothing; the ``Parameter`` objects are never replaced; leaving is ``layer.__class__ =
plain class`` and nothing else.

Limits, all of them consequences of the property: an in-place write to ``layer.weight`` goes to a temporary (write to
``layer.old_weight``), ``get_parameter("conv1.weight")`` and TorchScript do not work on a masked layer.
"""

# ruff: noqa: SLF001 - the dicts in which nn.Module keeps parameters and buffers are what this file is about

from __future__ import annotations

import copyreg
import types
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from torchpare.attach.reading import (
    ACTIVATIONS,
    MASK,
    QPARAMS,
    QUANTIZER,
    before_quantizer,
    flat_weights,
    in_use,
    qparam_property,
    recurrent_forward,
    shadowing_property,
)
from torchpare.config.layers import plain_class, type_name
from torchpare.errors import MaskError
from torchpare.numerics.shards import fsdp_class, placed_like, whole
from torchpare.types import Mask

__all__ = ["CompressedLayer", "attach_mask", "detach_layer", "masks_of_layer"]


class CompressedLayer(nn.Module):
    """Mixed into a layer's class: the one place where a mask, a quantizer and a parameter meet.

    Never instantiated; a layer becomes one through :func:`attach_mask` or `torchpare.attach.quantized`. The masks are
    bool buffers named ``<parameter>_mask`` and the quantizers children named ``<parameter>_quantizer``, so they follow
    ``.to(device)``, ``state_dict`` and copies like any other.
    """

    torchpare_plain_class: ClassVar[type[nn.Module]]
    torchpare_shadowed: ClassVar[tuple[str, ...]]
    """The parameters that are read through properties."""

    torchpare_fold: tuple[nn.Module, ...] = ()
    """The batch norm after the layer, if the weight is quantized as it will be once that is folded into it. In a
    tuple, where ``nn.Module`` does not take it for a child."""

    torchpare_gradient_watch: Callable[[Tensor], None] | None = None
    """Called with the gradient of the masked weight, whole, also where the parameter's own is zero."""

    @property
    def module(self) -> nn.Module:
        """The layer itself: scripts written for wrappers say ``model.conv1.module.weight``."""
        return self._modules.get("module") or self

    @property
    def torchpare_masked(self) -> tuple[str, ...]:
        """The parameters that have a mask."""
        return tuple(name for name in self.torchpare_shadowed if name + MASK in self._buffers)

    @property
    def torchpare_quantized(self) -> tuple[str, ...]:
        """The parameters that have a quantizer."""
        return tuple(name for name in self.torchpare_shadowed if name + QUANTIZER in self._modules)

    @property
    def old_weight(self) -> nn.Parameter:
        """The dense, trainable ``Parameter`` behind ``weight``: the handle for in-place writes and ``.grad``."""
        weight = self._parameters.get("weight")
        if weight is None:
            raise AttributeError(f"{type(self).__name__} has no parameter 'weight'")
        return weight

    def extra_repr(self) -> str:
        """The layer's own line, followed by the names of the masked and the quantized parameters."""
        own = super().extra_repr()
        masked, quantized = ", ".join(self.torchpare_masked), ", ".join(self.torchpare_quantized)
        parts = (own, masked and f"masked: {masked}", quantized and f"quantized: {quantized}")
        return ", ".join(part for part in parts if part)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Take a new parameter (``layer.weight = nn.Parameter(...)``) if the mask fits it.

        Raises:
            MaskError: a masked parameter would become None or a shape that its mask does not fit.
        """
        if name in self.torchpare_masked:
            if param is None:
                raise MaskError(
                    f"{type(self).__name__}.{name} has a mask and cannot become None: detach the model first"
                )
            _check_fit(self, name, param, self._buffers[name + MASK])
        super().register_parameter(name, param)

    def __delattr__(self, name: str) -> None:
        if name in self.torchpare_shadowed and name in self._parameters:
            raise MaskError(
                f"{type(self).__name__}.{name} has a mask or quantizer and cannot be deleted or parametrized: detach "
                "the model first"
            )
        super().__delattr__(name)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        """Load as the plain layer does; a dense checkpoint, which knows no masks, leaves them as they are."""
        for name in self.torchpare_masked:
            given = state_dict.get(prefix + name + MASK)
            mask = self._buffers[name + MASK]
            # A mask may be stored broadcast or at full size: both mean the same, and the loaded form wins.
            if given is not None and mask is not None and given.shape != mask.shape:
                parameter = self._parameters[name]
                if parameter is not None and _broadcasts(given, parameter):
                    self._buffers[name + MASK] = torch.empty(given.shape, dtype=torch.bool, device=mask.device)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        ours = {prefix + name + MASK for name in self.torchpare_masked}
        missing_keys[:] = [key for key in missing_keys if key not in ours]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Save as the plain layer does, with the scales of the weights as they are now."""
        for name in self.torchpare_quantized:
            quantizer: Any = self._modules[name + QUANTIZER]
            if quantizer.follows:
                quantizer.set_qparams(*quantizer.qparams(before_quantizer(self, name)))
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle and copy by (plain class, names): the subclass itself has no importable name."""
        build, arguments, *rest = super().__reduce_ex__(max(int(protocol), 2))
        if build is not copyreg.__newobj__:  # type: ignore[attr-defined]
            raise TypeError(
                f"{type(self).__name__} defines its own __reduce__, which would lose its masks and quantizers: detach "
                "the model before copying or pickling it"
            )
        return (_rebuild, (self.torchpare_plain_class, self.torchpare_shadowed, *arguments[1:]), *rest)


def attach_mask(module: nn.Module, name: str, mask: Mask) -> None:
    """Mask the parameter ``name`` of one layer; a mask already there is replaced.

    Args:
        module: the layer that owns the parameter. It stays the same object; only its class becomes a subclass.
        name: the parameter's own name in the layer, such as ``"weight"``.
        mask: bool, of the parameter's rank, each size 1 or the parameter's; True stays. It is copied.

    Raises:
        MaskError: there is no such parameter, the mask does not fit, or the layer cannot be masked; it is unchanged.
    """
    check_mask(module, name, mask)
    parameter = module._parameters[name]
    assert parameter is not None
    shadow(module, (name,))
    with torch.inference_mode(False):  # a mask made in a user's inference mode must still serve training
        module._buffers[name + MASK] = mask.detach().to(parameter.device, copy=True)


def check_mask(module: nn.Module, name: str, mask: Mask, layer: str = "") -> None:
    """Check what :func:`attach_mask` needs, without attaching; ``layer`` is the qualified name, for the message.

    Raises:
        MaskError: as :func:`attach_mask` would.
    """
    where = f"{layer or type_name(module)}.{name}"
    if isinstance(module, torch.jit.ScriptModule):
        raise MaskError(f"{where}: a TorchScript module cannot be masked; use the Python module it was made from")
    parameter = module._parameters.get(name)
    if parameter is None:
        own = ", ".join(key for key, value in module._parameters.items() if value is not None) or "none"
        hint = " (remove its parametrization first)" if hasattr(module, "parametrizations") else ""
        raise MaskError(f"{where}: {type_name(module)} has no parameter {name!r}; it has: {own}{hint}")
    if isinstance(parameter, nn.UninitializedParameter):
        raise MaskError(f"{where} has no shape yet: run the model once, so that its lazy layers know their sizes")
    _check_fit(module, name, parameter, mask, layer)
    taken = not isinstance(module, CompressedLayer) or name not in module.torchpare_masked
    if taken and hasattr(module, name + MASK):
        raise MaskError(f"{where}: the layer already has an attribute {name + MASK!r}, where the mask would lie")


def detach_layer(module: CompressedLayer, bake: bool) -> None:
    """Give one layer its plain class back; ``bake=True`` zeroes the masked values in its parameters first, in place."""
    for name, mask in masks_of_layer(module).items():
        if bake:
            parameter = module._parameters[name]
            assert parameter is not None
            with torch.no_grad():
                parameter.masked_fill_(placed_like(~mask, parameter), 0)
        del module._buffers[name + MASK]
    unshadow(module)


def masks_of_layer(module: CompressedLayer) -> dict[str, Mask]:
    """The layer's own mask buffers by parameter name: the live ones, not copies."""
    masks = {name: module._buffers[name + MASK] for name in module.torchpare_masked}
    return {name: mask for name, mask in masks.items() if mask is not None}


def values_in_use(module: CompressedLayer) -> dict[str, Tensor]:
    """Of each masked or quantized parameter, what the model uses in its place; new tensors."""
    values = {}
    for name in module.torchpare_shadowed:
        mask = module._buffers.get(name + MASK)
        if name in module.torchpare_quantized:
            values[name] = in_use(module, name).detach().clone()
        elif mask is not None:  # not a product, of which a masked NaN or a negative number would leave its trace
            values[name] = whole(module._parameters[name].detach()).masked_fill(~mask, 0)  # type: ignore[union-attr]
    return values


def shadow(module: nn.Module, names: Iterable[str]) -> None:
    """Read these parameters through properties, beside those that are so already; with none, only be compressed."""
    known = getattr(module, "torchpare_shadowed", None)
    asked = tuple(sorted({*names, *(known or ())}))
    if asked != known:
        _become(module, _compressed_class(plain_class(module), asked))


def unshadow(module: CompressedLayer) -> None:
    """Let go of the properties that nothing needs any more; with the last of all that is attached, of the subclass."""
    needed = tuple(sorted({*module.torchpare_masked, *module.torchpare_quantized}))
    if needed or any(kind in module._modules for kind in ACTIVATIONS.values()):
        _become(module, _compressed_class(module.torchpare_plain_class, needed))
        return
    _become(module, module.torchpare_plain_class)
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()


@cache
def _compressed_class(plain: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """The subclass of ``plain`` whose parameters ``names`` are read through masks and quantizers."""
    members: dict[str, Any] = {
        name: qparam_property(at, name) for at, name in enumerate(QPARAMS) if not hasattr(plain, name)
    }
    members |= {name: shadowing_property(name) for name in names}
    if issubclass(plain, nn.RNNBase):
        # Recurrent layers read their weights from a list made once; make that list anew at each reading.
        members |= {
            "_flat_weights": flat_weights(),
            "_weights_have_changed": lambda _: False,
            "forward": recurrent_forward(plain),
        }
    # Name and module are the plain class's: printed models, op_types, scripts that look at the class name, and tracers
    # that look for torch's own layers all see what they saw before.
    members |= {
        "__module__": plain.__module__,
        "__qualname__": plain.__qualname__,
        "__doc__": plain.__doc__,
        "torchpare_plain_class": plain,
        "torchpare_shadowed": names,
    }
    return types.new_class(plain.__name__, (CompressedLayer, plain), exec_body=lambda body: body.update(members))


def _become(module: nn.Module, kind: type[nn.Module]) -> None:
    """Change the class of a layer that exists; nothing else about it changes, and what is sharded stays so."""
    bases = fsdp_class(type(module))
    module.__class__ = _sharded_class(type(module), (*bases[:-1], kind)) if bases else kind


@cache
def _sharded_class(known: type[nn.Module], bases: tuple[type, ...]) -> type[nn.Module]:
    """The class that ``fully_shard`` would have made of another one: it puts its own in front, and forbids copies."""
    return types.new_class(
        f"FSDP{bases[-1].__name__}", bases, exec_body=lambda body: body.update(__deepcopy__=vars(known)["__deepcopy__"])
    )


def _rebuild(plain: type[nn.Module], names: tuple[str, ...], *arguments: Any) -> nn.Module:
    """What a pickled masked layer names as its maker; its state is set by the caller."""
    made = _compressed_class(plain, names)
    return made.__new__(made, *arguments)


def _broadcasts(mask: Tensor, parameter: Tensor) -> bool:
    return mask.dim() == parameter.dim() and all(m in (1, p) for m, p in zip(mask.shape, parameter.shape, strict=True))


def _check_fit(module: nn.Module, name: str, parameter: Tensor, mask: Tensor | None, layer: str = "") -> None:
    where = f"{layer or type_name(module)}.{name}"
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        given = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise MaskError(
            f"{where}: a mask is a bool tensor (True stays), not {given}; a 0/1 mask becomes one by .bool()"
        )
    if not _broadcasts(mask, parameter):
        raise MaskError(
            f"{where}: a mask of shape {tuple(mask.shape)} does not fit the parameter's {tuple(parameter.shape)}; "
            "give the same rank, each size being 1 or the parameter's"
        )
