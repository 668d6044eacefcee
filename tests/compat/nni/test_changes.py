"""What behaves differently is told once, where a script meets it, with the reason; and the page has the same list."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import nni
import pytest
import torch
import torch.nn.functional as F
from nni.algorithms.compression.pytorch import pruning as v1
from nni.algorithms.compression.pytorch import quantization as q1
from nni.compression import pruning as v3
from nni.compression import quantization as q3
from nni.compression import speedup as speedup_v3
from nni.compression.distillation import DynamicLayerwiseDistiller
from nni.compression.pytorch import ModelSpeedup, TorchEvaluator, apply_compression_results
from nni.compression.pytorch import pruning as v2
from nni.compression.pytorch.utils import ChannelDependency, count_flops_params, fix_mask_conflict
from torch import nn

from torchpare.compat.nni import CHANGES, NNIChangeWarning, as_table

ROOT = Path(__file__).resolve().parents[3]
FILTERS = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
X = torch.zeros(2, 1, 8, 8)
MASKS = {"0": {"weight": torch.tensor([1.0, 0, 1, 0]).view(4, 1, 1, 1)}}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(),
                         nn.Linear(64, 3))  # fmt: skip


def train(model, optimizer, criterion=F.cross_entropy, epoch=0):
    optimizer.zero_grad()
    criterion(model(torch.randn(4, 1, 8, 8)), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.01)


def evaluator(model):
    return TorchEvaluator(lambda model, optimizer, *_: train(model, optimizer), sgd(model), F.cross_entropy,
                          dummy_input=X)  # fmt: skip


def made(kind, *args, **named):
    return kind(net(), *args, **named)


def compressed(kind, *args, **named):
    pruner = made(kind, *args, **named)
    pruner.compress()
    return pruner


def exported(folder, **named):
    compressed(v1.L1FilterPruner, FILTERS, dummy_input=X).export_model(folder / "model.pth", **named)


def constant():
    model = net()
    nn.init.ones_(model[5].weight)
    v1.LevelPruner(model, [{"sparsity": 0.5, "op_types": ["Linear"]}]).compress()


def trained(kind, config, *args):
    model = net()
    kind(model, config, sgd(model), train, F.cross_entropy, *args).compress()


def searched(kind, folder, *args, **named):
    named = {"experiment_data_dir": folder} | named
    kind(net(), FILTERS, *args, lambda model: float(model[0].weight.abs().sum()), **named).compress()


def heads_by_gradients(model):
    asked = [{"sparsity": 0.5, "structures": ["heads"]}]
    return v1.TransformerHeadPruner(model, asked, dummy_input=X, ranking_criterion="taylorfo", optimizer=sgd(model),
                                    trainer=train)  # fmt: skip


def by_lambda(folder):
    (folder / "a").mkdir()
    model = net()
    v1.SimulatedAnnealingPruner(model, FILTERS, lambda m: 1.0, start_temperature=100, stop_temperature=95,
                                experiment_data_dir=folder / "a", dummy_input=X).compress()  # fmt: skip


def quantized(kind, config, *args):
    quantizer = kind(net(), config, *args)
    quantizer.compress()
    return quantizer


def scheduled(**named):
    v2.LinearPruner(net(), FILTERS, "l1", 1, **named)


def distilled():
    model = net()
    own = TorchEvaluator(
        lambda model, optimizer, step, *_: step(X, model).backward(), sgd(model), training_step=lambda x, m: m(x).mean()
    )
    DynamicLayerwiseDistiller(model, [{"op_names": ["5"]}], own, net()).compress()


WEIGHT = [{"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Conv2d"]}]
BOTH = [{"quant_types": ["weight", "output"], "quant_bits": 8, "op_types": ["Conv2d"]}]
LATER = [{"op_types": ["Conv2d"], "target_names": ["weight"], "quant_dtype": "int8"}]

MEETING = {
    "exclude": lambda folder: compressed(v1.LevelPruner, [{**FILTERS[0], "exclude": False}]),
    "constructor": lambda folder: made(v1.LevelPruner, FILTERS).get_modules_wrapper(),
    "wrappers": lambda folder: made(v1.LevelPruner, FILTERS).get_modules_wrapper(),
    "ties": lambda folder: constant(),
    "groups": lambda folder: compressed(v1.FPGMPruner, FILTERS),
    "masks": lambda folder: exported(folder, mask_path=folder / "mask.pth"),
    "apply": lambda folder: apply_compression_results(net(), MASKS),
    "speedup": lambda folder: ModelSpeedup(net(), X, MASKS).speedup_model(),
    "speedup_v3": lambda folder: speedup_v3.ModelSpeedup(net(), X, MASKS).speedup_model(),
    "speedup_options": lambda folder: ModelSpeedup(net(), X, MASKS, confidence=8),
    "conflict": lambda folder: fix_mask_conflict(MASKS, net(), X),
    "dependencies": lambda folder: ChannelDependency(net(), X),
    "counter": lambda folder: count_flops_params(net(), X, verbose=False),
    "slim": lambda folder: trained(v1.SlimPruner, [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}], 1),
    "fused": lambda folder: v3.LevelPruner.from_compressor(
        made(v3.L1NormPruner, FILTERS), [{"op_types": ["Linear"], "sparse_ratio": 0.5}]
    ).compress(),
    "global_sort": lambda folder: trained(v1.TaylorFOWeightFilterPruner, FILTERS, 1, False, None, True),
    "head_gradients": lambda folder: heads_by_gradients(net()).tell_changes(),
    "admm": lambda folder: compressed(v1.ADMMPruner, FILTERS, train, F.cross_entropy, 1, 1),
    "statistics": lambda folder: trained(v1.AGPPruner, FILTERS, 2, 1, "apoz"),
    "annealing": by_lambda,
    "amc": lambda folder: v1.AMCPruner(net(), FILTERS, lambda model: 1.0, output_dir=folder).tell_changes(),
    "search_model": lambda folder: searched(v1.NetAdaptPruner, folder, None, sparsity_per_iteration=0.4),
    "rounds_speedup": lambda folder: scheduled(speedup=True, dummy_input=X),
    "rounds_log": lambda folder: scheduled(log_dir="logs"),
    "movement": lambda folder: compressed(
        v3.MovementPruner, [{"sparse_ratio": 0.5, "op_types": ["Linear"]}], evaluator(net()), 0, 1
    ),
    "scale": lambda folder: quantized(q1.LsqQuantizer, BOTH),
    "grid": lambda folder: quantized(q1.QAT_Quantizer, WEIGHT),
    "bnn": lambda folder: quantized(q1.BNNQuantizer, WEIGHT),
    "naive": lambda folder: quantized(q1.NaiveQuantizer, WEIGHT),
    "start_step": lambda folder: quantized(q1.QAT_Quantizer, [{**WEIGHT[0], "quant_start_step": 3}]),
    "quant_export": lambda folder: quantized(q1.DoReFaQuantizer, WEIGHT).export_model(folder / "model.pth"),
    "trace": lambda folder: nni.trace(torch.optim.SGD),
    "first_wins": lambda folder: made(v3.LevelPruner, [{"sparse_ratio": s, "op_names": ["0"]} for s in (0.5, 0.2)]),
    "distillation": lambda folder: distilled(),
    "fuse_names": lambda folder: made(q3.QATQuantizer, [{**LATER[0], "fuse_names": [("0", "1")]}], evaluator(net())),
    "opset": lambda folder: exported(folder, opset_version=11),
}


def told(call, *args):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*args)
    return [warning for warning in caught if issubclass(warning.category, NNIChangeWarning)]


@pytest.mark.usefixtures("_differences_are_told")
@pytest.mark.parametrize("key", CHANGES)
def test_a_difference_is_told_once_where_a_script_meets_it(key, tmp_path):
    was = CHANGES[key]
    text = f"{was.where}: NNI: {was.was}. Here: {was.now}. Why: {was.why}.".replace("`", "")
    for expected, folder in ((1, tmp_path / "first"), (0, tmp_path / "second")):
        folder.mkdir()
        found = [warning for warning in told(MEETING[key], folder) if str(warning.message) == text]
        assert len(found) == expected
        assert all(warning.filename == __file__ for warning in found)


@pytest.mark.usefixtures("_differences_are_told")
def test_no_difference_is_told_that_is_not_met():
    assert told(v1.LevelPruner, net(), FILTERS) == []
    assert told(compressed, v1.LevelPruner, FILTERS) == []
    assert [str(w.message)[:15] for w in told(compressed, v1.L1FilterPruner, FILTERS)] == ["pruning filters"]


def test_a_process_is_told_on_the_line_of_its_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import torchpare.compat.nni\nimport nni\nnni.trace(int)\nnni.trace(int)\n", encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert done.stderr.count("NNIChangeWarning") == 1
    assert f"{script}:3: NNIChangeWarning: nni.trace: NNI: recorded arguments" in done.stderr


def test_differences_can_be_silenced():
    script = """
import warnings
from torchpare.compat.nni import NNIChangeWarning
warnings.filterwarnings("ignore", category=NNIChangeWarning)
import nni
nni.trace(int)
"""
    done = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert done.stderr == ""


def test_the_page_lists_the_differences_as_the_code_has_them():
    page = (ROOT / "docs" / "coming-from-nni.md").read_text(encoding="utf-8")
    assert as_table() in page
