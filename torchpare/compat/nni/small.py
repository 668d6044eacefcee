"""NNI's ``ModelSpeedup``, ``apply_compression_results`` and tools, in the forms of its versions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from torchpare import speedup
from torchpare.attach import is_attached
from torchpare.compat.nni.changes import tell
from torchpare.compat.nni.files import read_masks
from torchpare.config.layers import WEIGHTED, plain_class, type_name
from torchpare.errors import CompatError
from torchpare.report.counts import count_flops_params as count
from torchpare.speedup import SpeedupReport
from torchpare.types import Masks

__all__ = [
    "ChannelDependency",
    "GroupDependency",
    "ModelSpeedup",
    "ModelSpeedupV3",
    "apply_compression_results",
    "count_flops_params",
    "fix_mask_conflict",
    "get_module_by_name",
    "get_total_num_weights",
]

MasksOrFile = Mapping[str, Mapping[str, Any]] | str | os.PathLike[str]


class ModelSpeedup(speedup.ModelSpeedup):
    """Makes a masked model physically smaller, as :class:`torchpare.ModelSpeedup`, which has the first arguments.

    Args:
        model, dummy_input, masks_file, map_location: as there.
        batch_dim, confidence: not needed; see the warning.
        customized_replace_func: must be None: layers are not replaced here, but cut.
    """

    def __init__(
        self,
        model: nn.Module,
        dummy_input: Any,
        masks_file: MasksOrFile | None = None,
        map_location: torch.device | str | None = None,
        batch_dim: int | None = None,
        confidence: int | None = None,
        customized_replace_func: Any = None,
    ) -> None:
        if batch_dim is not None or confidence is not None:
            tell("speedup_options")
        _check_replaced(customized_replace_func, "customized_replace_func")
        super().__init__(model, dummy_input, _masks(masks_file, model), map_location)

    def speedup_model(self) -> SpeedupReport:
        """Shrink the model in place, prove it, and return the report."""
        tell("speedup")
        return super().speedup_model()


class ModelSpeedupV3(speedup.ModelSpeedup):
    """Makes a masked model physically smaller; its `speedup_model` returns the model, as that of NNI 3.

    Args:
        model, dummy_input, masks_or_file, map_location: as :class:`torchpare.ModelSpeedup` has them.
        batch_dim, batch_size, garbage_collect_values: not needed; see the warning.
        customized_mask_updaters, customized_replacers, graph_module: must be None.
        logger: not needed.
    """

    report: SpeedupReport | None = None
    """What was done, after `speedup_model`."""

    def __init__(  # noqa: PLR0913, PLR0917 - the arguments of NNI 3
        self,
        model: nn.Module,
        dummy_input: Any,
        masks_or_file: MasksOrFile | None = None,
        map_location: torch.device | str | None = None,
        batch_dim: int | None = None,
        batch_size: int | None = None,
        customized_mask_updaters: Any = None,
        customized_replacers: Any = None,
        graph_module: Any = None,
        garbage_collect_values: bool | None = None,
        logger: Any = None,
    ) -> None:
        del logger, garbage_collect_values
        if batch_dim is not None or batch_size is not None:
            tell("speedup_options")
        for given, name in (
            (customized_mask_updaters, "customized_mask_updaters"),
            (customized_replacers, "customized_replacers"),
            (graph_module, "graph_module"),
        ):
            _check_replaced(given, name)
        super().__init__(model, dummy_input, _masks(masks_or_file, model), map_location)

    def speedup_model(self) -> Any:
        """Shrink the model in place, prove it, and return it; the report is in `report`."""
        tell("speedup_v3")
        self.report = super().speedup_model()
        return self.bound_model


class ChannelDependency(speedup.ChannelDependency):
    """Layers that share channels, as :class:`torchpare.utils.ChannelDependency`, which has the arguments.

    Args:
        model, dummy_input: as there.
        traced_model: not needed.
        prune_type: not needed.
    """

    def __init__(
        self, model: Any = None, dummy_input: Any = None, traced_model: Any = None, prune_type: str = ""
    ) -> None:
        del traced_model, prune_type
        _check_model(model, dummy_input, "ChannelDependency")
        tell("dependencies")
        super().__init__(model, dummy_input)


class GroupDependency(speedup.GroupDependency):
    """What channels must stay divisible by, as :class:`torchpare.utils.GroupDependency`, which has the arguments.

    Args:
        model, dummy_input: as there.
        traced_model: not needed.
    """

    def __init__(self, model: Any = None, dummy_input: Any = None, traced_model: Any = None) -> None:
        del traced_model
        _check_model(model, dummy_input, "GroupDependency")
        tell("dependencies")
        super().__init__(model, dummy_input)


def apply_compression_results(
    model: nn.Module, masks_file: MasksOrFile, map_location: torch.device | str | None = None
) -> None:
    """Write zeros into the masked entries of a model's parameters, as :func:`torchpare.apply_compression_results`."""
    tell("apply")
    speedup.apply_compression_results(model, _masks(masks_file, model) or {}, map_location)


def fix_mask_conflict(masks: Any, model: Any = None, dummy_input: Any = None, traced: Any = None) -> Masks:
    """Masks that can all be followed, as :func:`torchpare.utils.fix_mask_conflict`; ``traced`` is not needed."""
    del traced
    _check_model(model, dummy_input, "fix_mask_conflict")
    tell("conflict")
    return speedup.fix_mask_conflict(masks, model, dummy_input)


def count_flops_params(
    model: nn.Module,
    x: Any,
    custom_ops: Mapping[type[nn.Module], Callable[..., Any]] | None = None,
    verbose: bool = True,
    mode: str = "default",
) -> tuple[int, int, list[dict[str, Any]]]:
    """Operations and parameters, as :func:`torchpare.utils.count_flops_params`, which has the arguments."""
    tell("counter")
    return count(model, x, custom_ops, verbose, mode)


def get_total_num_weights(model: nn.Module, op_types: Sequence[str] = ("default",)) -> int:
    """How many weights, without biases, the layers of these types have."""
    return sum(
        layer.weight.numel()
        for layer in model.modules()
        if type_name(layer) in op_types or ("default" in op_types and plain_class(layer) in WEIGHTED)
        if isinstance(layer.weight, torch.Tensor)
    )


def get_module_by_name(model: nn.Module, module_name: str) -> tuple[nn.Module | None, nn.Module | None]:
    """The parent of a module and the module itself; ``(None, None)`` if there is none of this name."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if not module_name or module_name not in modules:
        return None, None
    return modules[module_name.rpartition(".")[0]], modules[module_name]


def _masks(given: MasksOrFile | None, model: nn.Module) -> Any:
    if isinstance(given, str | os.PathLike):
        return read_masks(given, None if is_attached(model) else model)
    return given


def _check_model(model: Any, dummy_input: Any, name: str) -> None:
    if model is None or dummy_input is None:
        raise CompatError(f"{name}: give the model and an example input; traced graphs of NNI are not read here")


def _check_replaced(given: Any, name: str) -> None:
    if given:
        raise CompatError(f"ModelSpeedup has no {name} here: it cuts the model's own modules, and asks rules of "
                          "operators what hangs together; write one of those: see CONTRIBUTING.md, 'Add an operator'"
                          )  # fmt: skip
