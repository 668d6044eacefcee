"""A student that was pruned is compared with its teacher channel by channel; one that was not has nothing to learn."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.distillation.nets import pictures_net, pruned_copy, tokens_net
from torchpare import ModelSpeedup
from torchpare.distillation import (
    AttentionMaps,
    Distiller,
    FeatureTerm,
    HiddenStates,
    Relations,
    SoftTargets,
    Teacher,
    TokenRelations,
    dense_teacher,
)
from torchpare.errors import ConfigError
from torchpare.numerics.distances import (
    mean_squared_error,
    relation_angles,
    relation_distances,
    spatial_attention_error,
)
from torchpare.quantization import QATQuantizer

LAYERS = ["stem", "inner_norm", "relu"]
TERMS = {
    "soft_targets": SoftTargets(temperature=4.0, weight=0.9),
    "hidden_states": HiddenStates(LAYERS, weight=2.0),
    "attention_maps": AttentionMaps(LAYERS, weight=100.0),
    "relations": Relations(LAYERS),
}


def returned(model, x, layers=LAYERS):
    """What layers return, seen without the distiller."""
    found = {}
    handles = [
        model.get_submodule(layer).register_forward_hook(lambda _m, _a, out, layer=layer: found.update({layer: out}))
        for layer in layers
    ]
    found["logits"] = model(x)
    for handle in handles:
        handle.remove()
    return found


def by_hand(student, teacher, kept):
    """Every term, with the teacher's channels picked by hand."""
    pairs = [(student[layer], teacher[layer].index_select(1, torch.tensor(kept[layer]))) for layer in LAYERS]
    soft, hard = F.log_softmax(student["logits"] / 4, -1), F.softmax(teacher["logits"] / 4, -1)
    return {
        "soft_targets": 0.9 * 16 * F.kl_div(soft, hard, reduction="batchmean"),
        "hidden_states": 2 * sum(mean_squared_error(*pair) for pair in pairs),
        "attention_maps": 100 * sum(spatial_attention_error(*pair) for pair in pairs),
        "relations": sum(
            relation_distances(s.flatten(1), t.flatten(1)) + 2 * relation_angles(s.flatten(1), t.flatten(1))
            for s, t in pairs
        ),
    }


@pytest.mark.parametrize("word", TERMS)
def test_a_copy_that_was_not_pruned_has_exactly_nothing_to_learn(word):
    model, x = pictures_net()
    distiller = Distiller(model, dense_teacher(model), [TERMS[word]])
    loss = distiller(model(x), x)
    assert loss == 0.0
    loss.backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() < 1e-5 for p in model.parameters() if p.grad is not None)


