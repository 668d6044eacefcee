"""All or nothing: every change made to the user's model goes through here, and can be taken back."""

# ruff: noqa: SLF001 - the dicts in which nn.Module keeps tensors and hooks are what is changed and changed back

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn

from torchpare.attach import attach_masks, detach, masks_of

__all__ = ["Transaction"]


class Transaction:
    """Changes to a live model, with the way back.

    Use as a context manager: an exception inside takes everything back, in reverse order.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
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
        masks = masks_of(self.model)
        if masks:
            detach(self.model, bake=False)
            self._undo.append(lambda: attach_masks(self.model, masks))

    def remove_own_hooks(self) -> None:
        """Take off hooks that torchpare left on the model to wait for a first batch: pruning is over."""
        for module in self.model.modules():
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for key, hook in list(hooks.items()):
                    if type(hook).__module__.startswith("torchpare."):
                        self._remove_key(hooks, key)
                        for flags in (module._forward_pre_hooks_with_kwargs, module._forward_hooks_with_kwargs):
                            if key in flags:
                                self._remove_key(flags, key)

    def eval(self) -> None:
        """Evaluation mode throughout; each module's own mode comes back on roll-back (and by `restore_modes`)."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        self._modes = modes
        self._undo.append(self.restore_modes)

    def restore_modes(self) -> None:
        """Put every module back into the mode it was in."""
        for module, training in self._modes:
            module.training = training

    def set_tensor(self, module: nn.Module, name: str, tensor: Tensor | None) -> None:
        """Replace a registered parameter or buffer; None for a parameter that is not there."""
        registry = module._parameters if name in module._parameters else module._buffers
        before = registry[name]
        registry[name] = tensor  # type: ignore[assignment]
        self._undo.append(lambda: registry.__setitem__(name, before))  # type: ignore[arg-type]

    def set_attribute(self, module: nn.Module, name: str, value: Any) -> None:
        """Replace a plain attribute, or add it."""
        namespace = module.__dict__
        if name in namespace:
            before = namespace[name]
            self._undo.append(lambda: namespace.__setitem__(name, before))
        else:
            self._undo.append(lambda: namespace.pop(name, None))
        namespace[name] = value

    def _remove_key(self, mapping: Any, key: Any) -> None:
        hook = mapping.pop(key)
        self._undo.append(lambda: mapping.__setitem__(key, hook))
