"""Pruners that users wrote for NNI, as its page on customized compressors says, run here."""

from __future__ import annotations

import copy

import pytest
import torch
from nni.algorithms.compression.pytorch.pruning import (
    FPGMPrunerMasker,
    L1FilterPruner,
    L1FilterPrunerMasker,
    L2FilterPrunerMasker,
    LevelPruner,
    LevelPrunerMasker,
    StructuredWeightMasker,
    WeightMasker,
)
from nni.algorithms.compression.pytorch.pruning.constants import MASKER_DICT
from nni.compression.pytorch import ModelSpeedup, Pruner
from torch import nn

from torchpare.errors import MaskError
from torchpare.pruning import FPGMPruner, L2FilterPruner

FILTERS = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
X = torch.zeros(1, 1, 8, 8)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten(),
                         nn.Linear(128, 3))  # fmt: skip


class MyPruner(Pruner):
    """Masks weights below a quantile, in NNI's way."""

    def __init__(self, model, config_list, optimizer=None):
        super().__init__(model, config_list, optimizer)
        self.set_wrappers_attribute("if_calculated", False)

    def calc_mask(self, wrapper, **kwargs):
        if wrapper.if_calculated:
            return None
        weight = wrapper.module.weight.data
        threshold = weight.abs().flatten().quantile(wrapper.config["sparsity"])
        wrapper.if_calculated = True
        return {"weight_mask": (weight.abs() > threshold).type_as(weight)}


class ByMasker(Pruner):
    """Hands each layer to a masker, as NNI's own pruners did."""

    def __init__(self, model, config_list, masker, optimizer=None, **more):
        super().__init__(model, config_list, optimizer, **more)
        self.masker = masker(model, self)

    def calc_mask(self, wrapper, wrapper_idx=None):
        return self.masker.calc_mask(wrapper.config["sparsity"], wrapper, wrapper_idx)


class MyMasker(StructuredWeightMasker):
    """Removes the filters of largest sum."""

    def get_mask(self, base_mask, weight, num_prune, wrapper, wrapper_idx):
        order = weight.flatten(1).sum(dim=1).argsort(descending=True)
        gone = order[:num_prune]
        base_mask["weight_mask"][gone] = 0
        base_mask["bias_mask"][gone] = 0
        return base_mask


def test_a_pruner_with_calc_mask_masks_trains_and_exports(tmp_path):
    model = net()
    pruner = MyPruner(model, [{"sparsity": 0.75, "op_types": ["default"]}], torch.optim.SGD(model.parameters(), 0.1))
    assert pruner.compress() is model
    torch.nn.functional.cross_entropy(model(torch.randn(4, 1, 8, 8)), torch.tensor([0, 1, 2, 0])).backward()
    pruner.optimizer.step()
    pruner.update_epoch(1)
    pruner.update_mask()
    pruner.export_model(tmp_path / "model.pth", tmp_path / "mask.pth")
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    for name in ("0", "3", "5"):
        assert float((state[f"{name}.weight"] == 0).float().mean()) == pytest.approx(0.75, abs=0.02)
    net().load_state_dict(state, strict=True)


def test_filters_that_such_a_pruner_masks_go_with_their_groups(tmp_path):
    model = net()
    pruner = ByMasker(model, FILTERS, MyMasker)
    pruner.compress()
    masked = model.eval()(X).detach()
    assert int((model[1].weight == 0).sum()) == 3
    pruner.export_model(tmp_path / "model.pth", tmp_path / "mask.pth")
    pruner._unwrap_model()
    ModelSpeedup(model, X, tmp_path / "mask.pth").speedup_model()
    assert model[0].out_channels == 3
    torch.testing.assert_close(model(X), masked, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("masker", "pruner"),
    [
        (LevelPrunerMasker, LevelPruner),
        (L1FilterPrunerMasker, L1FilterPruner),
        (L2FilterPrunerMasker, L2FilterPruner),
        (FPGMPrunerMasker, FPGMPruner),
    ],
)
def test_a_masker_says_what_its_pruner_does(masker, pruner):
    one, other = net(), net()
    ByMasker(one, FILTERS, masker).compress()
    pruner(other, FILTERS).compress()
    assert masker in MASKER_DICT.values()
    for name in (0, 3):
        assert torch.equal(one[name].weight, other[name].weight)
        assert torch.equal(one[name].bias, other[name].bias)


