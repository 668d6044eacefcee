"""Masks that a state has and a model has not: they are taken over where that was asked for, and nowhere else."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from torchpare.attach import attach_mask, attach_masks, is_attached, masks_of
from torchpare.attach.loading import masks_in, open_masks, take_masks_from_states


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def masked():
    outer = Outer()
    attach_masks(outer.inner, {"0": {"weight": torch.tensor([[True], [False], [True], [True]]),
                                     "bias": torch.tensor([True, False, True, True])}})  # fmt: skip
    return outer


def test_without_being_asked_a_model_refuses_masks_it_does_not_have():
    with pytest.raises(RuntimeError, match="weight_mask"):
        Outer().load_state_dict(masked().state_dict())


@pytest.mark.parametrize("whole", [True, False], ids=["the model", "a part of the model that is loaded"])
def test_asked_it_takes_them_over(whole):
    source, fresh = masked(), Outer()
    handle = take_masks_from_states(fresh if whole else fresh.inner)
    fresh.load_state_dict(source.state_dict())
    assert torch.equal(fresh.inner[0].weight, source.inner[0].weight)
    assert not fresh.inner[0].weight[1].any()
    assert not is_attached(fresh.inner[2])
    handle.remove()
    assert not fresh._load_state_dict_pre_hooks
    assert not fresh.inner._load_state_dict_pre_hooks


def test_a_single_layer_takes_its_own_masks_over():
    source, fresh = nn.Linear(3, 2), nn.Linear(3, 2)
    attach_mask(source, "weight", torch.tensor([[True], [False]]))
    take_masks_from_states(fresh)
    fresh.load_state_dict(source.state_dict())
    assert torch.equal(fresh.weight, source.weight)


def test_copies_and_pickles_do_the_same():
    fresh = Outer().inner
    take_masks_from_states(fresh)
    for twin in (copy.deepcopy(fresh), pickle.loads(pickle.dumps(fresh))):
        twin.load_state_dict(masked().inner.state_dict())
        assert not twin[0].weight[1].any()
        assert is_attached(twin)
    assert not is_attached(fresh)


def test_what_only_looks_like_a_mask_is_none():
    outer = Outer()
    state = {"inner.0.weight_mask": torch.ones(4, 1), "inner.9.weight_mask": torch.ones(1, dtype=torch.bool),
             "inner.0.size_mask": torch.ones(1, dtype=torch.bool), "inner.0.bias_mask": 3}  # fmt: skip
    assert masks_in(outer, state) == {}


def test_masks_are_opened_but_for_those_that_are_named():
    outer = masked()
    open_masks(outer, but={"inner.0": ["bias"]})
    masks = masks_of(outer)["inner.0"]
    assert masks["weight"].all()
    assert not masks["bias"].all()
