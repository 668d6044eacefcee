"""NNI's wrappers as views: what scripts read and set on them, and that nothing of it reaches a layer."""

from __future__ import annotations

import copy

import nni
import pytest
import torch
from nni.algorithms.compression.pytorch.pruning import AGPPruner, L1FilterPruner, LevelPruner, TransformerHeadPruner
from nni.algorithms.compression.pytorch.quantization import QAT_Quantizer
from nni.compression.pytorch.compressor import Compressor, LayerInfo, Quantizer
from torch import nn

from torchpare.errors import CompatError, ConfigError, MaskError

ASKED = [{"sparsity": 0.5, "op_types": ["Conv2d"]}, {"sparsity": 0.25, "op_names": ["2"]}]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3, bias=False))


X = torch.zeros(2, 1, 9, 9)


def test_a_view_has_what_a_wrapper_had():
    model = net()
    pruner = L1FilterPruner(model, ASKED)
    pruner.compress()
    first, second, third = pruner.get_modules_wrapper()
    assert (first.name, first.type, first.module) == ("0", "Conv2d", model[0])
    assert first.config == {"sparsity": 0.5, "op_types": ["Conv2d"]}
    assert second.config == {"sparsity": 0.25, "op_names": ["2"]}
    assert first.weight_mask.shape == (4, 1, 3, 3)
    assert first.weight_mask.dtype == torch.float32
    assert first.weight_mask.flatten(1).mean(dim=1).sort().values.tolist() == [0, 0, 1, 1]
    assert torch.equal(first.bias_mask, first.weight_mask[:, 0, 0, 0])
    assert third.bias_mask is None
    assert first.weight is dict(model.named_parameters())["0.weight"]
    assert pruner.get_modules_wrapper()[0] is first


def test_what_scripts_set_on_a_view_stays_there():
    model = net()
    before = set(vars(model[0]))
    pruner = L1FilterPruner(model, ASKED)
    pruner.set_wrappers_attribute("if_calculated", False)
    shared = torch.zeros(2)
    pruner.set_wrappers_attribute("threshold", shared)
    first, second, _ = pruner.get_modules_wrapper()
    assert first.if_calculated is False
    assert first.threshold is not shared
    assert first.threshold is not second.threshold
    assert set(vars(model[0])) == before
    assert type(model[0]) is nn.Conv2d


def test_a_mask_that_is_assigned_is_put_on_the_layer():
    model = net()
    pruner = LevelPruner(model, ASKED)
    view = pruner.get_modules_wrapper()[0]
    assert bool((view.weight_mask == 1).all())
    mask = torch.ones_like(view.weight_mask)
    mask[1] = 0
    view.weight_mask = mask
    assert torch.equal(view.weight_mask, mask)
    assert not model[0].weight[1].any()
    with pytest.raises(MaskError, match="values other than 0 and 1"):
        view.weight_mask = mask * 0.5
    assert torch.equal(view.weight_mask, mask)


def test_a_model_is_wrapped_from_compress_until_it_is_unwrapped():
    model = net()
    pruner = L1FilterPruner(model, ASKED, dummy_input=X)
    assert not pruner.is_wrapped
    pruner.compress()
    assert pruner.is_wrapped
    masked = model(X)
    pruner._unwrap_model()
    assert not pruner.is_wrapped
    assert type(model[0]) is nn.Conv2d
    torch.testing.assert_close(model(X), masked)
    pruner._wrap_model()
    assert pruner.is_wrapped


def test_select_config_tells_which_entry_won():
    model = net()
    pruner = L1FilterPruner(model, [*ASKED, {"exclude": True, "op_names": ["4"]}])
    assert pruner.select_config(LayerInfo("2", model[2]))["sparsity"] == 0.25
    assert pruner.select_config(LayerInfo("4", model[4])) is None
    assert pruner.select_config(LayerInfo("1", model[1])) is None
    assert [layer.name for layer, _ in pruner.modules_to_compress] == ["0", "2"]


def test_reset_takes_masks_off_and_begins_anew():
    model = net()
    dense = copy.deepcopy(model.state_dict())
    pruner = L1FilterPruner(model, ASKED)
    pruner.compress()
    pruner.reset(dense)
    assert not pruner.is_wrapped
    assert all(torch.equal(value, dense[key]) for key, value in model.state_dict().items())
    pruner.compress()
    assert pruner.is_wrapped


def test_tasks_hang_on_the_optimizer_s_own_hooks():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = optimizer.step
    pruner = L1FilterPruner(model, ASKED, optimizer)
    seen = []
    pruner.patch_optimizer(lambda: seen.append("behind"))
    pruner.patch_optimizer_before(lambda: seen.append("before"))
    model(X).sum().backward()
    optimizer.step()
    assert seen == ["before", "behind"]
    assert optimizer.step == step
    L1FilterPruner(net(), ASKED).patch_optimizer(lambda: seen.append("never"))


def test_collectors_see_what_layers_return_until_they_are_removed():
    model = net()
    pruner = L1FilterPruner(model, ASKED)
    seen = []
    number = pruner.add_activation_collector(lambda layer, inputs, output: seen.append(tuple(output.shape)))
    model(X)
    assert seen == [(2, 4, 7, 7), (2, 8, 5, 5), (2, 2, 3, 3)]
    pruner.remove_activation_collector(number)
    model(X)
    assert len(seen) == 3
    with pytest.raises(ConfigError, match="no activation collector 1"):
        pruner.remove_activation_collector(number)


def test_quantizers_have_views_too():
    model = net()
    quantizer = QAT_Quantizer(model, [{"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Conv2d"]}])
    quantizer.compress()
    (view, *_) = quantizer.get_modules_wrapper()
    assert view.config["quant_bits"] == {"weight": 8}
    assert view.module.scale.shape == (4, 1, 1, 1)
    assert isinstance(quantizer, Quantizer)
    assert isinstance(quantizer, Compressor)
    assert not isinstance(model, Compressor)


def test_update_mask_masks_by_what_the_weights_have_become():
    model = net()
    pruner = AGPPruner(model, [{"sparsity": 0.5, "op_names": ["2"]}], num_iterations=3, pruning_algorithm="l1")
    pruner.compress()
    pruner.now_epoch = 2
    pruner.update_mask()
    assert pruner.get_pruned_weights()["2"] == (4, 8)


@pytest.mark.parametrize("base", [Compressor, Quantizer])
def test_bases_that_cannot_be_derived_from_say_what_to_derive_from(base):
    with pytest.raises(CompatError, match="cannot be derived from here; derive from"):
        type("Mine", (base,), {})
    with pytest.raises(CompatError, match="computes nothing itself"):
        base(net(), ASKED)


def test_heads_are_pruned_in_the_calls_of_2_4():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    x = torch.randn(2, 5, 16)
    pruner = TransformerHeadPruner(
        model, [{"sparsity": 0.5, "op_types": ["MultiheadAttention"]}], head_hidden_dim=4, dummy_input=x,
        ranking_criterion="l1_weight",
    )  # fmt: skip
    pruner.compress()
    assert pruner.is_wrapped
    assert pruner.get_modules_wrapper() == []


def test_tracing_returns_what_it_is_given():
    @nni.trace
    class Module(nn.Linear):
        pass

    @nni.trace(kw_only=False)
    def double(x):
        return 2 * x

    assert type(Module(2, 3)) is Module
    assert double(2) == 4
    assert nni.trace(torch.optim.SGD, inheritable=True) is torch.optim.SGD
