"""Whatever the transformer, mixture or recurrent net, and whatever the wish: the plan holds, nothing else changes."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.graph.nets import net
from tests.networks.oracles import fingerprint, masked_by_hand
from tests.networks.sequence_strategies import SEQUENCE_BLOCK_BY_NAME, SequenceRecipe, Wish, sequence_recipes, wishes
from torchpare import plan
from torchpare.errors import ProofError
from torchpare.graph import analyse
from torchpare.graph.structures import groups_of
from torchpare.speedup import make_plan
from torchpare.speedup.verify import bisimulate, retrace

pytestmark = pytest.mark.slow
some = settings(max_examples=25)

BY_NATURE = {"aten.native_layer_norm", "aten.native_group_norm", "aten.mean", "aten.linalg_vector_norm", "aten.amax"}
"""Operators that compute something else over fewer channels."""
MADE_UP_FOR = {"parameter", "aten.mul", "aten.div", "aten.mean", "aten.add", "aten.add_"}
"""Where RMS norms and scales of attention compute what they did, by other numbers."""


def rewritten(dense, small, made):
    """Whether the small model has other numbers, not only fewer: those that make up for a norm or a scale."""
    parameters = dict(dense.named_parameters(remove_duplicate=False))
    for name, cut in make_plan(made.removal).cuts.items():
        parameters[name] = cut.apply(parameters[name]) if name in parameters else None
    return any(not torch.equal(parameters[name], p) for name, p in small.named_parameters(remove_duplicate=False))


def case(recipe, wish):
    """A model, its input, and a plan that removes something of it."""
    model, x = recipe.build(), recipe.input()
    entries = wish.entries(model, x)
    assume(entries is not None)
    made = plan(model, entries, x)
    assume(not made.removal.empty)
    return model, x, made


def weighed(model, x):
    """A number in which every output counts, each by another amount."""
    output = model(x)
    return (output * torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).view_as(output)).sum()


def trembling(model, x):
    """How much the gradients change with the last digits of the weights.

    A share of attention that is one but for its last digit may be one, times whatever it is multiplied with.
    """
    gradients = []
    for seed in range(16):
        twin, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
        for parameter in twin.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.data.mul_(1 + 1e-15 * noise)
            parameter.grad = None
        weighed(twin, x).backward()
        gradients.append([p.grad for p in twin.parameters() if p.grad is not None])
    return max(
        float((one - first).abs().max()) for other in gradients for one, first in zip(other, gradients[0], strict=True)
    )


def reaches_the_output(model, x, masks):
    """Whether anything that masks take away has an effect on the output: by gradients, or by taking it away by hand.

    Gradients alone are blind where a recurrent layer is saturated: they are zero there, and the effect is not.
    """
    twin = copy.deepcopy(model)
    weighed(twin, x).backward()
    parameters = dict(twin.named_parameters(remove_duplicate=False))
    by_gradients = any(
        float((parameter.grad * parameter.detach() * ~mask).abs().sum()) > 1e-9
        for layer, own in masks.items()
        for name, mask in own.items()
        if (parameter := parameters[f"{layer}.{name}" if layer else name]).grad is not None
    )
    with torch.no_grad():
        before = twin(x)
        for layer, own in masks.items():
            for name, mask in own.items():
                parameters[f"{layer}.{name}" if layer else name].masked_fill_(~mask, 0)
        return by_gradients or float((twin(x) - before).abs().max()) > 1e-9 * float(before.abs().max())


@some
@given(sequence_recipes(), wishes())
def test_the_small_model_is_the_masked_model(recipe, wish):
    model, _, made = case(recipe, wish)
    report = made.apply()
    assert report.largest_difference <= 1e-10
    assert report.parameters_after == sum(parameter.numel() for parameter in model.parameters()) == made.parameters[1]
    assert report.parameters_after < report.parameters_before == made.parameters[0]
    assert report.unknown == {}


@some
@given(sequence_recipes(), wishes())
def test_every_tensor_and_every_number_inside_agrees(recipe, wish):
    model, x, made = case(recipe, wish)
    dense = copy.deepcopy(model)
    report = made.apply()
    assert retrace(model, x, made.removal) > 5
    result = bisimulate(dense, model, x, made.removal)
    assert result.incomparable or result.compared > 5
    allowed = (BY_NATURE if report.changes else set()) | (MADE_UP_FOR if rewritten(dense, model, made) else set())
    assert set(result.mismatches) <= allowed, str(result)


@some
@given(sequence_recipes(), wishes())
@example(SequenceRecipe(("Linearised", "Linearised", "Recurrent"), 150), Wish(0.25, None, 0))  # saturated
def test_what_is_removed_was_there(recipe, wish):
    """Or the proof would compare a model with itself."""
    model, x, made = case(recipe, wish)
    reached = reaches_the_output(model, x, made.masks())
    report = made.apply()
    assert (report.output_change > 0) == reached


@some
@given(sequence_recipes(), st.integers(0, 999))
def test_removing_nothing_is_the_identity(recipe, seed):
    model, x = recipe.build(), recipe.input()
    before = fingerprint(model)
    entries = Wish(0.0, None, seed).entries(model, x)
    assume(entries is not None)
    made = plan(model, entries, x)
    assert (made.removal.empty, dict(made.shrink.cuts), dict(made.shrink.attributes)) == (True, {}, {})
    assert made.masks() == {}
    report = made.apply()
    assert report.largest_difference == report.output_change == 0
    assert [item for item in fingerprint(model) if item[0] != "torchpare_structure"] == before  # the record of a shrink


@some
@given(sequence_recipes(), wishes())
def test_the_small_model_is_analysed_as_what_was_planned(recipe, wish):
    """What is left of each axis of each parameter: as long, of as many groups of the same sizes, as the plan said."""
    model, x, made = case(recipe, wish)
    made.apply()
    small = analyse(model, x)
    assert {name: value.shape for name, value in small.values.items()} == {
        name: made.removal.shape(value.uid) for name, value in made.space.values.items()
    }
    planned: dict[tuple[str, int], Counter[int]] = {}
    for group in made.groups:
        for member in group.members:
            planned.setdefault((member.name, member.axis), Counter()).update([group.after] if group.after > 1 else [])
    assume(all(group.after > 1 for group in made.groups))  # an axis of size 1 is no axis: what it held together parts
    found: dict[tuple[str, int], Counter[int]] = {}
    for group in groups_of(small):
        for member in group.members:
            found.setdefault(member, Counter()).update([group.size])
    assert found == planned


@some
@given(sequence_recipes(), wishes())
def test_planning_reads_only_and_a_failing_apply_leaves_every_bit(recipe, wish):
    model, x = recipe.build(), recipe.input()
    before = fingerprint(model)
    entries = wish.entries(model, x)
    assume(entries is not None)
    made = plan(model, entries, x)
    assert str(made)
    assert made.to_dict()["groups"]
    assert fingerprint(model) == before
    with pytest.raises(ProofError):
        made.apply(tolerance=-1.0)
    assert fingerprint(model) == before


@some
@given(sequence_recipes(), wishes())
def test_as_many_stay_as_were_asked_for_unless_something_is_named(recipe, wish):
    model, x = recipe.build(), recipe.input()
    entries = wish.entries(model, x)
    assume(entries is not None)
    made = plan(model, entries, x)
    sizing, multiple = made.space.sizing, wish.round_to or 1
    bound = {variable for equation in sizing.equations for variable in equation.variables}
    for group, planned in zip(groups_of(made.space), made.groups, strict=True):
        assert (group.size, group.rows) == (planned.before, planned.rows)
        if group.variable in bound:
            assert planned.after <= planned.asked or planned.why or multiple > 1
        elif planned.asked == planned.before or multiple == 1:
            assert planned.after == planned.asked
        elif planned.before >= multiple:
            assert planned.after % multiple == 0 or planned.after == planned.before
            assert abs(planned.after - planned.asked) < multiple
        for member in sizing.members(group.variable):  # and the cells themselves lose what the plan says
            kept = int((~made.removal.gone[sizing.cells[member]]).sum())
            assert kept == planned.after


@some
@example(SequenceRecipe(("Experts", "Linearised", "Linearised", "Fused"), 800), Wish(0.5, None, 0))  # it trembles
@given(sequence_recipes(), wishes())
def test_gradients_are_those_of_the_masked_model(recipe, wish):
    model, x, made = case(recipe, wish)
    masked = masked_by_hand(model, made.masks())
    before, cuts = copy.deepcopy(model), make_plan(made.removal).cuts
    report = made.apply()
    assume(report.exact and not rewritten(before, model, made))
    weighed(masked, x).backward()
    weighed(model, x).backward()
    dense = dict(masked.named_parameters(remove_duplicate=False))
    # What cancels out (the queries of a saturated softmax) keeps the rounding of the numbers it is made of.
    rounding = 1e-12 * (1 + max(float(p.grad.abs().max()) for p in dense.values() if p.grad is not None))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        expected = dense[name].grad
        if expected is None or parameter.grad is None:
            assert expected is parameter.grad
            continue
        kept = cuts[name].apply(expected) if name in cuts else expected
        if not torch.allclose(kept, parameter.grad, rtol=1e-9, atol=rounding):
            rounding += 4 * max(trembling(masked, x), trembling(model, x))
        assert torch.allclose(kept, parameter.grad, rtol=1e-9, atol=rounding), name


@pytest.mark.parametrize("name", sorted(SEQUENCE_BLOCK_BY_NAME))
def test_each_block_can_lose_something_that_counts(name):
    """Or all of the above would hold for an engine that freezes everything."""
    lost = 0
    for seed in range(12):
        recipe = SequenceRecipe((name,), seed)
        model, x = recipe.build(), recipe.input()
        report = plan(
            model, Wish(0.5, None, 0).entries(model, x) or [{"sparsity": 0.5, "structures": ["all"]}], x
        ).apply()
        lost += report.output_change > 1e-3 and report.parameters_after < report.parameters_before
    assert lost >= 6


def test_a_sequence_recipe_builds_the_same_network_twice():
    recipe = SequenceRecipe(("Fused", "Experts", "Recurrent"), 3)
    assert torch.equal(recipe.build()(recipe.input()), recipe.build()(recipe.input()))


# ------------------------------------------------------------------------------------------ found by the laws above


def sequence():
    return torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_a_table_of_positions_keeps_the_rows_that_this_input_did_not_reach():
    model = net(lambda m, x: m.b(m.a(x) + m.table[: x.shape[1]]), a=nn.Linear(3, 8), b=nn.Linear(8, 3),
                attributes={"table": nn.Parameter(torch.randn(32, 8))})  # fmt: skip
    plan(model, [{"sparsity": 0.5, "structures": ["all"]}], sequence()).apply()
    assert tuple(model.table.shape) == (32, 4)


def test_a_copy_that_an_attribute_counts_can_go():
    def run(m, x):
        return m.b(m.a(x).unsqueeze(2).expand(-1, -1, m.times, -1).flatten(2))

    model = net(run, a=nn.Linear(3, 4), b=nn.Linear(8, 3), attributes={"times": 2})
    assert plan(model, [{"sparsity": 0.5, "structures": ["all"]}], sequence()).apply().largest_difference <= 1e-10


@pytest.mark.parametrize("one", [lambda y: y[..., :1], lambda y: y[..., 0, None]])
def test_a_channel_that_is_added_to_all_others(one):
    model = net(lambda m, x: m.b(m.a(x) + one(m.a(x))), a=nn.Linear(3, 6), b=nn.Linear(6, 3))
    made = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], sequence())
    assert not made.removal.empty
    assert made.apply().largest_difference <= 1e-10


def test_queries_keys_and_values_that_alternate_in_memory_lose_the_same_columns():
    def run(m, x):
        b, n, _ = x.shape
        q, k, v = m.qkv(x).view(b, n, m.heads, m.width, 3).permute(4, 0, 2, 1, 3).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, scale=0.5)
        return m.out(y.transpose(1, 2).flatten(2))

    for seed in range(3):
        torch.manual_seed(seed)
        model = net(run, qkv=nn.Linear(3, 24), out=nn.Linear(8, 3), attributes={"heads": 2, "width": 4})
        with torch.no_grad():
            model.qkv.weight.mul_(torch.rand(24, 1) * 3)
        made = plan(model, [{"sparsity": 0.5, "structures": ["head_dim"]}], sequence())
        assert not made.removal.empty
        assert made.apply().largest_difference <= 1e-10


def test_the_rms_norm_of_torch_is_made_exact():
    model = net(lambda m, x: m.b(m.norm(m.a(x))), a=nn.Linear(3, 8), norm=nn.RMSNorm(8, eps=1e-5), b=nn.Linear(8, 3))
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], sequence()).apply()
    assert report.rescaled == ("norm",)
    assert report.exact
