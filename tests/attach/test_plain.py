"""Masks of a whole model: shared layers, tied parameters, and the state as if nothing were attached."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchpare.attach import attach_masks, detach, is_attached, masks_of, plain_state_dict
from torchpare.errors import MaskError

EVERY_OTHER = torch.tensor([True, False, True, False])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.body = nn.Linear(3, 3)
        self.head = nn.Linear(3, 4)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.body(self.embed(x)))


def test_tied_weights_are_masked_wherever_they_are_read():
    model = Tied()
    attach_masks(model, {"embed": {"weight": EVERY_OTHER[:, None]}})
    assert masks_of(model).keys() == {"embed", "head"}
    assert not model.head.weight[1].any()
    assert model.head.old_weight is model.embed.old_weight


def test_tied_weights_with_several_masks_keep_what_all_of_them_keep():
    model = Tied()
    masks = {"embed": {"weight": EVERY_OTHER[:, None]}, "head": {"weight": torch.tensor([[True, True, False]])}}
    attach_masks(model, masks)
    assert model.embed.weight_mask.tolist() == [[True, True, False], [False] * 3] * 2
    assert torch.equal(model.embed.weight_mask, model.head.weight_mask)
    state = plain_state_dict(model)
    assert torch.equal(state["embed.weight"], state["head.weight"])
    detach(model, bake=True)
    assert model.head.weight is model.embed.weight
    assert not model.head.weight[1].any()


def test_a_tied_layer_that_cannot_be_masked_leaves_all_of_them_plain():
    model = Tied()
    model.head.weight_mask = "mine"
    with pytest.raises(MaskError, match=r"head\.weight: the layer already has an attribute 'weight_mask'"):
        attach_masks(model, {"embed": {"weight": EVERY_OTHER[:, None]}})
    assert not is_attached(model)


def test_a_shared_layer_is_masked_once_under_any_of_its_names():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model.add_module("again", model[0])
    attach_masks(model, {"again": {"weight": EVERY_OTHER[:, None]}})
    assert masks_of(model).keys() == {"0"}
    state = plain_state_dict(model)
    assert list(state) == ["0.weight", "0.bias", "again.weight", "again.bias"]
    assert not state["again.weight"][1].any()
    assert not state["0.weight"][3].any()


def test_the_plain_state_goes_straight_into_the_original_class():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    keys = list(model.state_dict())
    attach_masks(model, {"0": {"weight": EVERY_OTHER[:, None, None, None]}, "1": {"bias": EVERY_OTHER}})
    state = plain_state_dict(model)
    assert list(state) == keys
    assert not any(value.requires_grad for value in state.values())
    fresh = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    fresh.load_state_dict(state)
    x = torch.randn(2, 1, 5, 5)
    assert torch.equal(fresh.eval()(x), model.eval()(x))


def test_the_plain_state_of_a_plain_model_is_its_state():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    state = plain_state_dict(model)
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert state._metadata == model.state_dict()._metadata
    assert masks_of(model) == {}
    assert not is_attached(model)


def test_keys_that_a_hook_renames_are_plain_too():
    model = nn.Sequential(nn.Linear(4, 4))

    def rename(_module, state, _prefix, _metadata):
        for key in list(state):
            state[f"old.{key}"] = state.pop(key)

    model.register_state_dict_post_hook(rename)
    attach_masks(model, {"0": {"weight": EVERY_OTHER[:, None]}})
    state = plain_state_dict(model)
    assert list(state) == ["old.0.weight", "old.0.bias"]
    assert not state["old.0.weight"][1].any()


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ({"emebd": {"weight": EVERY_OTHER[:, None]}}, r"masks\['emebd'\]: .* did you mean 'embed'"),
        ({"body": {"scale": EVERY_OTHER}}, r"body\.scale: Linear has no parameter 'scale'; it has: weight, bias"),
        ({"body": {"weight": EVERY_OTHER[:, None]}}, r"body\.weight: a mask of shape \(4, 1\) does not fit .*\(3, 3\)"),
    ],
)
def test_one_wrong_mask_and_nothing_is_attached(masks, words):
    model = Tied()
    with pytest.raises(MaskError, match=words):
        attach_masks(model, {"head": {"bias": EVERY_OTHER}} | masks)
    assert not is_attached(model)
