"""Which indices of the teacher's outputs a pruned student still has, as the shrink itself decided it."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import torchpare
from tests.distillation.nets import pictures_net, pruned_copy, tokens_net
from tests.networks.sequence_strategies import sequence_recipes, wishes
from tests.networks.strategies import masks_for, recipes
from torchpare import ModelSpeedup
from torchpare.attach import attach_masks
from torchpare.distillation import KeptOutputs, dense_teacher
from torchpare.errors import CaptureError, ConfigError
from torchpare.graph import analyse
from torchpare.pruning import L1FilterPruner


def decided(removal):
    """By layer and number of the tensor it returned, for each axis the kept indices, or None where that depends."""
    seen, found = Counter(), {}
    for path, uid in removal.space.program.module_outputs:
        kept = removal.kept_axes(uid)
        shape = removal.space.program.values[uid].shape
        axes = []
        for axis, flags in enumerate(kept):
            if flags.all():
                axes.append(list(range(shape[axis])))
            else:
                axes.append(flags.reshape(-1).nonzero()[0].tolist() if flags.size == shape[axis] else None)
        found[path, seen[path]] = (shape, axes)
        seen[path] += 1
    return found


def agrees(kept, removal):
    """Compare all layers; returns how many axes have lost something."""
    lost = 0
    for (path, number), (shape, axes) in decided(removal).items():
        if any(axis is None for axis in axes):
            continue
        _, its = kept.axes(path, path, number)
        told = [None] * len(shape) if its is None else its
        for size, expected, found in zip(shape, axes, told, strict=True):
            assert (list(range(size)) if found is None else found.tolist()) == expected, (path, number)
            lost += len(expected) < size
    return lost


@pytest.mark.slow
@settings(max_examples=25)
@given(recipes(), st.sampled_from(["layers", "aware", "convolutions"]), st.integers(0, 999))
def test_of_random_pictures_nets_the_record_tells_what_the_shrink_decided(recipe, kind, seed):
    model, x = recipe.build(), recipe.input()
    masks = masks_for(analyse(model, x), model, kind, seed)
    assume(masks)
    teacher = dense_teacher(model)
    speedup = ModelSpeedup(model, x, masks, verify=False)
    removal = speedup.plan().removal
    masked = copy.deepcopy(model)
    attach_masks(masked, masks)
    speedup.speedup_model()
    agrees(KeptOutputs(model, teacher, x), removal)
    own = KeptOutputs(masked, teacher, x)
    for (path, number), (shape, axes) in decided(removal).items():
        if any(axis is None for axis in axes):
            continue
        its, there = own.axes(path, path, number)
        assert there is None  # a masked model has not lost anything yet
        for size, expected, found in zip(shape, axes, its, strict=True):
            assert (list(range(size)) if found is None else found.tolist()) == expected


@pytest.mark.slow
@settings(max_examples=25)
@given(sequence_recipes(), wishes())
def test_of_random_sequence_nets_the_record_tells_what_the_plan_decided(recipe, wish):
    model, x = recipe.build(), recipe.input()
    entries = wish.entries(model, x)
    assume(entries is not None)
    teacher = dense_teacher(model)
    plan = torchpare.plan(model, entries, x)
    assume(not plan.removal.empty)
    plan.apply()
    agrees(KeptOutputs(model, teacher, x), plan.removal)


def test_indices_of_a_residual_are_those_of_its_layers_and_a_second_shrink_counts_in_the_first_model():
    model, x = pictures_net()
    teacher = dense_teacher(model)
    model, _ = pruned_copy(model, x, 0.25)
    ModelSpeedup(model, x).speedup_model()
    between = dense_teacher(model)
    first = KeptOutputs(model, teacher, x).indices("relu", dim=1)
    assert first.tolist() == model.torchpare_structure["kept"]["outer.weight"]["0"]
    assert len(first) == 6
    model, _ = pruned_copy(model, x, 0.5)
    ModelSpeedup(model, x).speedup_model()
    second = KeptOutputs(model, teacher, x).indices("relu", dim=1)
    assert second.tolist() == model.torchpare_structure["kept"]["outer.weight"]["0"]
    assert torch.equal(first[KeptOutputs(model, between, x).indices("relu", dim=1)], second)


def test_masks_on_a_shrunk_model_and_what_was_shrunk_before_are_one_answer():
    model, x = pictures_net()
    teacher = dense_teacher(model)
    model, _ = pruned_copy(model, x, 0.25)
    ModelSpeedup(model, x).speedup_model()
    masked, _ = pruned_copy(model, x, 0.5)
    told = KeptOutputs(masked, teacher, x)
    own, its = told.axes("relu", "relu", 0)
    assert (len(own[1]), len(its[1])) == (3, 6)
    ModelSpeedup(masked, x).speedup_model()
    assert torch.equal(its[1][own[1]], told.indices("relu", dim=1))
    assert torch.equal(told.indices("relu", dim=1), KeptOutputs(masked, teacher, x).indices("relu", dim=1))


def test_one_question_is_answered_anew_after_each_change_of_the_student():
    model, x = pictures_net()
    student = copy.deepcopy(model)
    told = KeptOutputs(student, model, x)
    assert told.axes("relu", "relu", 0) == (None, None)
    for sparsity, left in ((0.25, 6), (0.5, 3)):
        L1FilterPruner(
            student, [{"sparsity": sparsity, "op_types": ["Conv2d"]}], dependency_aware=True, dummy_input=x
        ).compress()
        masked = told.indices("relu", dim=1)
        assert len(masked) == left
        ModelSpeedup(student, x).speedup_model()
        assert torch.equal(told.indices("relu", dim=1), masked)
        assert masked.tolist() == student.torchpare_structure["kept"]["outer.weight"]["0"]
    assert KeptOutputs(student, dense_teacher(student), x).axes("relu", "relu", 0) == (None, None)


def test_a_loaded_model_knows_what_it_kept(tmp_path):
    model, x = pictures_net()
    teacher = dense_teacher(model)
    model, _ = pruned_copy(model, x)
    ModelSpeedup(model, x).speedup_model()
    torchpare.save(model, tmp_path / "small.safetensors")
    loaded = torchpare.load(pictures_net(seed=1)[0], tmp_path / "small.safetensors")
    for layer in ("norm", "inner", "relu"):
        expected = KeptOutputs(model, teacher, x).indices(layer, dim=1)
        assert torch.equal(KeptOutputs(loaded, teacher, x).indices(layer, dim=-3), expected)


def test_layers_behind_dropped_blocks_are_found_under_the_names_that_they_had():
    model, batch = tokens_net()
    teacher = dense_teacher(model)
    plan = torchpare.plan(model, [{"sparsity": 0.5, "structures": ["layers"]}], batch)
    plan.apply()
    (left,) = {0, 1} - set(model.torchpare_structure["dropped"]["encoder.layers"])
    assert KeptOutputs(model, teacher, batch).name_of("encoder.layers.0.linear1") == f"encoder.layers.{left}.linear1"


def test_an_unpruned_student_is_not_even_analysed():
    class Stubborn(nn.Module):
        def forward(self, x):
            raise RuntimeError("cannot run")

    student, teacher = Stubborn(), Stubborn()
    assert KeptOutputs(student, teacher, torch.ones(1)).axes("", "", 0) == (None, None)
    with pytest.raises(CaptureError, match="the teacher's channels cannot be followed: could not run Stubborn"):
        KeptOutputs(student, teacher, torch.ones(1)).indices("", 0)


def test_a_teacher_that_is_not_the_model_before_the_shrink_is_refused():
    model, x = pictures_net()
    student, _ = pruned_copy(model, x)
    ModelSpeedup(student, x).speedup_model()
    with pytest.raises(ConfigError, match=r"shrunk from a model with a parameter 'stem\.weight'"):
        KeptOutputs(student, nn.Sequential(nn.Conv2d(3, 8, 3)), x).axes("relu", "0", 0)
    narrow = copy.deepcopy(student)
    del narrow.torchpare_structure
    with pytest.raises(
        ConfigError, match=r"of '.*' the student keeps entries along axis 0 that the teacher's, of shape"
    ):
        KeptOutputs(student, narrow, x).indices("relu", 1)
    other, _ = pruned_copy(student, x, 0.5)
    ModelSpeedup(other, x).speedup_model()
    with pytest.raises(ConfigError, match="that the teacher has lost"):
        KeptOutputs(student, other, x).indices("relu", 1)


@pytest.mark.parametrize(
    ("layer", "dim", "message"),
    [("block", 1, "the student has no layer 'block'"), ("relu", 4, "returns 4 axes, so there is no axis 4"),
     ("idle", 1, "do not reach the teacher's layer 'idle'")],
)  # fmt: skip
def test_questions_that_have_no_answer(layer, dim, message):
    model, x = pictures_net()
    model.idle = nn.Conv2d(3, 3, 1)
    student, _ = pruned_copy(model, x)
    with pytest.raises(ConfigError, match=message):
        KeptOutputs(student, model, x).indices(layer, dim)
