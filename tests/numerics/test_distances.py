"""Each distance between student and teacher against the loop that says what it means, and the laws of all of them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.twins import distances as twins
from torchpare.numerics.distances import (
    attention_score_error,
    mean_squared_error,
    relation_angles,
    relation_distances,
    soft_target_loss,
    spatial_attention_error,
    token_relation_loss,
)

EVERY = {
    "soft targets": (lambda s, t: soft_target_loss(s, t, 3.0), (4, 6)),
    "mean squares": (mean_squared_error, (4, 3, 5)),
    "spatial attention": (spatial_attention_error, (4, 3, 5, 5)),
    "attention scores": (attention_score_error, (2, 3, 4, 4)),
    "relation distances": (relation_distances, (5, 6)),
    "relation angles": (relation_angles, (5, 6)),
    "token relations": (lambda s, t: token_relation_loss(s, t, 2), (2, 5, 6)),
}


def pair(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=torch.float64).to(dtype), torch.randn(shape, dtype=torch.float64).to(dtype)


def near(found, expected):
    expected = float(expected)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_soft_targets(temperature):
    student, teacher = pair(7, 5)
    near(soft_target_loss(student, teacher, temperature), twins.soft_target_loss(student, teacher, temperature))
    counted = [True, False, True, True, False, False, True]
    found = soft_target_loss(student, teacher, temperature, torch.tensor(counted))
    near(found, twins.soft_target_loss(student, teacher, temperature, counted))


def test_soft_targets_are_torchs_own_divergence_and_the_papers_cross_entropy_less_the_teachers_entropy():
    student, teacher = pair(6, 9)
    log_p, log_q = F.log_softmax(teacher / 3, -1), F.log_softmax(student / 3, -1)
    near(soft_target_loss(student, teacher, 3.0), 9 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True))
    cross, entropy = -(log_p.exp() * log_q).sum(-1).mean(), -(log_p.exp() * log_p).sum(-1).mean()
    near(soft_target_loss(student, teacher, 3.0), 9 * (cross - entropy))


def test_at_a_high_temperature_soft_targets_are_half_the_mean_square_of_centred_logits():
    """The paper's equation 4, less the 1 / N of classes."""
    student, teacher = pair(6, 9)
    apart = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    expected = (apart.square().sum(1) / (2 * 9)).mean()
    assert float(soft_target_loss(student, teacher, 1e4)) == pytest.approx(float(expected), rel=1e-3)


def test_classes_that_both_rule_out_add_nothing_and_one_that_only_the_student_does_is_infinitely_wrong():
    student, teacher = pair(2, 4)
    student[:, 3] = teacher[:, 3] = -torch.inf
    student.requires_grad_()
    loss = soft_target_loss(student, teacher, 2.0)
    near(loss, twins.soft_target_loss(student[:, :3].detach(), teacher[:, :3], 2.0))
    loss.backward()
    assert student.grad.isfinite().all()
    teacher[:, 3] = 0
    assert soft_target_loss(student, teacher, 2.0) == math.inf


def test_mean_squares_of_what_counts():
    student, teacher = pair(2, 3, 4)
    near(mean_squared_error(student, teacher), F.mse_loss(student, teacher))
    counted = torch.tensor([[True, True, False], [True, False, False]])
    near(mean_squared_error(student, teacher, counted[:, :, None]), F.mse_loss(student[counted], teacher[counted]))


def test_spatial_attention():
    student, teacher = pair(3, 4, 6)
    near(spatial_attention_error(student, teacher), twins.spatial_attention_error(student, teacher))
    narrow = torch.randn(3, 2, 6).double()
    near(spatial_attention_error(narrow, teacher), twins.spatial_attention_error(narrow, teacher))
    counted = torch.tensor([True, True, False, True, False, True])
    found = spatial_attention_error(student, teacher, counted.expand(3, 6))
    near(found, twins.spatial_attention_error(student[..., counted], teacher[..., counted]))


def test_attention_scores_that_a_mask_hides_count_for_zero():
    student, teacher = pair(2, 3, 4, 4)
    near(attention_score_error(student, teacher), F.mse_loss(student, teacher))
    hidden = torch.ones(4, 4).triu(1).bool()
    expected = F.mse_loss(student.masked_fill(hidden, 0), teacher.masked_fill(hidden, 0))
    for written in (-torch.inf, torch.finfo(torch.float64).min, -1e4):
        near(
            attention_score_error(student.masked_fill(hidden, written), teacher.masked_fill(hidden, written)), expected
        )


