"""Names of NNI 2.2 to 2.4, and of the tools that stayed in their places until 2.10."""

from __future__ import annotations

__all__ = ["ERRORS", "LEGACY_PRUNERS", "LEGACY_QUANTIZERS", "UTILS", "V1", "here"]

_OWN = "torchpare.compat.nni."
_PRUNER = ":torchpare.pruning.Pruner, whose subclass writes score(): docs/write-a-pruner.md"
_QUANTIZER = ":torchpare.quantization.Quantizer, of which ten lines make a new one: CONTRIBUTING.md"
_DEPENDENCY = ":torchpare.utils.ChannelDependency, which follows every operator; or print(torchpare.plan(...))"
_GRAPH = ":torchpare.graph.analyse(model, dummy_input), which reads operators, not traced graphs"
_CONFLICT = ":fix_mask_conflict(masks, model, dummy_input), which does all at once"
_RULES = ":a rule for an operator: CONTRIBUTING.md, 'Add an operator'; known are all that the zoo's models use"
_SCHEMA = ":torchpare.config.read_entries(config_list), which names entry, key and remedy"
_AUTO = ":torchpare.search.BudgetSearchPruner, or the other pruners that search: docs/search.md"


def here(file: str, *names: str, **renamed: str) -> dict[str, str]:
    """Names that come from a file of this room; ``theirs="Ours"`` where ours is another."""
    return {
        **{name: f"{_OWN}{file}:{name}" for name in names},
        **{theirs: f"{_OWN}{file}:{ours}" for theirs, ours in renamed.items()},
    }


_BASES = here("custom", "Compressor", "Pruner", "Quantizer")
_MASKERS = {
    **here("maskers", "FPGMPrunerMasker", "L1FilterPrunerMasker", "L2FilterPrunerMasker", "LevelPrunerMasker"),
    "SlimPrunerMasker": _PRUNER,
    "TaylorFOWeightFilterPrunerMasker": _PRUNER,
    "ActivationFilterPrunerMasker": _PRUNER,
    "ActivationAPoZRankFilterPrunerMasker": _PRUNER,
    "ActivationMeanRankFilterPrunerMasker": _PRUNER,
    "AMCWeightMasker": _PRUNER,
}
_ONE_SHOT = here("legacy_pruning", "FPGMPruner", "L1FilterPruner", "L2FilterPruner", "LevelPruner")
_ITERATIVE = here(
    "legacy_pruning", "ADMMPruner", "AGPPruner", "ActivationAPoZRankFilterPruner", "ActivationMeanRankFilterPruner",
    "SlimPruner", "TaylorFOWeightFilterPruner", AGP_Pruner="AGPPruner",
)  # fmt: skip
_SEARCHING = {
    name: here("legacy_pruning", pruner)
    for name, pruner in {
        "amc": "AMCPruner",
        "auto_compress_pruner": "AutoCompressPruner",
        "lottery_ticket": "LotteryTicketPruner",
        "net_adapt_pruner": "NetAdaptPruner",
        "sensitivity_pruner": "SensitivityPruner",
        "simulated_annealing_pruner": "SimulatedAnnealingPruner",
        "transformer_pruner": "TransformerHeadPruner",
    }.items()
}
_PRUNER_BASES = dict.fromkeys(("DependencyAwarePruner", "IterativePruner", "OneshotPruner"), _PRUNER)
_MASKER_BASES = here("maskers", "StructuredWeightMasker", "WeightMasker")

