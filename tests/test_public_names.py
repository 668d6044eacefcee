"""The names that users know are where they look for them, and asking for one does not load the rest."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import pytest

import torchpare

ROOT = Path(__file__).parents[1]
NAMES = {
    "torchpare": [
        "ModelSpeedup",
        "Plan",
        "apply_compression_results",
        "benchmark",
        "compress",
        "load",
        "plan",
        "save",
        "save_pretrained",
    ],
    "torchpare.pruning": [
        "ADMMPruner",
        "AGPPruner",
        "AMCPruner",
        "ActivationAPoZRankFilterPruner",
        "ActivationAPoZRankPruner",
        "ActivationMeanRankFilterPruner",
        "ActivationMeanRankPruner",
        "AutoCompressPruner",
        "BudgetSearchPruner",
        "FPGMPruner",
        "HessianFilterPruner",
        "L1FilterPruner",
        "L1NormPruner",
        "L2FilterPruner",
        "L2NormPruner",
        "LevelPruner",
        "LinearPruner",
        "LotteryTicketPruner",
        "MovementPruner",
        "NetAdaptPruner",
        "Pruner",
        "RandomFilterPruner",
        "SensitivityPruner",
        "SimulatedAnnealingPruner",
        "SlimPruner",
        "TaylorFOActivationFilterPruner",
        "TaylorFOWeightFilterPruner",
        "TaylorFOWeightPruner",
        "TransformerHeadPruner",
    ],
    "torchpare.distillation": [
        "AttentionMaps",
        "AttentionScores",
        "Distiller",
        "FeatureTerm",
        "HiddenStates",
        "KeptOutputs",
        "Relations",
        "SoftTargets",
        "Teacher",
        "Term",
        "TokenRelations",
        "dense_teacher",
        "terms_from_config",
    ],
    "torchpare.recipe": ["Recipe", "Result", "compress", "read_recipe", "run_recipe", "schema"],
    "torchpare.integrations": ["Control", "compression"],
    "torchpare.search": ["Executor", "Objective", "Processes", "RayCluster", "SearchPruner", "Serial"],
    "torchpare.insight": [
        "ActivationRange",
        "Activations",
        "Channels",
        "Costs",
        "Coupling",
        "Frontier",
        "FrontierPoint",
        "Insight",
        "LayerCost",
        "LayerRounding",
        "Rounding",
        "Sensitivity",
        "activations",
        "coupling",
        "layer_costs",
        "rounding",
        "sensitivity",
        "study",
    ],
    "torchpare.report": ["Headline", "Page", "Section", "TableBlock", "Verdict", "render_page", "write_page"],
    "torchpare.utils": [
        "ChannelDependency",
        "GroupDependency",
        "SensitivityAnalysis",
        "count_flops_params",
        "fix_mask_conflict",
    ],
}


@pytest.mark.parametrize("package", NAMES)
def test_public_names_are_there_and_documented(package):
    module = import_module(package)
    for name in NAMES[package]:
        assert name in module.__all__
        assert getattr(module, name).__doc__


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(AttributeError, match=r"module 'torchpare' has no attribute 'Speedup'; it has ModelSpeedup"):
        torchpare.Speedup  # noqa: B018 - the access is the test
    assert set(torchpare.__all__) <= set(dir(torchpare))


def test_importing_the_package_loads_none_of_its_rooms():
    script = "import sys, torchpare; print(*sorted(name for name in sys.modules if name.startswith('torchpare')))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["torchpare"]


def test_optional_libraries_are_loaded_where_they_are_used_and_not_before():
    script = "import sys, torchpare.search; print({'ray', 'optuna', 'gymnasium', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_a_name_that_pruning_does_not_have_lists_those_it_has():
    with pytest.raises(AttributeError, match=r"no attribute 'NetPruner'; it has ADMMPruner"):
        import_module("torchpare.pruning").NetPruner  # noqa: B018 - the access is the test


def test_the_version_is_told_once():
    try:
        installed = metadata.version("torchpare")
    except metadata.PackageNotFoundError:
        pytest.skip("torchpare is not installed here, only importable")
    assert installed == torchpare.__version__
