"""A masked layer is read through its mask and is otherwise the layer it was."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import warnings
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from torchpare.attach import attach_mask, attach_masks, detach, is_attached, masks_of, plain_state_dict
from torchpare.errors import MaskError


def channels(keep, rank):
    return torch.tensor(keep, dtype=torch.bool).reshape(-1, *[1] * (rank - 1))


def small_net():
    model = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(2, 4, 3, padding=1), norm=nn.BatchNorm2d(4), act=nn.Tanh(), head=nn.Conv2d(4, 3, 1))
    )
    with torch.no_grad():
        for tensor in (model.norm.weight, model.norm.bias, model.norm.running_mean):
            tensor.normal_()
    return model


KEEP = [True, False, True, False]


def masked_net():
    model = small_net()
    attach_mask(model.conv, "weight", channels(KEEP, 4))
    attach_mask(model.conv, "bias", channels(KEEP, 1))
    attach_mask(model.norm, "weight", channels(KEEP, 1))
    attach_mask(model.norm, "bias", channels(KEEP, 1))
    return model


def by_hand(model):
    """The same function, from plain layers with zeros written into a copy of their parameters."""
    plain = small_net()
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if not key.endswith("_mask")})
    with torch.no_grad():
        for layer in (plain.conv, plain.norm):
            layer.weight[[1, 3]] = 0
            layer.bias[[1, 3]] = 0
    return plain.train(model.training)


def test_the_masked_weight_is_what_everybody_reads():
    model = masked_net()
    x = torch.randn(2, 2, 5, 5)
    assert torch.equal(model.eval()(x), by_hand(model)(x))
    assert model.conv.weight[1].abs().sum() == 0
    assert model.conv.bias[[1, 3]].tolist() == [0, 0]
    assert model.conv.old_weight[1].abs().sum() > 0


def test_the_layer_is_the_layer_it_was():
    model = small_net()
    conv, parameters, keys = model.conv, dict(model.named_parameters()), list(dict(model.named_parameters()))
    attach_mask(conv, "weight", channels(KEEP, 4))
    assert model.conv is conv is conv.module
    assert isinstance(conv, nn.Conv2d)
    assert type(conv).__name__ == "Conv2d"
    assert repr(conv) == "Conv2d(2, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), masked: weight)"
    assert list(dict(model.named_parameters())) == keys
    assert all(value is parameters[key] for key, value in model.named_parameters())
    assert conv.old_weight is parameters["conv.weight"]


def test_layers_of_one_class_share_a_class_and_others_are_left_alone():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1))
    attach_mask(model[0], "weight", channels(KEEP, 4))
    attach_mask(model[1], "weight", channels(KEEP, 4))
    assert type(model[0]) is type(model[1])
    assert type(model[2]) is nn.Conv2d
    attach_mask(model[1], "bias", channels(KEEP, 1))
    assert model[1].torchpare_masked == ("bias", "weight")
    assert model[0].torchpare_masked == ("weight",)


def test_reading_changes_nothing():
    model = masked_net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    version = model.conv.old_weight._version
    for _ in range(3):
        _ = model.conv.weight, model.conv.bias, model.norm.weight, str(model), masks_of(model), plain_state_dict(model)
    assert model.conv.old_weight._version == version
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_gradients_are_zero_where_masked_and_elsewhere_those_of_the_plain_model():
    model, x = masked_net(), torch.randn(2, 2, 5, 5)
    plain = by_hand(model)
    model(x).square().sum().backward()
    plain(x).square().sum().backward()
    for layer in ("conv", "norm"):
        for name in ("weight", "bias"):
            masked = getattr(model, layer)._parameters[name].grad
            assert torch.equal(masked[[1, 3]], torch.zeros_like(masked[[1, 3]]))
            torch.testing.assert_close(masked[[0, 2]], getattr(getattr(plain, layer), name).grad[[0, 2]])


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
        lambda parameters: torch.optim.Adam(parameters, lr=0.1, weight_decay=0.1, amsgrad=True),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1),
        lambda parameters: torch.optim.RMSprop(parameters, lr=0.1, momentum=0.9, centered=True),
    ],
)
def test_training_leaves_pruned_weights_at_exactly_zero(make):
    model = small_net()
    optimizer = make(model.parameters())  # made before the masks: the parameters stay the same objects
    for _ in range(2):
        model(torch.randn(4, 2, 5, 5)).square().mean().backward()
        optimizer.step()  # momentum is now under way
    for name, own in masks_of(masked_net()).items():
        for key, mask in own.items():
            attach_mask(model.get_submodule(name), key, mask)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(4, 2, 5, 5)).square().mean().backward()
        optimizer.step()
        for layer in (model.conv, model.norm):
            assert not layer.weight[[1, 3]].any()
            assert not layer.bias[[1, 3]].any()
    assert not plain_state_dict(model)["conv.weight"][[1, 3]].any()
    assert plain_state_dict(model)["conv.weight"][[0, 2]].any()


def test_a_dense_checkpoint_loads_strictly_and_the_masks_stay():
    model, other = masked_net(), small_net()
    missing, unexpected = model.load_state_dict(other.state_dict())
    assert (missing, unexpected) == ([], [])
    assert torch.equal(model.conv.old_weight, other.conv.weight)
    assert masks_of(model)["conv"]["bias"].tolist() == KEEP


def test_what_else_is_missing_is_still_reported():
    model, state = masked_net(), small_net().state_dict()
    del state["conv.bias"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "conv.bias"\.'):
        model.load_state_dict(state)


def test_masks_in_a_checkpoint_are_loaded_in_whatever_form():
    model, state = masked_net(), masked_net().state_dict()
    state["conv.weight_mask"] = channels([False, False, True, True], 4).expand(4, 2, 3, 3).contiguous()
    model.load_state_dict(state)
    assert masks_of(model)["conv"]["weight"].shape == (4, 2, 3, 3)
    assert not model.conv.weight[0].any()
    assert model.conv.weight[3].any()


def test_a_mask_in_a_checkpoint_that_does_not_fit_is_refused():
    model, state = masked_net(), masked_net().state_dict()
    state["conv.weight_mask"] = torch.ones(5, 1, 1, 1, dtype=torch.bool)
    with pytest.raises(RuntimeError, match=r"size mismatch for conv\.weight_mask"):
        model.load_state_dict(state)


def test_a_masked_state_round_trips():
    model, other = masked_net(), masked_net()
    other.load_state_dict(model.state_dict())
    x = torch.randn(2, 2, 5, 5)
    assert torch.equal(model.eval()(x), other.eval()(x))


def test_copies_are_masked_and_independent():
    model = masked_net()
    twin = copy.deepcopy(model)
    x = torch.randn(1, 2, 5, 5)
    assert torch.equal(twin.eval()(x), model.eval()(x))
    detach(twin, bake=False)
    assert is_attached(model)
    assert not is_attached(twin)
    assert not model.conv.weight[1].any()
    assert twin.conv.weight[1].any()


def test_an_averaged_model_is_masked():
    model = masked_net()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    assert not averaged.module.conv.weight[1].any()


def test_a_copy_on_the_meta_device_carries_its_masks():
    twin = copy.deepcopy(masked_net()).to("meta")
    assert twin(torch.empty(1, 2, 5, 5, device="meta")).shape == (1, 3, 5, 5)
    assert masks_of(twin)["conv"]["weight"].is_meta


def test_a_whole_model_is_pickled():
    model, x = masked_net().eval(), torch.randn(1, 2, 5, 5)
    for protocol in (0, 2, pickle.HIGHEST_PROTOCOL):
        twin = pickle.loads(pickle.dumps(model, protocol))
        assert torch.equal(twin(x), model(x))
        assert type(twin.conv) is type(model.conv)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), model(x))


def test_a_pickled_model_lives_in_another_process(tmp_path):
    model, x = masked_net().eval(), torch.randn(1, 2, 5, 5)
    torch.save(model, tmp_path / "model.pt")
    torch.save((x, model(x)), tmp_path / "example.pt")
    script = (
        "import sys, torch\n"
        "model = torch.load(sys.argv[1], weights_only=False)\n"
        "x, y = torch.load(sys.argv[2])\n"
        "assert torch.equal(model(x), y)\n"
        "from torchpare.attach import is_attached, detach\n"
        "assert is_attached(model) and not model.conv.weight[1].any()\n"
        "detach(model, bake=True)\n"
        "assert torch.equal(model(x), y)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "model.pt"), str(tmp_path / "example.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class OwnReduce(nn.Linear):
    def __reduce__(self):
        return OwnReduce, (2, 2)


def test_a_class_that_pickles_itself_would_lose_its_masks_and_says_so():
    layer = OwnReduce(2, 2)
    attach_mask(layer, "weight", torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(TypeError, match="detach the model before"):
        pickle.dumps(layer)


def test_detached_layers_are_plain_again_with_dense_values_or_with_zeros():
    for bake in (False, True):
        model = masked_net().eval()
        masked, parameters, x = by_hand(model), dict(model.named_parameters()), torch.randn(1, 2, 5, 5)
        dense = model.conv.old_weight.detach().clone()
        detach(model, bake=bake)
        assert type(model.conv) is nn.Conv2d
        assert type(model.norm) is nn.BatchNorm2d
        assert not is_attached(model)
        assert model.state_dict().keys() == small_net().state_dict().keys()
        assert all(value is parameters[key] for key, value in model.named_parameters())
        assert torch.equal(model.conv.weight, dense) is not bake
        assert torch.equal(model(x), masked(x)) is bake
        detach(model, bake=bake)  # nothing left to do


def test_a_layer_can_be_masked_again_after_it_was_detached():
    model = masked_net()
    detach(model, bake=False)
    attach_mask(model.conv, "weight", channels([False, True, True, True], 4))
    assert model.conv.weight[1].any()
    assert not model.conv.weight[0].any()


def test_a_new_mask_replaces_the_old_one():
    model = masked_net()
    attach_mask(model.conv, "weight", channels([False, True, True, True], 4))
    assert masks_of(model)["conv"]["weight"].flatten().tolist() == [False, True, True, True]
    assert masks_of(model)["conv"]["bias"].tolist() == KEEP


def test_a_mask_is_copied():
    mask = channels(KEEP, 4)
    model = small_net()
    attach_mask(model.conv, "weight", mask)
    mask.fill_(True)
    masks_of(model)["conv"]["weight"].fill_(True)
    assert not model.conv.weight[1].any()


def test_a_new_parameter_of_the_same_shape_is_masked_and_another_one_refused():
    model = masked_net()
    fresh = nn.Parameter(torch.ones(4, 2, 3, 3))
    model.conv.weight = fresh
    assert model.conv.old_weight is fresh
    assert model.conv.weight[:, 0, 0, 0].tolist() == [1, 0, 1, 0]
    with pytest.raises(
        MaskError, match=r"Conv2d\.weight: a mask of shape \(4, 1, 1, 1\) does not fit .*\(5, 2, 3, 3\)"
    ):
        model.conv.weight = nn.Parameter(torch.ones(5, 2, 3, 3))
    with pytest.raises(MaskError, match="cannot become None"):
        model.conv.bias = None
    with pytest.raises(TypeError, match="cannot assign"):
        model.conv.weight = torch.ones(4, 2, 3, 3)
    assert model.conv.old_weight is fresh


def test_parametrizing_a_masked_parameter_is_refused_instead_of_losing_the_mask():
    model = masked_net()
    with pytest.raises(MaskError, match="detach the model first"):
        parametrize.register_parametrization(model.conv, "weight", nn.Identity())


def test_other_attributes_of_a_masked_layer_can_still_be_set_and_deleted():
    model = masked_net()
    model.conv.note = "mine"
    del model.conv.note
    model.norm.running_mean = torch.zeros(4)
    assert not hasattr(model.conv, "note")


@pytest.mark.parametrize(
    ("name", "mask", "words"),
    [
        ("wieght", channels(KEEP, 4), "Conv2d.wieght: Conv2d has no parameter 'wieght'; it has: weight, bias"),
        ("weight", channels(KEEP, 4).float(), r"a mask is a bool tensor .* not torch.float32"),
        ("weight", [True], "a mask is a bool tensor .* not list"),
        ("weight", channels(KEEP, 1), r"a mask of shape \(4,\) does not fit"),
        ("weight", channels([True] * 3, 4), r"a mask of shape \(3, 1, 1, 1\) does not fit"),
        ("bias", channels(KEEP, 4), "does not fit"),
    ],
)
def test_a_mask_that_cannot_be_attached_is_refused_and_the_layer_stays_plain(name, mask, words):
    model = small_net()
    with pytest.raises(MaskError, match=words):
        attach_mask(model.conv, name, mask)
    assert type(model.conv) is nn.Conv2d
    assert not any(key.endswith("_mask") for key in model.conv._buffers)


def test_a_parametrized_weight_is_refused_with_the_reason():
    layer = nn.Linear(2, 2)
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    with pytest.raises(MaskError, match="remove its parametrization first"):
        attach_mask(layer, "weight", torch.ones(2, 2, dtype=torch.bool))


def test_a_layer_that_knows_no_shape_yet_is_refused():
    with pytest.raises(MaskError, match="run the model once"):
        attach_mask(nn.LazyLinear(2), "weight", torch.ones(2, 2, dtype=torch.bool))


def test_a_scripted_module_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that scripting is on its way out
        scripted = torch.jit.script(nn.Linear(2, 2))
    with pytest.raises(MaskError, match="TorchScript"):
        attach_mask(scripted, "weight", torch.ones(2, 2, dtype=torch.bool))


def test_a_place_that_is_taken_is_refused():
    layer = nn.Linear(2, 2)
    layer.weight_mask = "mine"
    with pytest.raises(MaskError, match="already has an attribute 'weight_mask'"):
        attach_mask(layer, "weight", torch.ones(2, 2, dtype=torch.bool))
    assert layer.weight_mask == "mine"


def test_a_mask_made_in_inference_mode_serves_training():
    layer = nn.Linear(2, 2)
    with torch.inference_mode():
        attach_mask(layer, "weight", torch.tensor([[True, False], [True, True]]))
    layer(torch.ones(1, 2)).sum().backward()
    assert layer.old_weight.grad.tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_casting_a_masked_model_casts_the_parameters_and_not_the_masks(dtype):
    model = masked_net().to(dtype)
    assert model.conv.weight.dtype == dtype
    assert model.conv.weight_mask.dtype == torch.bool


def test_a_model_with_its_own_child_called_module_keeps_it():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(2, 2)
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return self.module(x) * self.scale

    wrapper = Wrapper()
    attach_mask(wrapper, "scale", torch.tensor([True, False]))
    assert isinstance(wrapper.module, nn.Linear)
    assert wrapper(torch.ones(1, 2))[0, 1] == 0
    with pytest.raises(AttributeError, match="old_weight"):
        _ = wrapper.old_weight
    attach_masks(wrapper, {"": {"scale": torch.tensor([False, True])}})
    assert wrapper(torch.ones(1, 2))[0, 0] == 0