@pytest.mark.parametrize("examples", [3, 4, 6])
def test_relations(examples):
    student, teacher = torch.randn(examples, 3).double(), torch.randn(examples, 7).double()
    rows, others = student.tolist(), teacher.tolist()
    near(relation_distances(student, teacher), twins.mean_huber(twins.distances(rows), twins.distances(others)))
    near(relation_angles(student, teacher), twins.mean_huber(twins.angles(rows), twins.angles(others)))


@pytest.mark.parametrize("change", [lambda x: 3 * x, lambda x: x + 5, lambda x: x @ torch.linalg.qr(pair(4, 4)[0])[0]])
def test_relations_ask_neither_for_a_size_nor_a_place_nor_a_direction(change):
    x = torch.randn(6, 4).double()
    assert relation_distances(change(x), x) < 1e-24
    assert relation_angles(change(x), x) < 1e-24


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_token_relations(heads):
    student, teacher = torch.randn(2, 5, 6).double(), torch.randn(2, 5, 12).double()
    counted = torch.tensor([[True] * 5, [True, True, True, False, False]])
    everything = torch.ones(2, 5, dtype=torch.bool)
    near(token_relation_loss(student, teacher, heads), twins.token_relation_loss(student, teacher, heads, everything))
    found = token_relation_loss(student, teacher, heads, counted)
    near(found, twins.token_relation_loss(student, teacher, heads, counted))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equal_tensors_are_exactly_zero_apart_and_have_gradients_of_exactly_zero(name, dtype):
    distance, shape = EVERY[name]
    teacher = torch.randn(shape).to(dtype)
    student = teacher.clone().requires_grad_()
    loss = distance(student, teacher)
    assert loss == 0.0
    assert loss.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    loss.backward()
    assert student.grad.isfinite().all()
    assert student.grad.double().abs().max() < {torch.float64: 1e-15, torch.float32: 1e-6, torch.bfloat16: 1e-6}[dtype]


@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_what_the_loss_changes_by(name):
    distance, shape = EVERY[name]
    student, teacher = pair(*shape)
    assert torch.autograd.gradcheck(lambda s: distance(s, teacher), student.requires_grad_())


@pytest.mark.parametrize("name", EVERY)
@given(st.integers(0, 10_000))
def test_no_distance_is_negative_and_only_equal_ones_are_zero(name, seed):
    distance, shape = EVERY[name]
    chance = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, *shape, generator=chance, dtype=torch.float64)
    assert distance(student, teacher) > 0
    assert distance(teacher, teacher.clone()) == 0


@pytest.mark.parametrize("name", ["relation distances", "relation angles"])
def test_examples_that_are_all_the_same_or_too_few_give_zero_with_a_finite_gradient(name):
    distance, _ = EVERY[name]
    for rows in (torch.ones(4, 3), torch.ones(1, 3), torch.ones(0, 3)):
        student = rows.clone().requires_grad_()
        loss = distance(student, rows)
        loss.backward()
        assert loss == 0
        assert student.grad.isfinite().all()


PADDED = {
    "soft targets": (lambda s, t, c: soft_target_loss(s, t, 2.0, c), (2, 4, 6)),
    "mean squares": (lambda s, t, c: mean_squared_error(s, t, c[:, :, None]), (2, 4, 6)),
    "spatial attention": (lambda s, t, c: spatial_attention_error(s.mT, t.mT, c), (2, 4, 6)),
    "token relations": (lambda s, t, c: token_relation_loss(s, t, 3, c), (2, 4, 6)),
}


@pytest.mark.parametrize("name", PADDED)
def test_what_does_not_count_changes_neither_loss_nor_gradient_whatever_lies_there(name):
    distance, shape = PADDED[name]
    student, teacher = pair(*shape)
    counted = torch.tensor([[True, True, True, False], [True, False, False, False]])
    results = []
    for written in (0.0, torch.nan, torch.inf):
        s = student.masked_fill(~counted[:, :, None], written).requires_grad_()
        loss = distance(s, teacher.masked_fill(~counted[:, :, None], written), counted)
        loss.backward()
        results.append((loss.detach(), s.grad))
    for loss, grad in results[1:]:
        assert loss == results[0][0]
        assert torch.equal(grad, results[0][1])
    assert not results[0][1][~counted].any()
    nothing = distance(student.requires_grad_(), teacher, torch.zeros(2, 4, dtype=torch.bool))
    nothing.backward()
    assert nothing == 0
