"""Pruning from epoch to epoch: which sparsity when, by which criterion, driven by whom."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.pruning.training import Small, batches, train
from torchpare import ModelSpeedup
from torchpare.attach import is_attached, masks_of
from torchpare.errors import ConfigError, MaskError
from torchpare.numerics import cubic, drop_count
from torchpare.pruning import AGPPruner, L1FilterPruner, LinearPruner
from torchpare.pruning.ranked import CRITERIA

X = torch.ones(2, 1, 6, 6)
DENSE = [{"sparsity": 0.8, "op_types": ["Conv2d"]}]
OLDER = [{"initial_sparsity": 0.1, "final_sparsity": 0.8, "start_epoch": 1, "end_epoch": 8, "frequency": 2,
          "op_types": ["Conv2d"]}]  # fmt: skip


def model_and_optimizer(seed=0):
    torch.manual_seed(seed)
    model = Small()
    return model, torch.optim.SGD(model.parameters(), lr=0.05)


def gone(model, layer="b"):
    return int((~masks_of(model)[layer]["weight"]).sum()) if is_attached(model) else 0


def test_a_trainer_is_run_to_the_end_with_a_mask_behind_each_epoch_that_is_due():
    model, optimizer = model_and_optimizer()
    seen = []

    def trainer(model, optimizer, criterion, epoch):
        seen.append((epoch, gone(model), model.training))
        train(model, optimizer, criterion, epoch)

    model.eval()
    AGPPruner(model, DENSE, optimizer, trainer, None, num_iterations=4, epochs_per_iteration=2).compress()
    shares = [0.0, *(0.8 - 0.8 * (1 - t / 6) ** 3 for t in (0, 2, 4, 6))]
    behind = [0, 0, *(drop_count(576, share) for share in shares[2:4] for _ in (0, 1))]
    assert [epoch for epoch, _, _ in seen] == list(range(8))
    assert [count for _, count, _ in seen] == [0, *behind, drop_count(576, 0.8)]
    assert all(training for _, _, training in seen)
    assert gone(model) == drop_count(576, 0.8)
    assert not model.training


def test_your_own_loop_says_update_epoch():
    model, optimizer = model_and_optimizer()
    pruner = AGPPruner(model, OLDER, optimizer, "level")
    pruner.compress()
    counts = []
    for epoch in range(10):
        pruner.update_epoch(epoch)
        train(model, optimizer, epoch=epoch)
        pruner.step()
        counts.append(gone(model))
    # start 1, span ((8 - 1 - 1) // 2) * 2 = 6: masks in epochs 1, 3, 5 and 7
    expected = [drop_count(576, 0.8 - 0.7 * (1 - t / 6) ** 3) for t in (0, 2, 4, 6)]
    assert counts == [0, *(count for count in expected for _ in (0, 1)), expected[-1]]


def test_what_is_pruned_stays_pruned():
    model, optimizer = model_and_optimizer()
    pruner = AGPPruner(model, DENSE, optimizer, num_iterations=5)
    pruner.compress()
    before = torch.ones(8, 8, 3, 3, dtype=torch.bool)
    for epoch in range(5):
        pruner.update_epoch(epoch)
        train(model, optimizer, epoch=epoch)
        after = masks_of(model).get("b", {"weight": before})["weight"]
        assert not (after & ~before).any()
        before = after
    assert int((~before).sum()) == drop_count(576, 0.8)


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_every_criterion_prunes_gradually_trains_and_shrinks(name):
    model, optimizer = model_and_optimizer()
    layers = {"op_types": ["BatchNorm2d"]} if name == "slim" else {"op_types": ["Conv2d"]}
    pruner = AGPPruner(model, [{"sparsity": 0.5, **layers}], optimizer, train, None, 3, 1, name, dummy_input=X)
    pruner.compress()
    assert not any(module._forward_hooks for module in model.modules())
    train(model, optimizer, epoch=9)
    masks = masks_of(model)
    masked = sum(
        int((~masks[layer]["weight"]).sum()) for layer in (("a", "b") if name != "slim" else ("norm_a", "norm_b"))
    )
    assert masked == (drop_count(72, 0.5) + drop_count(576, 0.5) if name == "level" else 8)
    report = ModelSpeedup(model, X).speedup_model()
    assert report.exact
    assert (report.parameters_after < report.parameters_before) == (name != "level")


def test_slim_in_iterations_ranks_scales_as_training_leaves_them():
    norms, left = [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}], {}

    def with_penalty(model, optimizer, criterion=None, epoch=0):
        for x, y in batches(epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            pruner.ranking.sparsify()  # as the docstring says
            optimizer.step()

    for trainer in (None, train, with_penalty):
        model, optimizer = model_and_optimizer()
        pruner = AGPPruner(model, norms, optimizer, trainer, None, 4, 1, "slim")
        pruner.ranking.scale = 1.0
        if trainer is None:  # the same training, and no pruner about
            for epoch in range(4):
                train(model, optimizer, epoch=epoch)
        else:
            pruner.compress()
        left[trainer] = model.norm_a._parameters["weight"].abs().sum()
    first = torch.stack([left[None], left[train]])
    assert left[with_penalty] < 0.7 * first.min()
    torch.testing.assert_close(*first, rtol=0.1, atol=0)


def test_a_pruner_in_place_of_the_model_is_told_first():
    inner = L1FilterPruner(Small(), [{"sparsity": 0.5, "op_types": ["Conv2d"]}])
    with pytest.raises(ConfigError, match=r"AGPPruner: model is a L1FilterPruner, not a torch\.nn\.Module"):
        AGPPruner(inner, 100, 10)  # type: ignore[arg-type] - as scripts of another version call theirs


def test_a_criterion_of_your_own_and_a_schedule_of_your_own():
    class Backwards(L1FilterPruner):
        def score(self, weight):
            return -super().score(weight)

    model, optimizer = model_and_optimizer()
    twin = copy.deepcopy(model)
    asked = []

    def schedule(initial, final, progress):
        asked.append(progress)
        return final if progress > 0.4 else initial

    pruner = AGPPruner(model, [{"sparsity": 0.5, "op_names": ["b"]}], optimizer, num_iterations=5,
                       pruning_algorithm=Backwards, schedule=schedule)  # fmt: skip
    pruner.compress()
    for epoch in range(5):
        pruner.update_epoch(epoch)
        assert gone(model) == (4 if epoch >= 2 else 0)
    assert {0.0, 0.25, 0.5, 0.75, 1.0} <= set(asked)
    largest = twin.b.weight.abs().sum((1, 2, 3)).argsort()[4:]
    assert not masks_of(model)["b"]["weight"].flatten()[largest].any()


def test_data_is_seen_anew_for_each_mask():
    model, optimizer = model_and_optimizer()
    pruner = LinearPruner(model, [{"sparsity": 0.75, "op_names": ["b"]}], optimizer, num_iterations=4,
                          pruning_algorithm="taylorfo")  # fmt: skip
    pruner.compress()
    seen = []
    for epoch in range(4):
        pruner.update_epoch(epoch)
        seen.append(pruner.ranking._watch.batches if pruner.ranking._watch else None)
        train(model, optimizer, epoch=epoch)
    assert seen == [0, 0, 0, None]  # forgotten with each mask, and no longer looked for behind the last
    assert gone(model) == 6


def test_a_linear_schedule_takes_as_much_each_time():
    model, optimizer = model_and_optimizer()
    pruner = LinearPruner(model, [{"sparsity": 0.5, "op_names": ["b"]}], optimizer, num_iterations=5)
    pruner.compress()
    counts = []
    for epoch in range(5):
        pruner.update_epoch(epoch)
        counts.append(gone(model))
    assert counts == [drop_count(576, 0.125 * at) for at in range(5)]


def test_the_older_toolkits_names():
    model, optimizer = model_and_optimizer()
    pruner = AGPPruner(model, DENSE, optimizer, train, None, num_iterations=6, epochs_per_iteration=2)
    pruner.now_epoch = 4
    assert (pruner.freq, pruner.end_epoch) == (2, 12)
    assert pruner.compute_target_sparsity({"sparsity": 0.8, "op_types": ["Conv2d"]}) == pytest.approx(
        cubic(0, 0.8, 0.4)
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"sparsity": 0.5, "final_sparsity": 0.5}, "mean the same"),
        ({"sparsity": 0.5, "frequency": 0}, "frequency.*give 1"),
        ({"sparsity": 0.5, "start_epoch": 5, "end_epoch": 5}, "end later"),
        ({"sparsity": 0.5, "initial_sparsity": 0.6}, "begin with less"),
        ({"sparsity": 0.5, "start_epoch": -1}, "whole number"),
        ({"initial_sparsity": 0.1}, "neither 'sparsity' nor 'exclude'"),
        ({"sparsity": 0.5, "frequncy": 2}, "did you mean 'frequency'"),
    ],
)
def test_entries_that_cannot_be_used_say_so(entry, message):
    with pytest.raises(ConfigError, match=message):
        AGPPruner(Small(), [{"op_types": ["Conv2d"], **entry}])


@pytest.mark.parametrize(
    "options", [{"pruning_algorithm": "l3"}, {"pruning_algorithm": nn.Linear}, {"schedule": "square"}]
)
def test_an_unknown_criterion_or_schedule_lists_the_known_ones(options):
    with pytest.raises(ConfigError, match=r"it is one of '(level|cubic)'"):
        AGPPruner(Small(), DENSE, **options)


def test_export_says_what_it_waits_for(tmp_path):
    pruner = AGPPruner(Small(), DENSE)
    pruner.compress()
    with pytest.raises(MaskError, match="update_epoch"):
        pruner.export_model(tmp_path / "model.pth")
