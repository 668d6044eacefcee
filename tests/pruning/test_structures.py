"""Structures in a pruner's config_list: its own criterion ranks heads and widths, and the model shrinks by them."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.support.attention import tokens, train
from torchpare import ModelSpeedup
from torchpare.attach import is_attached, masks_of
from torchpare.errors import ConfigError
from torchpare.graph import analyse
from torchpare.graph.choice import filter_scores
from torchpare.numerics import filter_norm
from torchpare.pruning import (
    ActivationMeanRankFilterPruner,
    ADMMPruner,
    AGPPruner,
    FPGMPruner,
    L1FilterPruner,
    L2FilterPruner,
    LevelPruner,
    LotteryTicketPruner,
    RandomFilterPruner,
    SlimPruner,
    TaylorFOWeightFilterPruner,
)
from torchpare.search import NetAdaptPruner

KINDS = ("mlp", "heads", "head_dim", "embedding")


def half(*kinds, **more):
    return [{"sparsity": 0.5, "structures": list(kinds), **more}]


def shrunk(model, ids):
    """The small model; it computes what the masked one does."""
    report = ModelSpeedup(model, ids).speedup_model()
    assert report.largest_difference <= 1e-10
    return model


def kept(model, layer):
    """Which filters of a layer are not masked."""
    mask = masks_of(model)[layer]["weight"]
    return mask.flatten(1).any(1)


def made_by(pruner, model, ids, kinds):
    """Of each kind of pruner one that has been through what it does, on its own copy of the model."""
    own = copy.deepcopy(model)
    sgd = torch.optim.SGD(own.parameters(), lr=0.01)
    if pruner is ADMMPruner:
        made = ADMMPruner(own, half(*kinds), train, None, 2, 1, optimizer=sgd, dummy_input=ids)
    elif pruner is AGPPruner:
        made = AGPPruner(own, half(*kinds), sgd, train, None, 3, 1, "l2", dummy_input=ids)
    elif pruner is LotteryTicketPruner:
        made = LotteryTicketPruner(own, [{**half(*kinds)[0], "prune_iterations": 2}], sgd, pruning_algorithm="fpgm",
                                   dummy_input=ids)  # fmt: skip
    elif issubclass(pruner, TaylorFOWeightFilterPruner | ActivationMeanRankFilterPruner):
        made = pruner(own, half(*kinds), sgd, train, dummy_input=ids)
    else:
        made = pruner(own, half(*kinds), dummy_input=ids)
    made.compress()
    if pruner is LotteryTicketPruner:
        for _ in made.get_prune_iterations():
            made.prune_iteration_start()
            train(own, sgd)
    return own


@pytest.mark.parametrize(
    "pruner",
    [
        L1FilterPruner, L2FilterPruner, FPGMPruner, RandomFilterPruner, TaylorFOWeightFilterPruner,
        ActivationMeanRankFilterPruner, AGPPruner, LotteryTicketPruner, ADMMPruner,
    ],
)  # fmt: skip
@pytest.mark.parametrize("kinds", [("mlp", "heads"), ("embedding",), ("head_dim",)])
def test_every_pruner_of_filters_ranks_structures_and_the_model_shrinks(pruner, kinds):
    model, ids = tokens(blocks=2)
    small = shrunk(made_by(pruner, model, ids, kinds), ids)
    block = small.layers[0]
    heads, width = 2 if "heads" in kinds else 4, 3 if "head_dim" in kinds else 6
    inside, outside = 14 if "mlp" in kinds else 28, 10 if "embedding" in kinds else 20
    assert block.qkv.weight.shape == (3 * heads * width, outside)
    assert block.gate.out_features == block.up.out_features == block.down.in_features == inside


@pytest.mark.parametrize(("reduction", "of"), [("sum", torch.sum), ("mean", torch.mean), ("max", torch.amax)])
def test_a_width_of_two_layers_is_worth_what_its_filters_are_in_both(reduction, of):
    model, ids = tokens()
    L1FilterPruner(model, half("mlp"), dummy_input=ids, group_score=reduction).compress()
    for name, block in model.layers.named_children():
        both = torch.stack([filter_norm(block.gate.weight, p=1), filter_norm(block.up.weight, p=1)])
        order = of(both, 0).argsort()
        for layer in ("gate", "up"):
            assert sorted((~kept(model, f"layers.{name}.{layer}")).nonzero().flatten().tolist()) == sorted(
                order[:14].tolist()
            )


@pytest.mark.parametrize("reduction", ["sum", "max"])
def test_a_head_is_worth_what_its_queries_keys_and_values_are(reduction):
    model, ids = tokens()
    L2FilterPruner(model, half("heads"), dummy_input=ids, group_score=reduction).compress()
    for name, block in model.layers.named_children():
        norms = filter_norm(block.qkv.weight, p=2).view(3, 4, 6)
        worth = norms.sum((0, 2)) if reduction == "sum" else norms.amax((0, 2))
        rows = kept(model, f"layers.{name}.qkv").view(3, 4, 6)
        assert (rows.all(2) | ~rows.any(2)).all()
        assert sorted((~rows[0].any(1)).nonzero().flatten().tolist()) == sorted(worth.argsort()[:2].tolist())


def test_the_lowest_of_all_structures_go_where_they_share_what_goes():
    model, ids = tokens()
    with torch.no_grad():
        model.layers[1].gate.weight.mul_(0.01)
        model.layers[1].up.weight.mul_(0.01)
    capped = half("mlp", max_sparsity_per_layer=0.75)
    L1FilterPruner(model, capped, dummy_input=ids, mode="global").compress()
    gone = [int((~kept(model, f"layers.{at}.gate")).sum()) for at in range(3)]
    assert gone[1] == 21
    assert sum(gone) == 42
    worth = torch.stack([sum(filter_norm(layer.weight, p=1) for layer in (model.layers[at].gate, model.layers[at].up))
                         for at in (0, 2)])  # fmt: skip
    lowest = worth.flatten().argsort()[:21]
    assert gone[0] == int((lowest < 28).sum())


def test_what_is_gone_stays_gone_while_a_schedule_goes_on():
    model, ids = tokens(blocks=2)
    pruner = AGPPruner(model, half("heads", "mlp"), pruning_algorithm="l1", num_iterations=4, dummy_input=ids,
                       schedule="linear")  # fmt: skip
    pruner.compress()
    before: dict[str, torch.Tensor] = {}
    sgd, counts = torch.optim.SGD(model.parameters(), lr=0.1), []
    for epoch in range(4):
        pruner.update_epoch(epoch)
        train(model, sgd, epoch=epoch)
        now = {layer: kept(model, layer) for layer in pruner.get_masks() if layer.endswith((".qkv", ".gate"))}
        assert all(not (now[layer] & ~before[layer]).any() for layer in before)
        before = now
        counts.append(int(sum((~own).sum() for own in now.values())))
    assert counts == sorted(counts)
    assert len(set(counts)) > 2
    assert shrunk(model, ids).layers[1].qkv.out_features == 36


def test_entries_are_read_as_a_plan_reads_them():
    model, ids = tokens()
    entries = [
        {"sparsity": 0.5, "structures": ["mlp"], "round_to": 8},
        {"sparsity": 0.75, "structures": ["mlp"], "op_names": ["layers.0"]},
        {"exclude": True, "op_names": ["layers.1.gate"]},
    ]
    L1FilterPruner(model, entries, dummy_input=ids).compress()
    assert [block.gate.out_features for block in shrunk(model, ids).layers] == [7, 28, 16]


def test_structures_of_an_earlier_config_list_are_forgotten():
    model, ids = tokens()
    pruner = L1FilterPruner(model, half("mlp"), dummy_input=ids)
    pruner.targets = pruner.find_targets(model, [{"sparsity": 0.5, "op_names": ["layers.1.gate", "layers.1.up"]}])
    pruner.compress()
    assert not kept(model, "layers.1.gate").all()
    assert "layers.0.gate" not in masks_of(model)


def test_kinds_that_lie_in_each_other_go_together():
    model, ids = tokens()
    L1FilterPruner(model, half("heads", "head_dim", "mlp", "embedding"), dummy_input=ids).compress()
    small = shrunk(model, ids)
    assert small.layers[0].qkv.weight.shape == (3 * 2 * 3, 10)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda model, _: L1FilterPruner(model, half("mlp")), "give dummy_input"),
        (lambda model, ids: L1FilterPruner(model, half("layers"), dummy_input=ids), "torchpare.plan"),
        (lambda model, ids: L1FilterPruner(model, half("mpl"), dummy_input=ids), "did you mean 'mlp'"),
        (lambda model, ids: L1FilterPruner(model, half("hidden"), dummy_input=ids), "reaches no group"),
        (lambda model, ids: L1FilterPruner(model, half("mlp", granularity="2:4"), dummy_input=ids), "single weights"),
        (lambda model, ids: LevelPruner(model, half("mlp"), dummy_input=ids), "pruners of filters"),
        (lambda model, ids: SlimPruner(model, half("mlp"), dummy_input=ids, mode="normal"), "pruners of filters"),
        (
            lambda model, ids: NetAdaptPruner(model, half("mlp"), lambda _: None, lambda _: 0.0, dummy_input=ids),
            "pruners of filters",
        ),
        (
            lambda model, ids: L1FilterPruner(
                model, [*half("heads"), {"sparsity": 0.25, "structures": ["head_dim"]}], dummy_input=ids
            ),
            "makes structures of two kinds",
        ),
        (
            lambda model, ids: L1FilterPruner(
                model, [*half("mlp"), {"sparsity": 0.25, "structures": ["embedding"]}], dummy_input=ids, mode="global"
            ),
            "give one",
        ),
    ],
)
def test_what_cannot_be_is_an_error_that_leaves_the_model_alone(make, says):
    model, ids = tokens()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=says):
        make(model, ids)
    assert not is_attached(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_heads_that_no_layer_of_its_own_makes_are_named_with_who_can():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model, x = nn.Sequential(layer).eval(), torch.randn(1, 3, 16)
    with pytest.raises(ConfigError, match=r"0\.self_attn \(MultiheadAttention\).*TransformerHeadPruner"):
        L1FilterPruner(model, half("heads"), dummy_input=x)
    L1FilterPruner(model, half("mlp"), dummy_input=x).compress()
    assert shrunk(model, x)[0].linear1.out_features == 16


MODEL, IDS = tokens(blocks=1)
SPACE = analyse(MODEL, IDS)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), reduction=st.sampled_from(["sum", "mean", "max"]), dead=st.floats(0, 1))
def test_an_atom_is_worth_what_the_filters_are_that_go_with_it(seed, reduction, dead):
    generator = torch.Generator().manual_seed(seed)
    scores = {}
    for layer in ("layers.0.qkv", "layers.0.gate", "layers.0.up", "layers.0.down"):
        own = torch.rand(MODEL.get_submodule(layer).out_features, generator=generator)
        scores[layer] = own.masked_fill(torch.rand(len(own), generator=generator) < dead, -torch.inf)
    found = filter_scores(SPACE, scores, reduction)
    filters: dict[int, list[float]] = {}
    for layer, own in scores.items():
        for label, score in zip(SPACE.classes(layer).tolist(), own.tolist(), strict=True):
            for atom in {label, *SPACE.atoms(label)}:
                filters.setdefault(atom, []).append(score)
    of = {"sum": sum, "max": max, "mean": lambda own: sum(own) / len(own)}[reduction]
    for atom, own in filters.items():
        alive = [score for score in own if score > -torch.inf]
        expected = of(alive) if alive else -torch.inf
        assert found[atom] == pytest.approx(expected, rel=1e-6), atom
