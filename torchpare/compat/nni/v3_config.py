"""The ``config_list`` of NNI 3, said in ours: for pruners, and for quantizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from torchpare.compat.nni.changes import tell
from torchpare.compat.nni.v2_config import entries_of_v2
from torchpare.compat.nni.v3_select import DependencyGroup, refused, said_once, selected
from torchpare.errors import CompatError, ConfigError

__all__ = ["PruningAsked", "QuantizationAsked", "pruning_of_v3", "quantization_of_v3"]

_LATER = ("sparse_ratio", "sparse_threshold", "target_names", "target_settings", "op_names_re", "exclude_op_names",
          "exclude_op_types", "exclude_op_names_re", "global_group_id", "dependency_group_id", "fuse_names",
          "max_sparse_ratio", "min_sparse_ratio", "align", "apply_method", "internal_metric_block")  # fmt: skip
_NOT_PRUNING = {
    "sparse_threshold": "sparse_ratio, a share; how large a threshold has to be depends on the weights",
    "min_sparse_ratio": "an entry of its own for that layer",
    "align": "dummy_input, with which groups of layers are masked together",
    "internal_metric_block": "'round_to', which keeps multiples, or TransformerHeadPruner for heads",
}


class PruningAsked(NamedTuple):
    """What a ``config_list`` asks a pruner for."""

    entries: Any
    mode: str
    dummy_input: Any


class QuantizationAsked(NamedTuple):
    """What a ``config_list`` asks a quantizer for."""

    entries: Any
    folds: bool
    """Whether norms are to be folded."""


def pruning_of_v3(
    model: nn.Module, config_list: Any, supported: Sequence[type[nn.Module]], default: Sequence[type[nn.Module]],
    dummy_input: Any,
) -> PruningAsked:  # fmt: skip
    """A pruner's ``config_list``.

    Args:
        model: only read.
        config_list: in the words of NNI 3, of earlier versions, or of torchpare.
        supported: what the pruner can handle.
        default: what ``"default"`` stands for.
        dummy_input: an example input, of the evaluator perhaps.

    Raises:
        ConfigError, CompatError: it cannot be used.
    """
    if not _is_v3(config_list):
        return PruningAsked(entries_of_v2(model, config_list, supported), "normal", None)
    entries, reached, groups, modes = [], [], [], []
    for at, entry in enumerate(config_list):
        where = f"config_list[{at}]"
        if not any(key in entry for key in _LATER):
            entries.extend(entries_of_v2(model, [entry], supported))
            continue
        names, said = selected(model, entry, where, default)
        reached.append(names)
        groups.append(said.pop("dependency_group_id", None))
        modes.append(said.pop("global_group_id", None))
        entries.append({"op_names": names, **_sparsity(said, where)})
    said_once(reached)
    if any(mode is not None for mode in modes):
        if any(mode is None for mode in modes) or len({str(mode) for mode in modes}) > 1:
            raise CompatError("global_group_id: here all entries share one global group, or none has one")
        return PruningAsked(entries, "global", None)
    if any(group is not None for group in groups):
        found = next((group.dummy_input for group in groups if isinstance(group, DependencyGroup)), dummy_input)
        if found is None:
            raise CompatError("dependency_group_id: layers that share channels are found by an example input: use "
                              "auto_set_denpendency_group_ids(model, config_list, dummy_input)")  # fmt: skip
        return PruningAsked(entries, "dependency_aware", found)
    return PruningAsked(entries, "normal", None)


def quantization_of_v3(
    model: nn.Module, config_list: Any, default: Sequence[type[nn.Module]], start_step: int = 0
) -> QuantizationAsked:
    """A quantizer's ``config_list``.

    Args:
        model: only read.
        config_list: in the words of NNI 3, of earlier versions, or of torchpare.
        default: what ``"default"`` stands for.
        start_step: how many steps to wait, in all entries.

    Raises:
        ConfigError, CompatError: it cannot be used.
    """
    if not isinstance(config_list, list | tuple) or not all(isinstance(entry, Mapping) for entry in config_list):
        return QuantizationAsked(config_list, False)
    wait = {"quant_start_step": start_step} if start_step else {}
    entries, reached, folds = [], [], False
    for at, entry in enumerate(config_list):
        if "quant_types" in entry or "exclude" in entry:
            entries.append({**entry, **(wait if "quant_types" in entry else {})})
            continue
        if entry.get("fuse_names"):
            tell("fuse_names")
            folds = True
        names, said = selected(model, entry, f"config_list[{at}]", default)
        reached.append(names)
        entries.append({"op_names": names, **_grids(said, f"config_list[{at}]"), **wait})
    said_once(reached)
    return QuantizationAsked(entries, folds)


def _is_v3(config_list: Any) -> bool:
    if not isinstance(config_list, list | tuple) or not all(isinstance(entry, Mapping) for entry in config_list):
        return False
    return any(key in entry for entry in config_list for key in _LATER)


def _sparsity(said: dict[str, Any], where: str) -> dict[str, Any]:
    """The share that goes, of entries and of their targets' settings."""
    targets = said.pop("target_names", None)
    settings = said.pop("target_settings", None) or {}
    for name in (*(targets or ()), *settings):
        if name not in ("weight", "bias"):
            raise CompatError(f"{where}: {name!r} cannot be pruned here; weights are, and biases with their filters")
    if targets is not None and "weight" not in targets:
        raise CompatError(f"{where}['target_names'] has no 'weight'; biases are pruned with their filters")
    said = {**said, **settings.get("weight", {})}
    refused(said, where, _NOT_PRUNING)
    if said.get("apply_method", "mul") not in ("mul", "bypass"):
        raise CompatError(f"{where}['apply_method'] is {said['apply_method']!r}; masks are multiplied here: 'mul'")
    found: dict[str, Any] = {}
    granularity = said.get("granularity", "default")
    if isinstance(granularity, list | tuple):
        found["granularity"] = list(granularity)
    elif granularity not in ("default", "out_channel"):
        raise CompatError(f"{where}['granularity'] is {granularity!r}; the pruner says what goes here: filters, or "
                          "single weights, of which blocks may be asked for: [4, 4]")  # fmt: skip
    share = said.get("sparse_ratio", said.get("sparsity"))
    if share is None:
        raise ConfigError(f"{where} has no 'sparse_ratio', so it says nothing about the layers it reaches")
    if said.get("max_sparse_ratio") is not None:
        found["max_sparsity_per_layer"] = said["max_sparse_ratio"]
    known = {"sparse_ratio", "sparsity", "granularity", "apply_method", "max_sparse_ratio"}
    rest = {key: value for key, value in said.items() if key not in known and key not in _NOT_PRUNING}
    return {"sparsity": share, **found, **rest}


