"""Whatever the network and whatever the masks: the small model is the masked model, and nothing else was touched."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.networks.oracles import exact_output, fingerprint, masked_by_hand, relative, retrace
from tests.networks.strategies import BLOCK_BY_NAME, MASKS, Recipe, masks_for, recipes
from torchpare.errors import ShrinkError
from torchpare.graph import analyse, group_masks
from torchpare.graph.rules import table
from torchpare.speedup import ModelSpeedup, make_plan

seeds = st.integers(0, 999)
some = settings(max_examples=25)


def case(recipe, kind, seed):
    model, x = recipe.build(), recipe.input()
    masks = masks_for(analyse(model, x), model, kind, seed)
    assume(masks)
    return model, x, masks


@some
@given(recipes(), st.sampled_from(MASKS), seeds)
def test_the_small_model_is_the_masked_model(recipe, kind, seed):
    model, x, masks = case(recipe, kind, seed)
    dense = copy.deepcopy(model)
    speedup = ModelSpeedup(model, x, masks)
    removal = speedup.plan().removal
    report = speedup.speedup_model()
    small = exact_output(model, x)
    close = 1e-6 if report.folded else 1e-10  # a constant moved into a float32 bias is rounded to float32
    if report.exact:
        assert relative(exact_output(masked_by_hand(dense, masks), x), small) <= close
    elif not any("over the pruned axis" in change.kind for change in report.changes):
        group = group_masks(removal, masks)
        if not report.folded:
            assert relative(exact_output(masked_by_hand(dense, group), x), small) <= close
    assert report.largest_difference <= 1e-10 or not report.exact
    assert report.parameters_after == sum(parameter.numel() for parameter in model.parameters())
    assert (report.parameters_after < report.parameters_before) == (not removal.empty) or report.folded
    with torch.no_grad():
        assert relative(small, model(x).double()) < 1e-3  # and in the model's own type


@some
@given(recipes(), st.sampled_from(MASKS), seeds)
def test_every_tensor_has_the_planned_shape(recipe, kind, seed):
    model, x, masks = case(recipe, kind, seed)
    speedup = ModelSpeedup(model, x, masks, verify=False)
    removal = speedup.plan().removal
    speedup.speedup_model()
    assert retrace(model, x, removal) > 10


@some
@given(recipes(), seeds)
def test_masks_of_whole_groups_shrink_exactly_and_train_afterwards(recipe, seed):
    model, x, masks = case(recipe, "aware", seed)
    report = ModelSpeedup(model, x, masks).speedup_model()
    assert report.folded == ()
    assert all("over the pruned axis" in change.kind for change in report.changes)
    model.train()
    model(torch.cat([x, x])).sum().backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


@some
@given(recipes())
def test_nothing_masked_nothing_changes(recipe):
    model, x = recipe.build(), recipe.input()
    before = fingerprint(model)
    plan = make_plan(analyse(model, x).decide({}))
    assert (plan.removal.empty, dict(plan.cuts), dict(plan.attributes)) == (True, {}, {})
    assert fingerprint(model) == before


@some
@given(recipes(), seeds, seeds)
def test_the_pruned_can_be_pruned_again(recipe, first, second):
    model, x, masks = case(recipe, "aware", first)
    ModelSpeedup(model, x, masks).speedup_model()
    again = masks_for(analyse(model, x), model, "aware", second)
    assume(again)
    once = copy.deepcopy(model)
    report = ModelSpeedup(model, x, again).speedup_model()
    if report.exact:
        assert relative(exact_output(masked_by_hand(once, again), x), exact_output(model, x)) <= 1e-10


@some
@given(recipes(), seeds)
def test_the_small_model_hangs_together_as_the_large_one_did(recipe, seed):
    model, x, masks = case(recipe, "aware", seed)
    speedup = ModelSpeedup(model, x, masks)
    removal = speedup.plan().removal
    before = removal.space
    speedup.speedup_model()
    # Where a norm has one group left, its channels no longer stand and fall with it.
    assume(not any(isinstance(module, nn.GroupNorm) and module.num_groups == 1 for module in model.modules()))
    after = analyse(model, x)
    assert after.producers == before.producers
    pairs = set()
    for layer in before.producers:
        old = before.channels(layer).classes
        old, new = old[~removal.gone[old]], after.channels(layer).classes
        if len(set(old.tolist())) > 1:  # of a single channel, which would broadcast, none can tell what it belongs to
            pairs |= {(a, b) for a, b in zip(old.tolist(), new.tolist(), strict=True) if a and b}
    assert len(pairs) == len({old for old, _ in pairs})  # what hung together still does


@pytest.mark.parametrize("broken", ["cat", "convolution", "native_batch_norm", "view", "add"])
@settings(max_examples=8)
@given(recipe=recipes(3), seed=seeds)
def test_a_wrong_rule_is_caught_or_does_no_harm(broken, recipe, seed):
    """A rule that ties nothing together, or lets labels through in the wrong order."""
    model, x, masks = case(recipe, "layers", seed)
    before = fingerprint(model)

    def nothing(flow, op):
        for uid in op.outputs:
            flow.define(uid, flow.new(flow.shape(uid)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(table._RULES, broken, nothing)
        dense = copy.deepcopy(model)
        try:
            report = ModelSpeedup(model, x, masks).speedup_model()
        except ShrinkError:
            assert fingerprint(model) == before
        else:
            if report.exact and not report.folded:
                assert relative(exact_output(masked_by_hand(dense, masks), x), exact_output(model, x)) <= 1e-10


def test_the_masks_of_these_tests_do_change_the_outputs():
    """Or all of the above would hold for a shrink that does nothing. (A dead activation at the end hides some.)"""
    moved = []
    for seed, name in enumerate(BLOCK_BY_NAME):
        model, x = Recipe((name,), seed).build(), Recipe((name,), seed).input()
        report = ModelSpeedup(model, x, masks_for(analyse(model, x), model, "aware", seed)).speedup_model()
        moved.append(report.output_change > 1e-4 and report.parameters_after < report.parameters_before)
    assert sum(moved) >= 0.85 * len(moved)


def test_a_recipe_builds_the_same_network_twice():
    recipe = Recipe(("Residual", "Concat"), 3)
    assert torch.equal(recipe.build()(recipe.input()), recipe.build()(recipe.input()))
