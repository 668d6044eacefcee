"""Methods that NNI's pruners and evaluators had beside what they compute: resetting, sensitivities, hooks."""

from __future__ import annotations

import pytest
import torch
from nni.algorithms.compression.pytorch.pruning import ActivationAPoZRankFilterPruner as Apoz
from nni.algorithms.compression.pytorch.pruning import AGPPruner as EarlierAGP
from nni.algorithms.compression.pytorch.pruning import SensitivityPruner
from nni.algorithms.compression.pytorch.pruning import TaylorFOWeightFilterPruner as Taylor
from nni.compression.pruning import SlimPruner as LaterSlim
from nni.compression.pytorch import TorchEvaluator
from nni.compression.pytorch.pruning import ADMMPruner, L1NormPruner, LinearPruner, SlimPruner

from tests.support.rounds import ASKED, X, by_trainer, net, pruned, score, sgd, train
from torchpare import pruning
from torchpare.errors import CompatError, ConfigError

NORMS = [{"op_types": ["BatchNorm2d"], "sparsity": 0.5}]


def test_a_pruner_of_2_5_is_reset_to_a_model_and_a_config_list():
    model = net()
    pruner = L1NormPruner(model, ASKED)
    pruner.compress()
    assert pruned(model) == 12
    pruner.reset()
    assert pruned(model) == 0
    pruner.reset(config_list=[{"op_names": ["0"], "sparsity": 0.25}])
    assert list(pruner.get_modules_wrapper()) == ["0"]
    pruner.compress()
    assert pruned(model) == 4
    other = net()
    pruner.reset(other, [{"op_names": ["3"], "sparsity": 0.5}])
    assert list(pruner.get_modules_wrapper()) == ["3"]
    compressed, masks = pruner.compress()
    assert compressed is other
    assert float(masks["3"]["bias"].sum()) == 4
    assert pruned(model) == 0


def test_a_config_list_that_cannot_be_used_leaves_the_pruner_as_it_was():
    model = net()
    pruner = L1NormPruner(model, ASKED)
    pruner.compress()
    with pytest.raises(ConfigError, match="names no layer"):
        pruner.reset(model, [{"op_names": ["nowhere"], "sparsity": 0.5}])
    assert pruned(model) == 12
    with pytest.raises(CompatError, match="LinearPruner cannot be reset: make it anew"):
        LinearPruner(model, ASKED, "l1", 2).reset(model, ASKED)
    with pytest.raises(CompatError, match="ADMMPruner cannot be reset"):
        ADMMPruner(model, ASKED, **by_trainer(model), iterations=1, training_epochs=1).reset()


@pytest.mark.parametrize("mode", ["global", "normal"])
def test_scales_are_ranked_together_or_norm_by_norm(mode):
    model = torch.nn.Sequential(*net()[:4], torch.nn.BatchNorm2d(8), *net()[4:])
    with torch.no_grad():
        model[1].weight.copy_(0.01 * torch.arange(1, 17))
    SlimPruner(model, NORMS, train, torch.optim.SGD(model.parameters(), lr=0.0), torch.nn.CrossEntropyLoss(), 1, 1e-4,
               mode).compress()  # fmt: skip
    gone = [int((model[at].weight == 0).sum()) for at in (1, 4)]
    assert gone == {"global": [12, 0], "normal": [8, 4]}[mode]


@pytest.mark.parametrize(("said", "gone"), [({}, [8, 4]), ({"global_group_id": "all"}, [12, 0])])
def test_scales_of_3_are_ranked_together_where_entries_share_a_group(said, gone):
    model = torch.nn.Sequential(*net()[:4], torch.nn.BatchNorm2d(8), *net()[4:])
    with torch.no_grad():
        model[1].weight.copy_(0.01 * torch.arange(1, 17))
    evaluator = TorchEvaluator(lambda *_: None, torch.optim.SGD(model.parameters(), lr=0.0))
    asked = [{"op_types": ["BatchNorm2d"], "sparse_ratio": 0.5, **said}]
    LaterSlim(model, asked, evaluator, 1).compress()
    assert [int((model[at].weight == 0).sum()) for at in (1, 4)] == gone


