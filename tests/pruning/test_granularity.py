"""Granularity and allocation: options of one mechanism, each with its count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.pruning.nets import Residual, randomised
from torchpare import ModelSpeedup
from torchpare.attach import masks_of
from torchpare.errors import ConfigError
from torchpare.numerics import Block, drop_count
from torchpare.numerics.selection import keep_of_blocks, keep_of_runs, select_common
from torchpare.pruning import (
    ADMMPruner,
    AGPPruner,
    L1FilterPruner,
    LevelPruner,
    LotteryTicketPruner,
    RandomFilterPruner,
    SlimPruner,
)


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 10))


def mask(model, name):
    return masks_of(model)[name]["weight"]


@pytest.mark.parametrize(("pattern", "left", "of"), [("2:4", 2, 4), ("4:8", 4, 8), ("1:4", 1, 4)])
def test_patterns_keep_the_largest_of_every_run_of_inputs(pattern, left, of):
    model = nn.Sequential(nn.Linear(16, 3), nn.Conv2d(8, 4, 3))
    LevelPruner(model, [{"granularity": pattern, "op_types": ["default"]}]).compress()
    dense = model[0].old_weight.detach().abs()
    for row, keep in zip(dense, mask(model, "0"), strict=True):
        for start in range(0, 16, of):
            best = row[start : start + of].topk(left).indices
            assert keep[start : start + of].nonzero().flatten().tolist() == sorted(best.tolist())
    runs = mask(model, "1").movedim(1, -1).reshape(-1, of)
    assert (runs.sum(1) == left).all()


def test_a_shorter_run_at_the_end_keeps_as_many_if_it_has_them():
    keep = keep_of_runs(torch.tensor([[5.0, 4, 3, 2, 1, 9]]), 2, 4, axis=1)
    assert keep.tolist() == [[True, True, False, False, True, True]]
    assert keep_of_runs(torch.ones(1, 4), 2, 4, axis=1).tolist() == [[False, False, True, True]]


def test_blocks_go_whole_by_their_mean():
    model = layers()
    LevelPruner(model, [{"sparsity": 0.5, "granularity": [4, 3], "op_types": ["default"]}]).compress()
    conv = mask(model, "0")
    assert conv.shape == (8, 6, 3, 3)
    blocks = conv.reshape(2, 4, 2, 3, 9)
    assert (blocks.all(dim=(1, 3, 4)) | ~blocks.any(dim=(1, 3, 4))).all()
    means = model[0].old_weight.detach().abs().reshape(2, 4, 2, 3, 9).mean(dim=(1, 3, 4))
    assert blocks.any(dim=(1, 3, 4)).flatten().nonzero().flatten().tolist() == sorted(
        means.flatten().topk(2).indices.tolist()
    )
    linear = mask(model, "3")  # 10 x 8: three rows of blocks, the last of two rows; three columns, the last of two
    assert int(linear[8:, 6:].any()) == int(linear[8:, 6:].all())


@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3)),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.floats(0, 0.99),
)
def test_masks_of_blocks_are_blocks_and_as_many_as_were_asked_for(shape, sizes, sparsity):
    weight = torch.randn(shape)
    unit = Block(tuple(sizes))
    scores = unit.gather(weight.abs())
    keep = unit.keep(scores, sparsity)
    assert int((~keep).sum()) == drop_count(scores.numel(), sparsity)
    full = unit.unfold(keep, weight, None)["weight"]
    assert full.shape == weight.shape
    assert torch.equal(unit.kept(full, weight), keep)
    for place in keep.nonzero().tolist():
        own = (*sizes[:3], *shape[len(sizes) :])[:3]
        where = tuple(slice(at * size, (at + 1) * size) for at, size in zip(place, own, strict=True))
        assert full[where].all()
        torch.testing.assert_close(scores[tuple(place)], weight[where].abs().double().mean())


def test_banks_each_lose_as_many():
    model = layers()
    LevelPruner(model, [{"sparsity": 0.5, "op_names": ["3"]}], "balance", [1, 4]).compress()
    assert (mask(model, "3").reshape(10, 2, 4).sum(2) == 2).all()
    keep = keep_of_blocks(torch.rand(5, 7), (5, 3), 0.5)
    assert [int((~keep[:, start : start + 3]).sum()) for start in (0, 3, 6)] == [7, 7, 2]


def test_the_groups_of_a_convolution_lose_as_many_and_it_shrinks_as_asked():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 2, 1))
    with torch.no_grad():
        model[1].weight[:4] *= 0.01  # or all that goes would lie in the first group
    x = torch.ones(1, 3, 8, 8)
    asked = [{"sparsity": 0.5, "op_names": ["1"]}]
    L1FilterPruner(model, asked, mode="balanced", dummy_input=x).compress()
    assert mask(model, "1").reshape(2, 4).sum(1).tolist() == [2, 2]
    ModelSpeedup(model, x).speedup_model()
    assert model[1].weight.shape == (4, 4, 3, 3)


def test_inputs_of_a_transposed_convolution_lie_along_its_first_axis():
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(8, 6, 3))  # six outputs, which four does not divide
    LevelPruner(model, [{"granularity": "2:4", "op_types": ["default"]}]).compress()
    assert (mask(model, "0").reshape(2, 4, 6, 3, 3).sum(1) == 2).all()


@pytest.mark.parametrize("kind", [L1FilterPruner, LevelPruner])
def test_all_layers_share_what_goes(kind):
    model = randomised(Residual())
    with torch.no_grad():
        model.up.weight *= 1e-3
    kind(model, [{"sparsity": 0.25, "op_names": ["inner", "outer", "up"]}], mode="global").compress()
    units = {name: mask(model, name) for name in ("inner", "outer", "up")}
    total = sum(own.numel() for own in units.values())
    gone = {name: int((~own).sum()) for name, own in units.items()}
    assert sum(gone.values()) == drop_count(total, 0.25)
    assert gone["up"] == min(units["up"].numel() - 1, sum(gone.values()))


@pytest.mark.parametrize("kind", [L1FilterPruner, LevelPruner, SlimPruner])
def test_no_layer_loses_more_than_its_entry_allows(kind):
    model = nn.Sequential(nn.Conv2d(3, 10, 1), nn.BatchNorm2d(10), nn.Conv2d(10, 10, 1), nn.BatchNorm2d(10))
    with torch.no_grad():
        for layer in model[:2]:
            layer.weight.mul_(1e-3)  # all that goes would be the first layers'
    first, last = ("1", "3") if kind is SlimPruner else ("0", "2")
    capped = [
        {"sparsity": 0.4, "op_names": [first], "max_sparsity_per_layer": 0.2},
        {"sparsity": 0.4, "op_names": [last]},
    ]
    pruner = kind(model, capped, **({} if kind is SlimPruner else {"mode": "global"}))
    pruner.compress()
    gone = [int((~mask(model, name)).sum()) for name in (first, last)]
    total = sum(mask(model, name).numel() for name in (first, last))
    assert gone[0] == drop_count(mask(model, first).numel(), 0.2)
    assert sum(gone) == drop_count(total, 0.4)


def test_filters_by_lot_take_the_same_options():
    model = randomised(Residual())
    asked = [{"sparsity": 0.25, "op_names": ["inner", "outer", "up"]}]
    RandomFilterPruner(model, asked, mode="global", seed=1).compress()
    kept = {name: mask(model, name).flatten() for name in ("inner", "outer")}
    assert kept["inner"].float().mean() != kept["outer"].float().mean()  # each its share would be a quarter


def test_tickets_of_filters_are_chosen_together_where_layers_share_them():
    model = randomised(Residual())
    asked = [{"sparsity": 0.5, "prune_iterations": 1, "op_names": ["stem", "outer"]}]
    pruner = LotteryTicketPruner(
        model, asked, pruning_algorithm="l1", dependency_aware=True, dummy_input=torch.ones(1, 3, 6, 6)
    )
    pruner.compress()
    for _ in pruner.get_prune_iterations():
        pruner.prune_iteration_start()
    assert torch.equal(mask(model, "stem").flatten(), mask(model, "outer").flatten())
    assert int(mask(model, "stem").sum()) == 4


def test_what_caps_leave_too_little_of_is_said(caplog):
    low = {"sparsity": 0.6, "op_types": ["Conv2d"], "max_sparsity_per_layer": 0.5}
    for options in ({"mode": "global"}, {}):
        with pytest.raises(ConfigError, match=r"asks for a sparsity of 0.6, and max_sparsity_per_layer allows 0.5"):
            L1FilterPruner(layers(), [low], **options)
    model = nn.Sequential(nn.Conv2d(1, 30, 1), nn.Conv2d(30, 4, 1))
    capped = [{**low, "op_names": ["0"]}, {"sparsity": 0.6, "op_names": ["1"]}]
    L1FilterPruner(model, capped, mode="global").compress()
    assert [int((~mask(model, name)).sum()) for name in "01"] == [15, 3]
    assert "20 of 34 are asked to go, and 18 do" in caplog.text


@pytest.mark.parametrize(("how", "expected"), [("sum", 1), ("mean", 0), ("max", 2)])
def test_a_shared_channel_is_worth_the_sum_the_mean_or_the_largest_of_its_scores(how, expected):
    scores = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([4.0, 0.5, 2.5]), "c": torch.tensor([5.0])}
    classes = {"a": [1, 2, 3], "b": [1, 2, 3], "c": [1]}
    scores["a"], scores["b"], scores["c"] = torch.tensor([1.0, 4, 3]), torch.tensor([1.0, 1, 3]), torch.tensor([3.5])
    # class 1: 1, 1, 3.5 (sum 5.5, mean 1.83, max 3.5); class 2: 4, 1 (5, 2.5, 4); class 3: 3, 3 (6, 3, 3)
    import numpy as np

    arrays = {name: np.array(ids) for name, ids in classes.items()}
    cells = {name: np.full(len(ids), 7) for name, ids in classes.items()}
    keep = select_common(scores, {"a": 0.34, "b": 0.34, "c": 0.34}, arrays, cells, how)
    assert (~keep["a"]).nonzero().flatten().tolist() == [expected]


def small_last():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(8, 8, 1) for _ in range(3)))
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
    return model


def last_and_all(model):
    gone = [int((~mask(model, name)).flatten(1).all(dim=1).sum()) for name in "012" if name in masks_of(model)]
    return gone[-1:], sum(gone)


@pytest.mark.parametrize("how", ["agp", "lottery", "admm"])
def test_what_is_pruned_in_turns_is_shared_too(how):
    model, asked = small_last(), [{"sparsity": 0.25, "op_types": ["Conv2d"], "max_sparsity_per_layer": 0.5}]
    if how == "agp":
        pruner = AGPPruner(model, asked, num_iterations=7, pruning_algorithm="l1", mode="global")
        pruner.compress()
        counts = []
        for epoch in range(7):
            pruner.update_epoch(epoch)
            counts.append(last_and_all(model)[1])
        # of 24 filters, also where the eight of one layer alone would lose none
        assert counts == [drop_count(24, 0.25 * (1 - (1 - epoch / 6) ** 3)) for epoch in range(7)]
    elif how == "lottery":
        pruner = LotteryTicketPruner(
            model, [{**asked[0], "prune_iterations": 2}], pruning_algorithm="l1", mode="global"
        )
        pruner.compress()
        for _ in pruner.get_prune_iterations():
            pruner.prune_iteration_start()
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        ADMMPruner(model, asked, lambda *_, **__: None, None, 1, 1, optimizer=optimizer, mode="global").compress()
    assert last_and_all(model) == ([4], 6)


def test_layers_that_share_what_goes_have_one_schedule():
    entries = [{"sparsity": 0.5, "op_names": ["0"]}, {"sparsity": 0.5, "op_names": ["1"], "start_epoch": 2}]
    with pytest.raises(ConfigError, match="they have one schedule"):
        AGPPruner(small_last(), entries, mode="global")
    AGPPruner(small_last(), entries)
    norms = [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}]
    with pytest.raises(ConfigError, match="ranks all layers together: leave mode='balanced' out"):
        AGPPruner(nn.Sequential(nn.BatchNorm2d(4)), norms, pruning_algorithm="slim", mode="balanced")


def test_gradual_pruning_is_balanced():
    model = nn.Sequential(nn.Linear(8, 4))
    with torch.no_grad():
        model[0].weight[:, :4] *= 0.01  # or all that goes would lie in the first half
    pruner = AGPPruner(
        model, [{"sparsity": 0.5, "op_names": ["0"]}], num_iterations=2, mode="balanced", balance_gran=[1, 4]
    )
    pruner.compress()
    for epoch in range(2):
        pruner.update_epoch(epoch)
    assert (mask(model, "0").reshape(-1, 4).sum(1) == 2).all()


def test_patterns_are_reached_gradually():
    model = nn.Sequential(nn.Linear(8, 4))
    pruner = AGPPruner(model, [{"granularity": "2:4", "op_names": ["0"]}], num_iterations=2)
    pruner.compress()
    for epoch in range(2):
        pruner.update_epoch(epoch)
    assert (mask(model, "0").reshape(-1, 4).sum(1) == 2).all()


@pytest.mark.parametrize(
    ("kind", "entry", "options", "message"),
    [
        (LevelPruner, {"granularity": "4:2"}, {}, "a pattern such as '2:4'"),
        (LevelPruner, {"granularity": [0, 2], "sparsity": 0.5}, {}, "sizes of a block"),
        (LevelPruner, {"granularity": "2:4", "sparsity": 0.6}, {}, "leave the sparsity out"),
        (LevelPruner, {"granularity": "2:4"}, {"mode": "global"}, "leave mode='global' out"),
        (LevelPruner, {"sparsity": 0.5}, {"mode": "balanced"}, "balance_gran"),
        (LevelPruner, {"sparsity": 0.5}, {"mode": "globl"}, "it is one of 'normal'"),
        (L1FilterPruner, {"sparsity": 0.5, "granularity": [2]}, {}, "use LevelPruner"),
        (L1FilterPruner, {"sparsity": 0.5}, {"balance_gran": [2]}, "nothing else does"),
        (L1FilterPruner, {"sparsity": 0.5}, {"group_score": "median"}, "'sum', 'mean' or 'max'"),
        (
            L1FilterPruner,
            {"sparsity": 0.5},
            {"mode": "global", "dependency_aware": True, "dummy_input": torch.ones(1)},
            "leave one out",
        ),
    ],
)
def test_options_that_contradict_each_other_say_so(kind, entry, options, message):
    with pytest.raises(ConfigError, match=message):
        kind(layers(), [{"op_types": ["default"], **entry}], **options)
    both = [{"sparsity": 0.5, "op_names": ["0"]}, {"sparsity": 0.3, "op_names": ["3"]}]
    with pytest.raises(ConfigError, match=r"asks for 0\.3, 0\.5"):
        LevelPruner(layers(), both, mode="global")


@pytest.mark.parametrize("aware", [False, True])
def test_filters_left_are_multiples_where_an_entry_asks_for_them(aware):
    model = randomised(Residual())
    entry = [{"sparsity": 0.5, "op_types": ["default"], "round_to": 3}]
    pruner = L1FilterPruner(model, entry, dependency_aware=aware, dummy_input=torch.ones(1, 3, 6, 6))
    pruner.compress()
    left = {name: kept for name, (kept, _) in pruner.get_pruned_weights().items()}
    assert (left["stem"], left["inner"], left["outer"]) == (6, 3, 6)  # of 8, 6 and 8
    assert ModelSpeedup(model, torch.ones(1, 3, 6, 6)).speedup_model().exact


def test_gradual_pruning_keeps_multiples_too():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1))
    pruner = AGPPruner(model, [{"sparsity": 0.6, "op_names": ["0"], "round_to": 4}], num_iterations=5,
                       pruning_algorithm="l1")  # fmt: skip
    pruner.compress()
    seen = set()
    for epoch in range(5):
        pruner.update_epoch(epoch)
        seen.add(pruner.get_pruned_weights()["0"][0])
    assert seen <= {16, 12, 8}
    assert min(seen) == 8


@pytest.mark.parametrize("kind", [LevelPruner, L1FilterPruner])
def test_multiples_are_refused_where_they_mean_nothing(kind):
    options = {} if kind is LevelPruner else {"mode": "global"}
    with pytest.raises(ConfigError, match="counts the filters of one layer"):
        kind(layers(), [{"sparsity": 0.5, "op_types": ["Conv2d"], "round_to": 4}], **options)
