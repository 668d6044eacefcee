"""Every name that NNI's reference knows can be imported from where it was, in each version."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from torchpare.errors import CompatError
from torchpare.pruning import LevelPruner

ROOT = Path(__file__).resolve().parents[3]
V1_PRUNERS = """
    LevelPruner L1FilterPruner L2FilterPruner FPGMPruner SlimPruner TaylorFOWeightFilterPruner
    ActivationAPoZRankFilterPruner ActivationMeanRankFilterPruner AGPPruner ADMMPruner NetAdaptPruner
    SimulatedAnnealingPruner AutoCompressPruner AMCPruner LotteryTicketPruner SensitivityPruner TransformerHeadPruner
"""
V1_PARTS = """
    OneshotPruner IterativePruner DependencyAwarePruner LevelPrunerMasker SlimPrunerMasker L1FilterPrunerMasker
    L2FilterPrunerMasker FPGMPrunerMasker TaylorFOWeightFilterPrunerMasker ActivationFilterPrunerMasker
    ActivationAPoZRankFilterPrunerMasker ActivationMeanRankFilterPrunerMasker AMCWeightMasker WeightMasker
    StructuredWeightMasker
"""
V1_QUANTIZERS = "NaiveQuantizer QAT_Quantizer DoReFaQuantizer BNNQuantizer LsqQuantizer ObserverQuantizer"
V2_PRUNERS = """
    LevelPruner L1NormPruner L2NormPruner FPGMPruner SlimPruner ActivationAPoZRankPruner ActivationMeanRankPruner
    TaylorFOWeightPruner ADMMPruner MovementPruner LinearPruner AGPPruner LotteryTicketPruner SimulatedAnnealingPruner
    AMCPruner AutoCompressPruner
"""
GENERATORS = """
    LinearTaskGenerator AGPTaskGenerator LotteryTicketTaskGenerator SimulatedAnnealingTaskGenerator
"""
ERRORS = "EmptyLayerError ShapeMisMatchError InputsNumberError OutputTypeError UnBalancedGroupError"
EVALUATORS = "TorchEvaluator LightningEvaluator TransformersEvaluator"
V3_PRUNERS = """
    LevelPruner L1NormPruner L2NormPruner FPGMPruner SlimPruner TaylorPruner MovementPruner LinearPruner AGPPruner