LEGACY_PRUNERS = {
    **_ONE_SHOT, **_ITERATIVE, **{name: home for own in _SEARCHING.values() for name, home in own.items()},
}  # fmt: skip
LEGACY_QUANTIZERS = here(
    "legacy_quantization", "BNNQuantizer", "DoReFaQuantizer", "LsqQuantizer", "NaiveQuantizer", "ObserverQuantizer",
    "QAT_Quantizer",
)  # fmt: skip
ERRORS = dict.fromkeys(
    ("EmptyLayerError", "InputsNumberError", "OutputTypeError", "ShapeMisMatchError", "UnBalancedGroupError"),
    "torchpare.errors:ShrinkError",
)
_SMALL = here("small", "ModelSpeedup", "apply_compression_results")
_APPLY = here("small", "apply_compression_results")
_SPEEDUP = {
    "nni.compression.pytorch.speedup": here("small", "ModelSpeedup"),
    "nni.compression.pytorch.speedup.compressor": here("small", "ModelSpeedup"),
    "nni.compression.pytorch.speedup.error_code": ERRORS,
    "nni.compression.pytorch.speedup.compress_modules": {"replace_module": _RULES, "no_replace": _RULES},
    "nni.compression.pytorch.speedup.infer_mask": {"AutoMaskInference": _RULES},
    "nni.compression.pytorch.speedup.infer_shape": dict.fromkeys(
        ("CoarseMask", "ModuleMasks", "infer_from_inshape", "infer_from_mask", "infer_from_outshape"), _RULES
    ),
    "nni.compression.pytorch.speedup.jit_translate": {"jit_to_python_function": _RULES},
}
_TENSORRT = {
    "ModelSpeedupTensorRT": "torchpare.runtimes:ModelSpeedupTensorRT",
    "BaseModelSpeedup": ":torchpare.runtimes.ModelSpeedupRuntime",
    "CalibrateType": ":a quantizer's 'observer': 'min_max', 'percentile', 'kl' or 'mse'; see docs/quantizers.md",
    "Calibrator": ":torchpare.quantization.ObserverQuantizer, which calibrates, and ModelSpeedupTensorRT after it",
}
_DEPENDENCIES = {
    **here("small", "ChannelDependency", "GroupDependency"),
    **dict.fromkeys(
        ("AttentionWeightDependency", "CatPaddingDependency", "Dependency", "InputChannelDependency",
         "ReshapeDependency"), _DEPENDENCY
    ),
}  # fmt: skip
_CONFLICTS = {
    **here("small", "fix_mask_conflict"),
    **dict.fromkeys(("CatMaskPadding", "ChannelMaskConflict", "GroupMaskConflict", "MaskFix"), _CONFLICT),
    "detect_mask_prune_dim": ":the masks themselves: they have size 1 along axes on which they do not vary",
}
_ANALYSIS = {"SensitivityAnalysis": "torchpare.utils:SensitivityAnalysis"}
_SCHEMAS = dict.fromkeys(
    ("CompressorSchema", "PrunerSchema", "QuantizerSchema", "validate_exclude_quant_types_quant_bits",
     "validate_exclude_sparsity", "validate_op_names", "validate_op_types", "validate_op_types_op_names"), _SCHEMA
)  # fmt: skip
UTILS = {
    "counter": here("small", "count_flops_params"),
    "sensitivity_analysis": _ANALYSIS,
    "shape_dependency": _DEPENDENCIES,
    "mask_conflict": _CONFLICTS,
    "num_param_counter": here("small", "get_total_num_weights"),
    "utils": here("small", "get_module_by_name"),
    "config_validation": _SCHEMAS,
}
_COMPRESSOR = {
    **_BASES,
    **here("views", "LayerInfo", PrunerModuleWrapper="WrapperView", QuantizerModuleWrapper="WrapperView"),
    **dict.fromkeys(("QType_Dict", "QuantForward", "QuantGrad", "QuantType", "quantize_helper"), _QUANTIZER),
}
_PRUNING = "nni.algorithms.compression.pytorch.pruning"
_QUANTIZATION = "nni.algorithms.compression.pytorch.quantization"

V1: dict[str, dict[str, str]] = {
    "nni.algorithms.compression.pytorch": {},
    _PRUNING: {**LEGACY_PRUNERS, **_MASKERS, **_MASKER_BASES, **_PRUNER_BASES, **_APPLY},
    f"{_PRUNING}.one_shot_pruner": {**_ONE_SHOT, "OneshotPruner": _PRUNER},
    f"{_PRUNING}.one_shot": {**_ONE_SHOT, **_ITERATIVE},
    f"{_PRUNING}.iterative_pruner": {**_ITERATIVE, "IterativePruner": _PRUNER},
    f"{_PRUNING}.agp": here("legacy_pruning", "AGPPruner"),
    f"{_PRUNING}.dependency_aware_pruner": {"DependencyAwarePruner": _PRUNER},
    f"{_PRUNING}.weight_masker": here("maskers", "WeightMasker"),
    f"{_PRUNING}.finegrained_pruning": here("maskers", "LevelPrunerMasker"),
    f"{_PRUNING}.finegrained_pruning_masker": here("maskers", "LevelPrunerMasker"),
    f"{_PRUNING}.structured_pruning": {**_MASKERS, **here("maskers", "StructuredWeightMasker")},
    f"{_PRUNING}.structured_pruning_masker": {**_MASKERS, **here("maskers", "StructuredWeightMasker")},
    f"{_PRUNING}.constants": here("maskers", "MASKER_DICT"),
    f"{_PRUNING}.constants_pruner": here("legacy_pruning", "PRUNER_DICT"),
    f"{_PRUNING}.apply_compression": _APPLY,
    **{f"{_PRUNING}.{file}": names for file, names in _SEARCHING.items()},
    _QUANTIZATION: LEGACY_QUANTIZERS,
    f"{_QUANTIZATION}.quantizers": LEGACY_QUANTIZERS,
    "nni.algorithms.compression.pytorch.auto_compress": dict.fromkeys(
        ("AbstractAutoCompressionModule", "AutoCompressionExperiment", "AutoCompressionSearchSpaceGenerator"), _AUTO
    ),
    "nni.compression.pytorch": {**_BASES, **_SMALL, "LayerInfo": f"{_OWN}views:LayerInfo"},
    "nni.compression.pytorch.compressor": _COMPRESSOR,
    "nni.compression.pytorch.default_layers": {
        "weighted_modules": f"{_OWN}layers:weighted_modules", "supported_modules": f"{_OWN}layers:weighted_modules",
    },
    **_SPEEDUP,
    "nni.compression.pytorch.quantization_speedup": _TENSORRT,
    "nni.compression.pytorch.quantization_speedup.integrated_tensorrt": _TENSORRT,
    "nni.compression.pytorch.quantization_speedup.backend": _TENSORRT,
    "nni.compression.pytorch.quantization_speedup.calibrator": _TENSORRT,
    "nni.compression.pytorch.utils": {
        **UTILS["counter"], **_ANALYSIS, **_DEPENDENCIES, **_CONFLICTS, **UTILS["utils"], **UTILS["num_param_counter"],
    },
    **{f"nni.compression.pytorch.utils.{file}": names for file, names in UTILS.items()},
    "nni.common.graph_utils": dict.fromkeys(
        ("TorchModuleGraph", "TorchProtoGraph", "NodePyGroup", "build_graph", "build_module_graph"), _GRAPH
    ),
}  # fmt: skip
