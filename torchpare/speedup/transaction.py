"""All or nothing: every change made to the user's model goes through here, and can be taken back."""

# ruff: noqa: SLF001 - the dicts in which nn.Module keeps tensors and hooks are what is changed and changed back

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn

from torchpare.attach import detach, is_attached
from torchpare.graph.caches import caches_of
from torchpare.layers import MultiheadAttention, adopt, release
from torchpare.speedup.offload import Offload

__all__ = ["Transaction"]


class Transaction:
    """Changes to a live model, with the way back.

    Use as a context manager: an exception inside takes everything back, in reverse order.

    Args:
        model: what is changed.
        offload: what remembers the tensors that are replaced; memory does, without one.
    """

    def __init__(self, model: nn.Module, offload: Offload | None = None) -> None:
        self.model = model
        self._offload = offload or Offload(None)
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.roll_back()

    def roll_back(self) -> None:
        """Take every change back, the last one first."""
        while self._undo:
            self._undo.pop()()

    def detach_masks(self) -> None:
        """Give masked layers their plain classes back, with dense parameters."""
        if is_attached(self.model):
            before = [(module, type(module), dict(module._buffers)) for module in self.model.modules()]
            detach(self.model, bake=False)
            self._undo.append(lambda: _restore_layers(before))

    def remember_layers(self) -> None:
        """Whatever others do from here on to the classes, children and hooks of the layers can be taken back."""
        before = [
            (module, type(module), [(mapping, dict(mapping)) for mapping in _attachments(module)], dict(vars(module)))
            for module in self.model.modules()
        ]
        self._undo.append(lambda: _restore_attachments(before))

    def remove_own_hooks(self) -> None:
        """Take off hooks that torchpare left on the model to wait for a first batch: pruning is over.

        Those of a distiller stay: learning from a teacher begins here.
        """
        for module in self.model.modules():
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                own = [key for key, hook in hooks.items() if _waits(hook)]
                for flags in (hooks, module._forward_pre_hooks_with_kwargs, module._forward_hooks_with_kwargs):
                    self._remove_keys(flags, own)

    def adopt_attention(self, module: nn.MultiheadAttention) -> None:
        """Give a stock attention the class that can have any heads; see `torchpare.layers`."""
        before = dict(vars(module))
        adopt(module)
        self._undo.append(lambda: _restore_class(module, nn.MultiheadAttention, before))

    def release_attention(self, module: MultiheadAttention) -> None:
        """Give an attention whose sizes are ordinary the stock class back."""
        before = dict(vars(module))
        release(module)
        self._undo.append(lambda: _restore_class(module, MultiheadAttention, before))

    def empty_caches(self) -> None:
        """Forget what forward passes kept of parameters that are about to change."""
        for cache in caches_of(self.model):
            before = dict(cache)
            self._undo.append(lambda cache=cache, before=before: cache.update(before))
            cache.clear()

    def set_tensor(self, module: nn.Module, name: str, tensor: Tensor | None) -> None:
        """Replace a registered parameter or buffer; None for a parameter that is not there."""
        registry = module._parameters if name in module._parameters else module._buffers
        old = registry[name]
        if old is tensor:  # a module that is registered twice
            return
        before = (lambda: None) if old is None else self._offload.remember(old)
        registry[name] = tensor  # type: ignore[assignment]
        self._undo.append(lambda: registry.__setitem__(name, before()))  # type: ignore[arg-type]

    def set_attribute(self, module: nn.Module, name: str, value: Any) -> None:
        """Replace a plain attribute, or add it."""
        namespace = module.__dict__
        if name in namespace:
            before = namespace[name]
            self._undo.append(lambda: namespace.__setitem__(name, before))
        else:
            self._undo.append(lambda: namespace.pop(name, None))
        namespace[name] = value

    def _remove_keys(self, mapping: Any, keys: list[Any]) -> None:
        if any(key in mapping for key in keys):
            before = dict(mapping)
            self._undo.append(lambda: _refill(mapping, before))
            for key in keys:
                mapping.pop(key, None)


def _waits(hook: Any) -> bool:
    room = type(hook).__module__
    return room.startswith("torchpare.") and not room.startswith("torchpare.distillation.")


def _restore_class(module: nn.Module, kind: type[nn.Module], namespace: dict[str, Any]) -> None:
    module.__class__ = kind
    _refill(vars(module), namespace)


def _attachments(module: nn.Module) -> list[Any]:
    return [
        module._modules,
        module._buffers,
        module._forward_pre_hooks,
        module._forward_hooks,
        module._forward_pre_hooks_with_kwargs,
        module._forward_hooks_with_kwargs,
    ]


def _restore_attachments(before: list[tuple[nn.Module, type[nn.Module], list[Any], dict[str, Any]]]) -> None:
    for module, kind, mappings, namespace in before:
        if type(module) is not kind:
            module.__class__ = kind
        for mapping, content in mappings:
            _refill(mapping, content)
        _refill(vars(module), namespace)


def _restore_layers(before: list[tuple[nn.Module, type[nn.Module], dict[str, Any]]]) -> None:
    """Classes and buffers as they were, the very same buffers in the same order."""
    for module, kind, buffers in before:
        if type(module) is not kind:
            module.__class__ = kind
        _refill(module._buffers, buffers)
        if isinstance(module, nn.RNNBase):
            module.__dict__.pop("_flat_weights", None)  # a masked recurrent layer reads its list anew each time


def _refill(mapping: Any, content: dict[Any, Any]) -> None:
    mapping.clear()
    mapping.update(content)
