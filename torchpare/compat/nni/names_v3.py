"""Names of NNI 3.0, under its paths and those of its release candidate."""

from __future__ import annotations

from torchpare.compat.nni.names_v1 import here
from torchpare.compat.nni.names_v2 import EVALUATORS

__all__ = ["V3"]

_DISTILLATION = (
    ":torchpare.distillation.Distiller(model, teacher, [SoftTargets()]), whose loss is added to your own: "
    "docs/distillation.md"
)
_SETTINGS = ":a config_list; or a subclass of torchpare.pruning.Pruner: docs/write-a-pruner.md"
_PLUGINS = ":a rule for an operator: CONTRIBUTING.md, 'Add an operator'"

_EVALUATORS = {**EVALUATORS, "DeepspeedTorchEvaluator": ":TorchEvaluator; nothing here was tested with DeepSpeed"}
_BASIC = here("v3_pruning", "FPGMPruner", "L1NormPruner", "L2NormPruner", "LevelPruner")
_PRUNERS = {
    **_BASIC,
    **here("v3_pruning", "MovementPruner", "SlimPruner", "TaylorPruner"),
    **here("v3_schedules", "AGPPruner", "LinearPruner"),
}
_QUANTIZERS = here(
    "v3_quantization", "BNNQuantizer", "DoReFaQuantizer", "LsqPlusQuantizer", "LsqQuantizer", "PtqQuantizer",
    "QATQuantizer",
)  # fmt: skip
_DISTILLERS = here("v3_distillation", "Adaptive1dLayerwiseDistiller", "DynamicLayerwiseDistiller")
_BASES = {
    **here("custom", "Compressor", "Pruner", "Quantizer"),
    "Distiller": _DISTILLATION,
    **here("views", ModuleWrapper="WrapperView"),
    **dict.fromkeys(("DistillationSetting", "PruningSetting", "QuantizationSetting"), _SETTINGS),
}
_UTILS = {
    **here("v3_select", "auto_set_denpendency_group_ids"),
    **here("small", "count_flops_params", "get_module_by_name"),
}
_LEGACY = {"trans_legacy_config_list": ":the config_list as it is: entries of all versions are read"}


def _under(root: str) -> dict[str, dict[str, str]]:
    return {
        root: {**_EVALUATORS, **_BASES},
        f"{root}.base": _BASES,
        f"{root}.base.compressor": _BASES,
        f"{root}.base.setting": dict.fromkeys(
            ("DistillationSetting", "PruningSetting", "QuantizationSetting"), _SETTINGS
        ),
        f"{root}.config": _LEGACY,
        f"{root}.pruning": _PRUNERS,
        f"{root}.pruning.basic_pruner": _BASIC,
        f"{root}.pruning.movement_pruner": here("v3_pruning", "MovementPruner"),
        f"{root}.pruning.scheduled_pruner": here("v3_schedules", "AGPPruner", "LinearPruner"),
        f"{root}.pruning.slim_pruner": here("v3_pruning", "SlimPruner"),
        f"{root}.pruning.taylor_pruner": here("v3_pruning", "TaylorPruner"),
        f"{root}.quantization": _QUANTIZERS,
        f"{root}.distillation": _DISTILLERS,
        f"{root}.speedup": {
            **here("small", ModelSpeedup="ModelSpeedupV3"),
            **dict.fromkeys(("MaskUpdater", "Replacer", "TransformersAttentionReplacer"), _PLUGINS),
        },
        f"{root}.utils": {**_UTILS, **_EVALUATORS, **_LEGACY},
        f"{root}.utils.evaluator": _EVALUATORS,
    }


V3: dict[str, dict[str, str]] = {
    **_under("nni.compression"),
    **_under("nni.contrib.compression"),
    "nni.contrib.distillation": dict.fromkeys(
        ("AugmentationDataset", "DistilLabelPatcher", "HashedDataset", "IndexedDataset"), _DISTILLATION
    ),
}
