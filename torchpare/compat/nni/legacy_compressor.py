"""What every compressor of NNI up to 2.4 had beside its algorithm: wrappers, hooks, and asking which entry won."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from torchpare.attach import is_attached
from torchpare.attach.quantized import quantizers_of
from torchpare.attach.steps import Steps
from torchpare.compat.nni.changes import tell
from torchpare.compat.nni.views import LayerInfo, WrapperView, entry_of
from torchpare.config import Target
from torchpare.errors import ConfigError

__all__ = ["LegacyCompressor"]


class LegacyCompressor:
    """Mixed into a pruner or quantizer: the methods of NNI's ``Compressor`` that scripts call."""

    bound_model: nn.Module
    targets: dict[str, Target]
    optimizer: Optimizer | None
    _views: list[WrapperView] | None = None
    _collectors: dict[int, list[RemovableHandle]] | None = None

    @property
    def is_wrapped(self) -> bool:
        """Whether masks or quantizers are on the model now."""
        return is_attached(self.bound_model) or next(quantizers_of(self.bound_model), None) is not None

    @property
    def modules_wrapper(self) -> list[WrapperView]:
        """Views of the selected layers, the same ones each time."""
        if self._views is None:
            self._views = [
                WrapperView(target, self.entry_won(target), self, self.bound_model) for target in self.targets.values()
            ]
        return self._views

    @property
    def modules_to_compress(self) -> list[tuple[LayerInfo, dict[str, Any]]]:
        """The selected layers and their entries."""
        return [(LayerInfo(name, target.module), self.entry_won(target)) for name, target in self.targets.items()]

    def entry_won(self, target: Target) -> dict[str, Any]:
        """The entry that won for a layer, as a dict."""
        return entry_of(target)

    def get_modules_wrapper(self) -> Any:
        """Views of the selected layers; see :class:`~torchpare.compat.nni.views.WrapperView`."""
        tell("wrappers")
        if not self.is_wrapped:
            tell("constructor")
        return self.modules_wrapper

    def select_config(self, layer: LayerInfo) -> dict[str, Any] | None:
        """The entry that won for a layer; None if it is left alone."""
        target = self.targets.get(layer.name)
        return None if target is None else self.entry_won(target)

    def set_wrappers_attribute(self, name: str, value: Any) -> None:
        """Set an attribute on each view; tensors are copied."""
        for view in self.modules_wrapper:
            setattr(view, name, value.clone() if isinstance(value, Tensor) else value)

    def add_activation_collector(self, collector: Callable[[nn.Module, Any, Any], Any]) -> int:
        """Hang ``collector(module, inputs, output)`` on each selected layer; returns a number to take it off by."""
        collectors = self._collectors = self._collectors or {}
        number = max(collectors, default=0) + 1
        collectors[number] = [target.module.register_forward_hook(collector) for target in self.targets.values()]
        return number

    def remove_activation_collector(self, fwd_hook_id: int) -> None:
        """Take a collector off.

        Raises:
            ConfigError: there is none of this number.
        """
        if fwd_hook_id not in (self._collectors or {}):
            raise ConfigError(f"there is no activation collector {fwd_hook_id!r}; give what add_activation_collector "
                              "returned")  # fmt: skip
        for handle in (self._collectors or {}).pop(fwd_hook_id):
            handle.remove()

    def patch_optimizer(self, *tasks: Callable[[], Any]) -> None:
        """Call the tasks after each step of the optimizer, by its own hooks; nothing to do without one."""
        if self.optimizer is not None:
            Steps(self.optimizer, after=partial(_run, tasks))

    def patch_optimizer_before(self, *tasks: Callable[[], Any]) -> None:
        """Call the tasks before each step of the optimizer, by its own hooks; nothing to do without one."""
        if self.optimizer is not None:
            Steps(self.optimizer, before=partial(_run, tasks))


def _run(tasks: Sequence[Callable[[], Any]]) -> None:
    for task in tasks:
        task()


def tell_of_entries(config_list: Any) -> None:
    """Tell of entries that say ``exclude: False``."""
    if isinstance(config_list, list | tuple) and any(
        isinstance(entry, Mapping) and entry.get("exclude") is False for entry in config_list
    ):
        tell("exclude")
