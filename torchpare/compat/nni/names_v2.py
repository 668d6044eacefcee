"""Names of NNI 2.5 to 2.10, under both of their paths."""

from __future__ import annotations

from torchpare.compat.nni.names_v1 import LEGACY_QUANTIZERS, here

__all__ = ["EVALUATORS", "V2"]

_PARTS = ":torchpare.pruning.Pruner, whose subclass writes score(); data, allocation and schedule come with it"
_SCHEDULES = ":PruningScheduler with an AGPTaskGenerator, LinearTaskGenerator or LotteryTicketTaskGenerator"
_ANNEALING = ":SimulatedAnnealingPruner, AMCPruner or AutoCompressPruner, which search by themselves"
_EXPERIMENT = ":torchpare.search.BudgetSearchPruner, or the other pruners that search: docs/search.md"
_AUTOMATIC = ":a quantizer with dummy_input, which finds the norms to fold by itself"

EVALUATORS = {
    **here("evaluators", "Evaluator", "TorchEvaluator"),
    **here("evaluators_libraries", "LightningEvaluator", "TransformersEvaluator"),
}
_BASIC = here(
    "v2_pruning", "ActivationAPoZRankPruner", "ActivationMeanRankPruner", "FPGMPruner", "L1NormPruner", "L2NormPruner",
    "LevelPruner", "TaylorFOWeightPruner",
) | here("v2_trained", "ADMMPruner", "SlimPruner")  # fmt: skip
_MOVEMENT = here("v2_trained", "MovementPruner")
_ITERATIVE = {
    **here("v2_rounds", "AGPPruner", "LinearPruner", "LotteryTicketPruner"),
    **here("v2_searches", "SimulatedAnnealingPruner"),
}
_AMC = here("v2_searches", "AMCPruner")
_AUTO = here("v2_searches", "AutoCompressPruner")
_SCHEDULER = {**here("v2_scheduler", "PruningScheduler"), "PruningSchedulerBase": _SCHEDULES}
_BASES = {
    **here("custom", "Compressor", "Pruner"),
    **here("views", "LayerInfo", PrunerModuleWrapper="WrapperView"),
    **dict.fromkeys(("BasePruningScheduler", "Task", "TaskResult"), _SCHEDULES),
}
_TOOLS = {
    **here("v2_scheduler", "AGPTaskGenerator", "LinearTaskGenerator", "LotteryTicketTaskGenerator"),
    **dict.fromkeys(("FunctionBasedTaskGenerator", "TaskGenerator"), _SCHEDULES),
    **dict.fromkeys(("AMCTaskGenerator", "SimulatedAnnealingTaskGenerator"), _ANNEALING),
    **dict.fromkeys(
        (
            "APoZRankMetricsCalculator", "BankSparsityAllocator", "DataCollector", "DependencyAwareAllocator",
            "DistMetricsCalculator", "GlobalSparsityAllocator", "HookCollectorInfo", "MeanRankMetricsCalculator",
            "MetricsCalculator", "MultiDataNormMetricsCalculator", "NormMetricsCalculator", "NormalSparsityAllocator",
            "SingleHookTrainerBasedDataCollector", "SparsityAllocator", "StraightMetricsCalculator",
            "ThresholdSparsityAllocator", "TrainerBasedDataCollector", "WeightDataCollector",
            "WeightTrainerBasedDataCollector", "EvaluatorBasedDataCollector", "TargetDataCollector", "Scaling",
        ),
        _PARTS,
    ),
}  # fmt: skip
_PRUNERS = {**_BASIC, **_MOVEMENT, **_ITERATIVE, **_AMC, **_AUTO, **_SCHEDULER}
_QUANTIZERS = {f"{name}": home for name, home in LEGACY_QUANTIZERS.items()}
_CONSTRUCTION = {
    "OptimizerConstructHelper": ":the optimizer itself: parameters stay the same objects here",
    "LRSchedulerConstructHelper": ":the scheduler itself: optimizers stay the same objects here",
    "trace_parameters": ":nothing: torchpare needs no traces",
}


def _pruning(root: str) -> dict[str, dict[str, str]]:
    return {
        root: _PRUNERS,
        f"{root}.basic_pruner": _BASIC,
        f"{root}.movement_pruner": _MOVEMENT,
        f"{root}.iterative_pruner": {**_ITERATIVE, "IterativePruner": _SCHEDULES},
        f"{root}.amc_pruner": _AMC,
        f"{root}.auto_compress_pruner": _AUTO,
        f"{root}.basic_scheduler": _SCHEDULER,
        f"{root}.tools": _TOOLS,
    }


_V2 = "nni.algorithms.compression.v2.pytorch"

V2: dict[str, dict[str, str]] = {
    _V2: EVALUATORS,
    **_pruning(f"{_V2}.pruning"),
    f"{_V2}.base": _BASES,
    f"{_V2}.utils": {**EVALUATORS, **_CONSTRUCTION},
    f"{_V2}.utils.constructor_helper": _CONSTRUCTION,
    **_pruning("nni.compression.pytorch.pruning"),
    "nni.compression.pytorch": EVALUATORS,
    "nni.compression.pytorch.base": {**_BASES, **here("custom", "Quantizer")},
    "nni.compression.pytorch.quantization": _QUANTIZERS,
    **{
        f"nni.compression.pytorch.quantization.{file}": {name: LEGACY_QUANTIZERS[name]}
        for file, name in {
            "bnn_quantizer": "BNNQuantizer",
            "dorefa_quantizer": "DoReFaQuantizer",
            "lsq_quantizer": "LsqQuantizer",
            "native_quantizer": "NaiveQuantizer",
            "observer_quantizer": "ObserverQuantizer",
            "qat_quantizer": "QAT_Quantizer",
        }.items()
    },
    "nni.compression.pytorch.utils": {**EVALUATORS, **_CONSTRUCTION, "find_conv_bn_patterns": _AUTOMATIC},
    "nni.compression.pytorch.utils.evaluator": EVALUATORS,
    "nni.compression.pytorch.utils.constructor_helper": _CONSTRUCTION,
    **dict.fromkeys(
        ("nni.compression.experiment", "nni.compression.pytorch.experiment"),
        dict.fromkeys(("CompressionExperiment", "CompressionExperimentConfig", "CompressionConfig"), _EXPERIMENT),
    ),
    "nni.algorithms.compression.v2": {},
}
