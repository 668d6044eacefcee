"""What stands in for NNI's names computes what torchpare computes under its own: the same bits."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch import nn

V1 = "nni.algorithms.compression.pytorch.pruning"
V2 = "nni.compression.pytorch.pruning"
V3 = "nni.compression.pruning"
FILTERS = [{"sparsity": 0.5, "op_types": ["Conv2d"]}, {"exclude": True, "op_names": ["0"]}]
WEIGHTS = [{"sparsity": 0.7, "op_types": ["default"]}]
NORMS = [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}]


def batches():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 3, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator))
            for _ in range(4)]  # fmt: skip


X = batches()[0][0]


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip


def train(model, optimizer, criterion=F.cross_entropy, epoch=0):
    model.train()
    for x, y in batches():
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def score(model):
    model.eval()
    with torch.no_grad():
        return float(-sum(F.cross_entropy(model(x), y) for x, y in batches()))


def states_equal(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def pruned(pruner, model, tmp_path, name):
    pruner.compress()
    train(model, pruner.optimizer if pruner.waiting else sgd(model))
    pruner.export_model(tmp_path / f"{name}.pth", tmp_path / f"{name}_mask.pth")
    return torch.load(tmp_path / f"{name}.pth"), torch.load(tmp_path / f"{name}_mask.pth"), model.state_dict()


def check(theirs, ours, tmp_path):
    found = []
    for name, make in (("theirs", theirs), ("ours", ours)):
        model = net()
        torch.manual_seed(3)
        found.append(pruned(make(model), model, tmp_path, name))
    states_equal(found[0][0], found[1][0])
    states_equal(found[0][2], found[1][2])
    assert found[0][1].keys() == found[1][1].keys()
    for layer, own in found[0][1].items():
        for key, mask in own.items():
            other = found[1][1][layer][key]
            assert (mask is None and other is None) or torch.equal(mask, other), (layer, key)


CALLS = {
    "LevelPruner": lambda kind, model: kind(model, WEIGHTS),
    "L1FilterPruner": lambda kind, model: kind(model, FILTERS),
    "L2FilterPruner": lambda kind, model: kind(model, FILTERS, dependency_aware=True, dummy_input=X),
    "FPGMPruner": lambda kind, model: kind(model, FILTERS, sgd(model), False, X),
    "SlimPruner": lambda kind, model: kind(model, NORMS, sgd(model), train, F.cross_entropy, 2),
    "TaylorFOWeightFilterPruner": lambda kind, model: kind(model, FILTERS, sgd(model), train, F.cross_entropy, 3),
    "ActivationAPoZRankFilterPruner": lambda kind, model: kind(model, FILTERS, sgd(model), train, F.cross_entropy),
    "ActivationMeanRankFilterPruner": lambda kind, model: kind(model, FILTERS, sgd(model), "relu", 2),
    "AGPPruner": lambda kind, model: kind(model, FILTERS, sgd(model), train, F.cross_entropy, 3, 1, "l1"),
    "ADMMPruner": lambda kind, model: kind(model, FILTERS, train, F.cross_entropy, 2, 1, 1e-3, "l1"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_pruner_of_2_3_is_torchpare_s(name, tmp_path):
    theirs, ours = (getattr(import_module(path), name) for path in (V1, "torchpare.pruning"))
    check(lambda model: CALLS[name](theirs, model), lambda model: CALLS[name](ours, model), tmp_path)


SEARCHES = {
    "NetAdaptPruner": lambda kind, model, folder: kind(model, FILTERS, None, score, sparsity_per_iteration=0.2,
                                                       experiment_data_dir=folder),
    "SimulatedAnnealingPruner": lambda kind, model, folder: kind(model, FILTERS, score, start_temperature=100,
                                                                 stop_temperature=90, experiment_data_dir=folder),
}  # fmt: skip


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_of_2_3_is_torchpare_s(name, tmp_path):
    theirs, ours = (getattr(import_module(path), name) for path in (V1, "torchpare.pruning"))
    for folder in ("theirs", "ours"):
        (tmp_path / folder).mkdir()
    check(
        lambda model: SEARCHES[name](theirs, model, tmp_path / "theirs"),
        lambda model: SEARCHES[name](ours, model, tmp_path / "ours"),
        tmp_path,
    )


def evaluator(model, optimizer=None):
    from nni.compression.pytorch import TorchEvaluator

    def training_func(model, optimizers, criterion, lr_schedulers=None, max_steps=None, max_epochs=None):
        done = 0
        for _ in range(max_epochs or 1):
            for x, y in batches():
                if done == max_steps:
                    return
                optimizers.zero_grad()
                criterion(model(x), y).backward()
                optimizers.step()
                done += 1

    return TorchEvaluator(training_func, sgd(model) if optimizer is None else optimizer, F.cross_entropy,
                          evaluating_func=score)  # fmt: skip


EVALUATED = {
    "SlimPruner": (lambda kind, model: kind(model, NORMS, evaluator(model), 2), "SlimPruner",
                   lambda kind, model: kind(model, NORMS, sgd(model), train, F.cross_entropy, 2)),
    "MovementPruner": (lambda kind, model: kind(model, WEIGHTS, evaluator(model), 1, 6, training_epochs=2),
                       "MovementPruner",
                       lambda kind, model: kind(model, WEIGHTS, sgd(model), train, F.cross_entropy, 2, 1, 6)),
    "ADMMPruner": (lambda kind, model: kind(model, FILTERS, evaluator(model), 2, 1, granularity="coarse-grained"),
                   "ADMMPruner",
                   lambda kind, model: kind(model, FILTERS, train, F.cross_entropy, 2, 1, 1e-4, "l1",
                                            optimizer=sgd(model))),
}  # fmt: skip


@pytest.mark.parametrize("name", EVALUATED)
def test_an_evaluator_trains_as_a_trainer_does(name, tmp_path):
    theirs, own_name, ours = EVALUATED[name]
    check(
        lambda model: theirs(getattr(import_module(V2), name), model),
        lambda model: ours(getattr(import_module("torchpare.pruning"), own_name), model),
        tmp_path,
    )


@pytest.mark.parametrize("name", ["ActivationAPoZRankPruner", "TaylorFOWeightPruner"])
def test_statistics_that_an_evaluator_shows_choose_what_a_trainer_s_do(name):
    masks = []
    for path in (V2, "torchpare.pruning"):
        model = net()
        kind = getattr(import_module(path), name)
        if path == V2:
            _, found = kind(model, FILTERS, evaluator(model), 3).compress()
            masks.append({layer: own["weight"].bool() for layer, own in found.items()})
        else:
            pruner = kind(model, FILTERS, sgd(model), train, F.cross_entropy, training_batches=3)
            pruner.compress()
            shapes = dict(model.named_parameters())
            masks.append({layer: own["weight"].expand(shapes[f"{layer}.weight"].shape)
                          for layer, own in pruner.get_masks().items() if "weight" in own})  # fmt: skip
    assert set(masks[0]) <= set(masks[1])
    assert torch.equal(masks[0]["3"], masks[1]["3"])


@pytest.mark.parametrize(
    ("name", "ours"),
    [("LevelPruner", "LevelPruner"), ("L1NormPruner", "L1FilterPruner"), ("FPGMPruner", "FPGMPruner")],
)
def test_a_config_of_3_0_asks_what_one_of_2_3_does(name, ours, tmp_path):
    later = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5, "exclude_op_names": ["0"]}]
    check(
        lambda model: getattr(import_module(V3), name)(model, later),
        lambda model: getattr(import_module("torchpare.pruning"), ours)(model, FILTERS),
        tmp_path,
    )


def test_a_linear_schedule_of_3_0_prunes_as_much_behind_each_interval():
    from nni.compression.pruning import L1NormPruner, LinearPruner

    model = net()
    seen = []
    watched = evaluator(model)
    pruner = LinearPruner(L1NormPruner(model, FILTERS[:1], watched), interval_steps=2, total_times=4)
    watched.patch_optimizer_step([], [lambda: seen.append(int((model[0].weight.flatten(1) == 0).all(dim=1).sum()))])
    pruner.compress(max_epochs=3)
    assert seen == [0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 4]


QUANTIZED = [
    {"quant_types": ["weight", "output"], "quant_bits": {"weight": 8, "output": 8}, "op_types": ["Conv2d"]},
    {"exclude": True, "op_names": ["3"]},
]
WEIGHT = [{"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Conv2d", "Linear"]}]


@pytest.mark.parametrize(
    ("name", "asked"),
    [("QAT_Quantizer", QUANTIZED), ("NaiveQuantizer", WEIGHT), ("DoReFaQuantizer", WEIGHT), ("LsqQuantizer", WEIGHT)],
)
def test_a_quantizer_of_2_3_is_torchpare_s(name, asked, tmp_path):
    found = []
    for path in ("nni.algorithms.compression.pytorch.quantization", "torchpare.quantization"):
        model = net()
        optimizer = sgd(model)
        quantizer = getattr(import_module(path), name)(model, asked, optimizer)
        assert quantizer.compress() is model
        train(model, optimizer)
        calibration = quantizer.export_model(tmp_path / "model.pth", tmp_path / "calibration.pth")
        found.append((model.state_dict(), torch.load(tmp_path / "model.pth"), calibration))
    states_equal(found[0][0], found[1][0])
    states_equal(found[0][1], found[1][1])
    assert str(found[0][2]) == str(found[1][2])


def test_a_quantizer_of_3_0_is_torchpare_s():
    from nni.compression.quantization import QATQuantizer

    from torchpare.quantization import QATQuantizer as Ours

    later = [{"op_names": ["0"], "target_names": ["weight", "_output_0"], "quant_dtype": "int8",
              "target_settings": {"_output_0": {"quant_dtype": "uint8"}}}]  # fmt: skip
    theirs, own = net(), net()
    _, calibration = QATQuantizer(theirs, later, evaluator(theirs)).compress(max_epochs=2)
    optimizer = sgd(own)
    quantizer = Ours(own, QUANTIZED, optimizer)
    quantizer.compress()
    for _ in range(2):
        train(own, optimizer)
    states_equal(theirs.state_dict(), own.state_dict())
    assert calibration["0"]["weight_bits"] == calibration["0"]["output_bits"] == 8


def test_a_small_model_is_the_one_that_torchpare_makes(tmp_path):
    from nni.compression.pytorch import ModelSpeedup as Second
    from nni.compression.speedup import ModelSpeedup as Third

    from torchpare import ModelSpeedup
    from torchpare.pruning import L1FilterPruner

    states = []
    for kind in (ModelSpeedup, Second, Third):
        model = net()
        L1FilterPruner(model, FILTERS[:1], dummy_input=X).compress()
        job = kind(model, X)
        returned = job.speedup_model()
        states.append(model.state_dict())
        assert returned is model if kind is Third else returned.exact
    states_equal(states[0], states[1])
    states_equal(states[0], states[2])