def test_of_a_masked_and_of_a_shrunk_student_kept_channels_are_compared_with_those_that_they_were():
    model, x = pictures_net()
    teacher = dense_teacher(model)
    student, _ = pruned_copy(model, x)
    distiller = Distiller(student, teacher, list(TERMS.values()))
    distiller(student(x), x).backward()
    masked = distiller.losses
    ModelSpeedup(student, x).speedup_model()  # while the distiller is there
    kept = student.torchpare_structure["kept"]
    kept = {
        "stem": kept["stem.weight"]["0"],
        "inner_norm": kept["inner.weight"]["0"],
        "relu": kept["outer.weight"]["0"],
    }
    assert [len(indices) for indices in kept.values()] == [4, 8, 4]
    expected = by_hand(returned(student, x), returned(teacher, x), kept)
    total = distiller(student(x), x)
    for word, value in expected.items():
        assert value > 1e-5, word
        torch.testing.assert_close(distiller.losses[word], value.detach())
        torch.testing.assert_close(masked[word], value.detach(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(total, sum(expected.values()))


def test_the_first_layer_of_a_pruned_student_has_nothing_to_learn_for_its_filters_are_the_teachers():
    model, x = pictures_net()
    student, _ = pruned_copy(model, x)
    with Distiller(student, dense_teacher(model), [HiddenStates(["stem"])]) as distiller:
        assert distiller(student(x), x) == 0.0
        ModelSpeedup(student, x).speedup_model()
        assert distiller(student(x), x) == 0.0
        with torch.no_grad():
            student.stem.weight[2] += 0.01
        assert distiller(student(x), x) > 0


def test_masks_that_a_pruner_changes_are_followed():
    model, x = pictures_net()
    student, _ = pruned_copy(model, x, 0.25)
    distiller = Distiller(student, dense_teacher(model), [HiddenStates(["relu"])])
    for layer in ("outer", "outer_norm", "stem", "norm"):
        mask = student.get_submodule(layer).weight_mask
        first = distiller(student(x), x)
        kept = mask.flatten().nonzero()[0] if mask.dim() == 1 else mask.flatten(1).any(1).nonzero()[0]
        with torch.no_grad():
            mask[kept] = False
    last = distiller(student(x), x)
    assert last != first
    ModelSpeedup(student, x).speedup_model()
    torch.testing.assert_close(distiller(student(x), x), last, rtol=1e-4, atol=1e-7)


def test_with_all_channels_of_the_teacher_widths_need_not_agree():
    model, x = pictures_net()
    teacher = dense_teacher(model)
    student, _ = pruned_copy(model, x)
    ModelSpeedup(student, x).speedup_model()
    for term, distance in (
        (AttentionMaps(["relu"], channels="all"), spatial_attention_error),
        (Relations(["relu"], channels="all", angle=0), lambda s, t: relation_distances(s.flatten(1), t.flatten(1))),
    ):
        loss = Distiller(student, teacher, [term])(student(x), x)
        torch.testing.assert_close(loss, distance(returned(student, x)["relu"], returned(teacher, x)["relu"]))
    with pytest.raises(ConfigError, match="compared one by one"):
        HiddenStates(["relu"], channels="all")


def test_gradients_flow_to_the_student_alone_and_the_teacher_is_as_it_was():
    model, x = pictures_net()
    teacher = copy.deepcopy(model).train()
    teacher.norm.eval()
    before = copy.deepcopy(teacher.state_dict())
    student, _ = pruned_copy(model, x)
    student.train()
    loss = Distiller(student, teacher, list(TERMS.values()))(student(x), x)
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert (teacher.training, teacher.norm.training, teacher.outer_norm.training) == (True, False, True)


def test_the_teacher_by_default_is_a_frozen_copy_without_what_hangs_on_the_model():
    model, x = pictures_net()
    QATQuantizer(model, [{"quant_types": ["weight"], "quant_bits": 2, "op_types": ["Conv2d"]}]).compress()
    distiller = Distiller(model, None, [SoftTargets()])
    teacher = distiller.teachers[0].model
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert torch.equal(teacher(x), pictures_net()[0](x))
    assert distiller(model(x), x) > 0  # two bits are not the float model


def test_a_teacher_is_taken_before_masks_are_attached():
    model, x = pictures_net()
    student, _ = pruned_copy(model, x)
    with pytest.raises(ConfigError, match="masks are attached to this Pictures"):
        dense_teacher(student)
    with pytest.raises(ConfigError, match="the teacher is the student itself"):
        Distiller(model, model, [SoftTargets()])


def test_several_teachers_each_with_a_weight_and_terms_of_its_own():
    model, x = pictures_net()
    other, _ = pictures_net(seed=3)
    student, _ = pruned_copy(model, x)
    foreign = nn.Sequential(nn.Flatten(), nn.Linear(108, 5))
    terms = [HiddenStates(["relu"])]
    alone = [
        Distiller(student, teacher, its)(student(x), x)
        for teacher, its in ((model, terms), (other, terms), (foreign, [SoftTargets(2.0)]))
    ]
    teachers = [model, Teacher(other, weight=0.5), Teacher(foreign, weight=3.0, terms=[SoftTargets(2.0)])]
    distiller = Distiller(student, teachers, terms)
    together = distiller(student(x), x)
    torch.testing.assert_close(together, alone[0] + 0.5 * alone[1] + 3 * alone[2])
    torch.testing.assert_close(distiller.losses["hidden_states"], (alone[0] + 0.5 * alone[1]).detach())


def test_the_layer_of_the_teacher_can_be_another_one():
    model, x = pictures_net()
    student = copy.deepcopy(model)
    loss = Distiller(student, model, [HiddenStates([("stem", "outer")])])(student(x), x)
    seen = returned(model, x, ["stem", "outer"])
    torch.testing.assert_close(loss, F.mse_loss(seen["stem"], seen["outer"]))


def test_a_term_of_ones_own():
    class Means(FeatureTerm):
        def compare(self, student, teacher, counted):
            return (student.mean() - teacher.mean()).abs()

    model, x = pictures_net()
    student, _ = pruned_copy(model, x)
    distiller = Distiller(student, model, [Means(["relu"], weight=2.0, channels="all")])
    expected = 2 * (returned(student, x)["relu"].mean() - returned(model, x)["relu"].mean()).abs()
    torch.testing.assert_close(distiller(student(x), x), expected)
    assert list(distiller.losses) == ["means"]


def test_a_layer_that_runs_several_times_is_compared_each_time():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(4, 4)
            self.again = self.mix

        def forward(self, x):
            return self.again(self.mix(x).relu())

    student, teacher, x = Twice(), Twice(), torch.randn(3, 4)
    loss = Distiller(student, teacher, [HiddenStates(["again"])])(student(x), x)
    first = student.mix(x), teacher.mix(x)
    torch.testing.assert_close(loss, F.mse_loss(*first) + F.mse_loss(student(x), teacher(x)))


def test_torchs_fast_path_of_encoder_layers_does_not_hide_what_is_inside():
    model, batch = tokens_net()
    terms = [HiddenStates(["encoder.layers.0.linear1"]), TokenRelations(["encoder.layers.1"], heads=4)]
    assert torch.backends.mha.get_fastpath_enabled()
    teacher = dense_teacher(model)
    assert Distiller(model, teacher, terms)(model(**batch), **batch) == 0.0
    assert not any(p.requires_grad for p in teacher.parameters())
    assert torch.backends.mha.get_fastpath_enabled()


def test_inputs_that_no_signature_names():
    class Any(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *pictures):
            return self.inner(pictures[0])

    model, x = pictures_net()
    student, _ = pruned_copy(model, x)
    expected = Distiller(student, model, [HiddenStates(["relu"])])(student(x), x)
    student, teacher = Any(student), Any(model)
    assert Distiller(student, teacher, [HiddenStates(["inner.relu"])])(student(x), x) == expected


# -- errors ----------------------------------------------------------------------------------------------------------


def test_the_student_runs_before_each_call_and_a_closed_distiller_is_closed():
    model, x = pictures_net()
    distiller = Distiller(model, dense_teacher(model), [HiddenStates(["relu"])])
    output = model(x)
    distiller(output, x)
    with pytest.raises(ConfigError, match="the student's layer 'relu' has not run since the distiller looked last"):
        distiller(output, x)
    distiller.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with pytest.raises(ConfigError, match="the distiller is closed"):
        distiller(model(x), x)


@pytest.mark.parametrize(
    ("terms", "message"),
    [([], "there are no terms"), (SoftTargets(), r"give \[SoftTargets"), (["soft"], r"terms\[0\] is 'soft'"),
     ([HiddenStates(["rellu"])], "the student has no layer 'rellu'; the nearest are 'relu'"),
     ([HiddenStates([("relu", "nowhere")])], "the teacher has no layer 'nowhere'")],
)  # fmt: skip
def test_what_cannot_be_built_leaves_no_hook(terms, message):
    model, _ = pictures_net()
    teacher = dense_teacher(model)
    with pytest.raises(ConfigError, match=message):
        Distiller(model, teacher, terms)
    for one in (model, teacher):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in one.modules())


@pytest.mark.parametrize("whose", ["student", "teacher"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_are_reported_with_the_layer(whose, value):
    model, x = pictures_net()
    teacher = dense_teacher(model)
    with torch.no_grad():
        (model if whose == "student" else teacher).inner_norm.bias[0] = value
    terms = [HiddenStates(["stem", "inner_norm"])]
    message = f"Of what the {whose} returns, 144 of 2304 entries are NaN or infinite: hidden_states at 'inner_norm'"
    with pytest.raises(ConfigError, match=message):
        Distiller(model, teacher, terms)(model(x), x)
    assert not Distiller(model, teacher, terms, check_finite=False)(model(x), x).isfinite()


def test_shapes_that_cannot_be_matched_are_reported_with_the_layer():
    model, x = pictures_net()
    student, _ = pruned_copy(model, x)
    ModelSpeedup(student, x).speedup_model()
    del student.torchpare_structure
    message = r"hidden_states at 'relu': the student's layer returns \(4, 4, 6, 6\), the teacher's \(4, 8, 6, 6\); the "
    with pytest.raises(ConfigError, match=message + "student carries no record"):
        Distiller(student, model, [HiddenStates(["relu"])])(student(x), x)
    with pytest.raises(
        ConfigError, match=r"soft_targets: the student's logits are \(4, 5\) and the teacher's \(4, 7\)"
    ):
        Distiller(student, nn.Sequential(nn.Flatten(), nn.Linear(108, 7)), [SoftTargets()])(student(x), x)
    with pytest.raises(ConfigError, match=r"attention_maps at 'head': maps over places are made of \(N, C"):
        Distiller(student, model, [AttentionMaps(["head"])])(student(x), x)


def test_blocks_that_are_dropped_later_ask_for_a_new_distiller():
    import torchpare

    model, batch = tokens_net()
    distiller = Distiller(model, dense_teacher(model), [HiddenStates(["encoder.layers.1"])])
    torchpare.plan(model, [{"sparsity": 0.5, "structures": ["layers"]}], batch).apply()
    with pytest.raises(ConfigError, match="blocks were dropped from the student since"):
        distiller(model(**batch), **batch)
    student_layer = "encoder.layers.0"
    loss = Distiller(model, distiller.teachers[0].model, [HiddenStates([student_layer])])(model(**batch), **batch)
    assert loss.isfinite()