"""
V3_QUANTIZERS = "QATQuantizer LsqQuantizer LsqPlusQuantizer DoReFaQuantizer BNNQuantizer PtqQuantizer"
DISTILLERS = "DynamicLayerwiseDistiller Adaptive1dLayerwiseDistiller"
PATCHERS = "DistilLabelPatcher IndexedDataset HashedDataset AugmentationDataset"
UTILITIES = {
    "counter": "count_flops_params",
    "sensitivity_analysis": "SensitivityAnalysis",
    "shape_dependency": """ChannelDependency GroupDependency InputChannelDependency CatPaddingDependency
                           ReshapeDependency AttentionWeightDependency""",
    "mask_conflict": """fix_mask_conflict GroupMaskConflict ChannelMaskConflict CatMaskPadding MaskFix
                        detect_mask_prune_dim""",
    "num_param_counter": "get_total_num_weights",
    "utils": "get_module_by_name",
    "config_validation": "CompressorSchema validate_op_names validate_op_types validate_op_types_op_names",
}
REFERENCE = {
    "nni": "trace get_next_parameter report_intermediate_result report_final_result",
    "nni.compression.pytorch": f"Compressor Pruner Quantizer ModelSpeedup apply_compression_results {EVALUATORS}",
    "nni.compression.pytorch.compressor": """Compressor Pruner Quantizer LayerInfo PrunerModuleWrapper
        QuantizerModuleWrapper QuantType QType_Dict QuantGrad QuantForward quantize_helper""",
    "nni.compression.pytorch.default_layers": "weighted_modules",
    "nni.compression.pytorch.speedup": "ModelSpeedup",
    "nni.compression.pytorch.speedup.compressor": "ModelSpeedup",
    "nni.compression.pytorch.speedup.error_code": ERRORS,
    "nni.compression.pytorch.speedup.infer_shape": "CoarseMask ModuleMasks",
    "nni.compression.pytorch.speedup.infer_mask": "AutoMaskInference",
    "nni.compression.pytorch.quantization_speedup": """ModelSpeedupTensorRT BaseModelSpeedup CalibrateType
        Calibrator""",
    "nni.compression.pytorch.utils": "count_flops_params SensitivityAnalysis",
    **{f"nni.compression.pytorch.utils.{file}": names for file, names in UTILITIES.items()},
    "nni.common.graph_utils": "build_module_graph TorchModuleGraph build_graph TorchProtoGraph NodePyGroup",
    "nni.algorithms.compression.pytorch.pruning": V1_PRUNERS + V1_PARTS,
    "nni.algorithms.compression.pytorch.pruning.one_shot_pruner": """OneshotPruner LevelPruner L1FilterPruner
        L2FilterPruner FPGMPruner""",
    "nni.algorithms.compression.pytorch.pruning.iterative_pruner": """IterativePruner AGPPruner ADMMPruner SlimPruner
        TaylorFOWeightFilterPruner ActivationAPoZRankFilterPruner ActivationMeanRankFilterPruner""",
    "nni.algorithms.compression.pytorch.pruning.dependency_aware_pruner": "DependencyAwarePruner",
    "nni.algorithms.compression.pytorch.pruning.net_adapt_pruner": "NetAdaptPruner",
    "nni.algorithms.compression.pytorch.pruning.simulated_annealing_pruner": "SimulatedAnnealingPruner",
    "nni.algorithms.compression.pytorch.pruning.auto_compress_pruner": "AutoCompressPruner",
    "nni.algorithms.compression.pytorch.pruning.sensitivity_pruner": "SensitivityPruner",
    "nni.algorithms.compression.pytorch.pruning.lottery_ticket": "LotteryTicketPruner",
    "nni.algorithms.compression.pytorch.pruning.amc": "AMCPruner",
    "nni.algorithms.compression.pytorch.pruning.constants": "MASKER_DICT",
    "nni.algorithms.compression.pytorch.pruning.constants_pruner": "PRUNER_DICT",
    "nni.algorithms.compression.pytorch.pruning.finegrained_pruning_masker": "LevelPrunerMasker",
    "nni.algorithms.compression.pytorch.pruning.structured_pruning_masker": "L1FilterPrunerMasker FPGMPrunerMasker",
    "nni.algorithms.compression.pytorch.pruning.weight_masker": "WeightMasker",
    "nni.algorithms.compression.pytorch.pruning.apply_compression": "apply_compression_results",
    "nni.algorithms.compression.pytorch.quantization": V1_QUANTIZERS,
    "nni.algorithms.compression.pytorch.quantization.quantizers": V1_QUANTIZERS,
    "nni.algorithms.compression.pytorch.auto_compress": """AutoCompressionExperiment AbstractAutoCompressionModule
        AutoCompressionSearchSpaceGenerator""",
    "nni.algorithms.compression.v2.pytorch.pruning": f"{V2_PRUNERS} PruningScheduler",
    "nni.algorithms.compression.v2.pytorch.pruning.tools": GENERATORS
    + """DataCollector MetricsCalculator
        SparsityAllocator""",
    "nni.algorithms.compression.v2.pytorch.base": "Compressor Pruner Task TaskResult",
    "nni.algorithms.compression.v2.pytorch": EVALUATORS,
    "nni.algorithms.compression.v2.pytorch.utils": "OptimizerConstructHelper",
    "nni.compression.pytorch.pruning": f"{V2_PRUNERS} PruningScheduler",
    "nni.compression.pytorch.pruning.tools": GENERATORS,
    "nni.compression.pytorch.quantization": V1_QUANTIZERS,
    "nni.compression.experiment": "CompressionExperiment CompressionExperimentConfig",
    "nni.compression": f"Compressor Pruner Quantizer Distiller {EVALUATORS} DeepspeedTorchEvaluator",
    "nni.compression.base.setting": "PruningSetting QuantizationSetting DistillationSetting",
    "nni.compression.pruning": V3_PRUNERS,
    "nni.compression.quantization": V3_QUANTIZERS,
    "nni.compression.distillation": DISTILLERS,
    "nni.compression.speedup": "ModelSpeedup MaskUpdater Replacer TransformersAttentionReplacer",
    "nni.compression.utils": "auto_set_denpendency_group_ids",
    "nni.contrib.compression.pruning": V3_PRUNERS,
    "nni.contrib.compression.quantization": V3_QUANTIZERS,
    "nni.contrib.distillation": PATCHERS,
}
ROWS = [(path, name) for path, names in REFERENCE.items() for name in names.split()]


@pytest.mark.parametrize(("path", "name"), ROWS)
def test_a_name_of_the_reference_can_be_imported(path, name):
    module = import_module(path)
    assert name in module.__all__
    assert name in dir(module)
    assert getattr(module, name) is not None


def test_every_name_that_leads_somewhere_is_documented():
    for path, name in ROWS:
        found = getattr(import_module(path), name)
        if callable(found):
            assert found.__doc__, f"{path}.{name}"


def test_all_names_of_a_module_come_with_a_star():
    space: dict[str, object] = {}
    exec("from nni.algorithms.compression.pytorch.pruning import *", space)
    assert set(V1_PRUNERS.split()) <= space.keys()


def test_a_version_s_pruner_is_its_own_and_torchpare_s():
    paths = (
        "nni.algorithms.compression.pytorch.pruning", "nni.compression.pytorch.pruning", "nni.compression.pruning",
    )  # fmt: skip
    pruners = {import_module(path).LevelPruner for path in paths}
    assert len(pruners) == 3
    assert all(issubclass(pruner, LevelPruner) for pruner in pruners)


@pytest.mark.parametrize(
    ("path", "name", "instead"),
    [
        ("nni", "get_next_parameter", "a search library such as Optuna"),
        ("nni.compression.pytorch.compressor", "QuantGrad", "torchpare.quantization.Quantizer"),
        ("nni.compression.pytorch.pruning.tools", "DataCollector", "torchpare.pruning.Pruner"),
        ("nni.contrib.distillation", "DistilLabelPatcher", "torchpare.distillation"),
        ("nni.common.graph_utils", "build_module_graph", "torchpare.graph.analyse"),
    ],
)
def test_a_name_without_counterpart_says_what_to_use_when_it_is_used(path, name, instead):
    found = getattr(import_module(path), name)
    with pytest.raises(CompatError, match=rf"^{path}\.{name} has no counterpart in torchpare; instead: .*{instead}"):
        found()
    with pytest.raises(CompatError, match="has no counterpart"):
        type("Mine", (found,), {})


def test_members_of_a_name_without_counterpart_say_so_too():
    from nni.compression.pytorch.quantization_speedup import CalibrateType

    with pytest.raises(CompatError, match="instead: a quantizer's 'observer'"):
        CalibrateType.ENTROPY2  # noqa: B018 - the access is the test
    assert not isinstance(3, CalibrateType)


def test_an_unknown_name_is_an_import_error_with_the_nearest():
    with pytest.raises(ImportError, match="L1FilterPruners"):
        exec("from nni.algorithms.compression.pytorch.pruning import L1FilterPruners")
    with pytest.raises(AttributeError, match="did you mean 'L1FilterPruner'"):
        import_module("nni.algorithms.compression.pytorch.pruning").L1FilterPruners  # noqa: B018 - as above


def test_what_is_no_compression_is_a_module_that_is_not_found():
    with pytest.raises(ModuleNotFoundError, match=r"nni\.retiarii is not part of it.*Optuna"):
        import_module("nni.retiarii")
    with pytest.raises(ModuleNotFoundError, match=r"did you mean nni\.compression\.pytorch\.pruning"):
        import_module("nni.compression.pytorch.prunning")


def in_a_process(script, *, before="", **more):
    command = [sys.executable, "-c", before + script]
    return subprocess.run(command, cwd=ROOT, env=environment(**more), capture_output=True, text=True, check=False)


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def test_the_added_line_loads_no_room_that_it_does_not_need():
    script = "import sys, torchpare.compat.nni; print(*sorted(n for n in sys.modules if n.startswith('torchpare.')))"
    loaded = in_a_process(script).stdout.split()
    assert "torchpare.compat.nni.finder" in loaded
    assert not [name for name in loaded if not name.startswith(("torchpare.compat", "torchpare.errors"))]


def test_the_added_line_costs_little():
    start = time.perf_counter()
    done = in_a_process("import torchpare.compat.nni, sys; assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - start < 10  # a process, on a shared machine; torch alone takes longer


REAL = "trace = 'the real one'\n"


@pytest.fixture
def _real_nni(tmp_path):
    (tmp_path / "nni").mkdir()
    (tmp_path / "nni" / "__init__.py").write_text(REAL, encoding="utf-8")


@pytest.mark.usefixtures("_real_nni")
def test_where_nni_is_installed_it_wins_and_the_error_says_how_to_choose(tmp_path):
    path = f"{ROOT}:{tmp_path}"
    done = in_a_process("import torchpare.compat.nni", PYTHONPATH=path)
    assert "CompatError: NNI itself is installed" in done.stderr
    assert "TORCHPARE_NNI=torchpare" in done.stderr
    chosen = in_a_process("import torchpare.compat.nni, nni; print(nni.__spec__.origin)", PYTHONPATH=path,
                          TORCHPARE_NNI="torchpare")  # fmt: skip
    assert chosen.stdout.strip() == "torchpare.compat.nni", chosen.stderr
    without = in_a_process("import nni; print(nni.trace)", PYTHONPATH=path)
    assert without.stdout.strip() == "the real one"


@pytest.mark.usefixtures("_real_nni")
def test_nni_that_is_loaded_already_cannot_be_stood_in_for(tmp_path):
    done = in_a_process("import nni; import torchpare.compat.nni", PYTHONPATH=f"{ROOT}:{tmp_path}",
                        TORCHPARE_NNI="torchpare")  # fmt: skip
    assert "CompatError: NNI itself is loaded already" in done.stderr
    assert "above the first import of nni" in done.stderr


def test_importing_the_line_twice_changes_nothing():
    done = in_a_process(
        "import sys, importlib, torchpare.compat.nni as one; before = list(sys.meta_path); importlib.reload(one); "
        "assert sys.meta_path == before"
    )
    assert done.returncode == 0, done.stderr