def test_sensitivities_become_ratios_and_these_a_config_list(tmp_path):
    model = net()
    conv = [{"op_types": ["Conv2d"], "sparsity": 0.4}]
    pruner = SensitivityPruner(model, conv, score, checkpoint_dir=str(tmp_path), dummy_input=X)
    assert pruner.current_sparsity() == 0
    # 16 * 9 and 8 * 16 * 9 weights: 0.2 and 0.4 of them are 28.8 + 460.8; a quarter of 1296 is 324.
    ratios = pruner.normalize({"0": 0.2, "3": 0.4}, 0.25)
    factor = 324 / (28.8 + 460.8)
    assert ratios == pytest.approx({"0": 0.2 * factor, "3": 0.4 * factor})
    assert pruner.normalize({"0": 0.9, "3": 0.1}, 0.9) == pytest.approx({"0": 0.95, "3": 0.95 / 9})
    assert pruner.normalize({"0": 0.0, "3": 0.0}, 0.5) == {"0": 0.0, "3": 0.0}
    pruning.L1FilterPruner(model, [{"op_names": ["0"], "sparsity": 0.5}], dummy_input=X).compress()
    assert pruner.current_sparsity() == pytest.approx(72 / 1296)
    assert pruner.create_cfg({"0": 0.5, "3": 0.25}) == [
        {"sparsity": 0.75, "op_types": ["Conv2d"], "op_names": ["0"]},
        {"sparsity": 0.25, "op_types": ["Conv2d"], "op_names": ["3"]},
    ]


def test_the_sparsity_of_an_epoch_is_asked_for_with_any_entry():
    model = net()
    pruner = EarlierAGP(model, ASKED, sgd(model), num_iterations=5)
    pruner.compress()
    pruner.update_epoch(2)
    for entry in ({"sparsity": 0.8}, {"sparsity": 0.8, "op_types": ["Conv2d"]}, {"final_sparsity": 0.8}):
        assert pruner.compute_target_sparsity(entry) == pytest.approx(0.8 * (1 - (1 - 2 / 4) ** 3))
    with pytest.raises(ConfigError, match="'sparsity'"):
        pruner.compute_target_sparsity({"sparsity": 8})


def test_an_evaluator_registers_hooks_and_takes_them_off():
    class Hook:
        on = False

        def register(self):
            self.on = True

        def remove(self):
            self.on = False

    evaluator = TorchEvaluator(lambda *_: None, sgd(net()))
    one, two = Hook(), Hook()
    evaluator.register_hooks([one, two])
    assert evaluator.get_all_hooks() == [one, two]
    evaluator.remove_hooks([one])
    assert (one.on, two.on, evaluator.get_all_hooks()) == (False, True, [two])
    evaluator.remove_all_hooks()
    assert (two.on, evaluator.get_all_hooks()) == (False, [])


def test_later_names_of_pruners_are_here_too():
    assert pruning.TaylorPruner is pruning.TaylorFOWeightPruner is pruning.TaylorFOWeightFilterPruner


@pytest.mark.parametrize(("kind", "given"), [(Apoz, ("relu", 2)), (Taylor, (2,))])
@pytest.mark.parametrize("begun", [True, False])
def test_masks_that_are_asked_for_too_early_wait_for_what_was_asked_to_be_seen(kind, given, begun):
    model = net()
    optimizer = sgd(model)
    pruner = kind(model, ASKED, optimizer, *given)
    if begun:
        pruner.compress()
    seen = []
    for _ in range(4):
        pruner.update_mask()
        seen.append(pruned(model))
        train(model, optimizer, torch.nn.CrossEntropyLoss())
    pruner.update_mask()  # which changes nothing any more
    assert seen == [0, 0, 12, 12]
    assert pruned(model) == 12


@pytest.mark.parametrize("begun", [True, False])
def test_a_loop_may_ask_for_the_masks_of_each_epoch(begun):
    model = net()
    optimizer = sgd(model)
    pruner = EarlierAGP(model, ASKED, optimizer, num_iterations=4, pruning_algorithm="l1")
    if begun:
        pruner.compress()
    seen = []
    for epoch in range(5):
        pruner.update_epoch(epoch)
        train(model, optimizer, torch.nn.CrossEntropyLoss())
        pruner.update_mask()
        seen.append(pruned(model))
    assert seen == [int(12 * (1 - (1 - min(epoch, 3) / 3) ** 3) + 1e-6) for epoch in range(5)]