def test_a_masker_keeps_multiples_if_it_is_told_to():
    class Rounding(MyMasker):
        def __init__(self, model, pruner):
            super().__init__(model, pruner, preserve_round=4)

    model = net()
    ByMasker(model, [{"sparsity": 0.7, "op_types": ["Conv2d"]}], Rounding).compress()
    kept = [int(model[at].weight.flatten(1).any(dim=1).sum()) for at in (0, 3)]
    assert kept == [4, 4]  # 2 of 6 and 3 of 8 would stay otherwise


def test_a_masker_of_too_few_filters_leaves_the_masks_as_they_are():
    model = net()
    ByMasker(model, [{"sparsity": 0.1, "op_names": ["0"]}], MyMasker).compress()
    assert bool(model[0].weight.flatten(1).any(dim=1).all())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.ones(6), "calc_mask returned a Tensor for 0"),
        ({"weight": torch.ones(6, 1, 3, 3)}, "calc_mask returned 'weight' for 0; its keys are 'weight_mask'"),
        ({"weight_mask": torch.ones(5, 1, 3, 3)}, r"mask of 0\.weight has shape \(5, 1, 1, 1\)"),
        ({"weight_mask": torch.full((6, 1, 3, 3), 0.5)}, "values other than 0 and 1"),
        ({"weight_mask": torch.zeros(6, 1, 3, 3)}, "prunes everything"),
    ],
)
def test_a_mask_that_is_none_is_refused_and_the_model_is_as_it_was(given, message):
    class Wrong(Pruner):
        def calc_mask(self, wrapper, **kwargs):
            return given

    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MaskError, match=message):
        Wrong(model, FILTERS).compress()
    assert type(model[0]) is nn.Conv2d
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_bases_ask_for_what_they_lack():
    with pytest.raises(TypeError, match="calc_mask"):
        Pruner(net(), FILTERS)
    with pytest.raises(TypeError, match="calc_mask"):
        WeightMasker(net(), None)


def test_a_pruner_that_has_given_no_masks_says_so():
    class Waits(Pruner):
        def calc_mask(self, wrapper, **kwargs):
            return None

    pruner = Waits(net(), FILTERS)
    pruner.compress()
    with pytest.raises(MaskError, match="no masks to export: calc_mask has given no masks yet"):
        pruner.export_model("nowhere.pth")


def test_keys_of_its_own_are_the_subclass_s_to_check_and_to_read():
    class ByThreshold(Pruner):
        def validate_config(self, model, config_list):
            if any(entry.get("threshold", 0) < 0 for entry in config_list):
                raise ValueError("thresholds are above zero")

        def calc_mask(self, wrapper, **kwargs):
            weight = wrapper.module.weight.data
            return {"weight_mask": weight.abs() > wrapper.config["threshold"]}

    model = net()
    pruner = ByThreshold(model, [
        {"op_types": ["Conv2d"], "threshold": 0.1},
        {"op_names": ["3"], "threshold": 0.02},
        {"op_names": ["5"], "exclude": True, "threshold": 9},
    ])  # fmt: skip
    assert [view.config["threshold"] for view in pruner.get_modules_wrapper()] == [0.1, 0.02]
    dense = copy.deepcopy(model)
    pruner.compress()
    for name, threshold in ((0, 0.1), (3, 0.02)):
        assert torch.equal(model[name].weight != 0, dense[name].weight.abs() > threshold)
    with pytest.raises(ValueError, match="above zero"):
        ByThreshold(net(), [{"op_types": ["Conv2d"], "threshold": -1}])


def test_groups_are_masked_at_once_where_there_is_an_example_input():
    model = net()
    ByMasker(model, FILTERS, MyMasker, dummy_input=X).compress()
    assert int((model[1].weight == 0).sum()) == 3