def _grids(said: dict[str, Any], where: str) -> dict[str, Any]:
    """What is quantized, and on which grids."""
    said.pop("fuse_names", None)
    settings = said.pop("target_settings", None) or {}
    targets = said.pop("target_names", None) or list(settings) or ["_input_", "weight", "_output_"]
    found: dict[str, Any] = {"quant_types": [], "quant_dtype": {}, "quant_scheme": {}, "granularity": {}}
    for target in dict.fromkeys((*targets, *settings)):
        kind = _kind(target, where)
        own = {**said, **settings.get(target, {})}
        refused(own, where, {"align": "nothing: outputs that are joined share a grid where dummy_input is given"})
        if own.get("apply_method") == "bypass":
            raise CompatError(f"{where}: {target!r} is bypassed; leave it out of target_names")
        if kind not in found["quant_types"]:
            found["quant_types"].append(kind)
        found["quant_dtype"][kind] = own.get("quant_dtype") or "int8"
        if own.get("quant_scheme"):
            found["quant_scheme"][kind] = own["quant_scheme"]
        granularity = _granularity(own.get("granularity"), kind, where)
        if granularity:
            found["granularity"][kind] = granularity
    rest = {key: value for key, value in said.items()
            if key not in ("quant_dtype", "quant_scheme", "granularity", "apply_method", "align")}  # fmt: skip
    return {**{key: value for key, value in found.items() if value}, **rest}


def _kind(target: str, where: str) -> str:
    if target == "weight":
        return "weight"
    if target.startswith("_input_"):
        return "input"
    if target.startswith("_output_"):
        return "output"
    raise CompatError(f"{where}: {target!r} cannot be quantized here; 'weight', '_input_' and '_output_' can. Biases "
                      "are integers of 32 bits in the programs that are exported")  # fmt: skip


def _granularity(given: Any, kind: str, where: str) -> str | None:
    if given in (None, "default"):
        return None
    if given == "per_tensor":
        return "tensor"
    if given in ("out_channel", "per_channel") and kind == "weight":
        return "channel"
    raise CompatError(f"{where}['granularity'] of {kind} is {given!r}; weights have 'out_channel' or 'per_tensor' "
                      "here, activations 'per_tensor', and torchpare's own 'group' takes a group_size")  # fmt: skip
