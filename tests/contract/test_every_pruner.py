"""One table, many laws: what holds for every pruner, whatever its criterion."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.pruning.nets import Residual, batch, randomised
from torchpare.attach import is_attached
from torchpare.errors import CaptureError, ConfigError, MaskError
from torchpare.files.masks import load_masks
from torchpare.numerics import drop_count
from torchpare.pruning import (
    ActivationAPoZRankFilterPruner,
    ActivationMeanRankFilterPruner,
    ADMMPruner,
    AGPPruner,
    FPGMPruner,
    HessianFilterPruner,
    L1FilterPruner,
    L1NormPruner,
    L2FilterPruner,
    L2NormPruner,
    LevelPruner,
    LinearPruner,
    Pruner,
    RandomFilterPruner,
    TaylorFOActivationFilterPruner,
    TaylorFOWeightFilterPruner,
)

X = torch.ones(1, 3, 6, 6)


@dataclass(frozen=True)
class Case:
    """A pruner and how it is called."""

    pruner: type[Pruner]
    options: dict[str, Any] = field(default_factory=dict)
    trained: bool = False
    """Whether it wants a trainer; ours goes through the motions and changes nothing."""
    fine: bool = False
    """Whether its options make it prune single weights."""

    def __str__(self) -> str:
        return "-".join([self.pruner.__name__, *self.options])

    @property
    def structured(self) -> bool:
        return not self.fine and getattr(self.pruner, "structured", True)

    def on(self, model: nn.Module, config_list: Any = None) -> Pruner:
        asked = [{"sparsity": 0.5, "op_types": ["default"]}] if config_list is None else config_list
        more = {"optimizer": torch.optim.SGD(model.parameters(), lr=0.0), "trainer": motions} if self.trained else {}
        return self.pruner(model, asked, **more, **self.options)


def energy(output):
    """A loss that every layer has a part in."""
    return output.square().sum()


def motions(model, optimizer, criterion, epoch):
    """An epoch of training that changes nothing: no learning rate, no running statistics."""
    loss = energy if criterion is None else criterion
    model.eval()
    for seed in range(2):
        optimizer.zero_grad()
        x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(10 * epoch + seed))
        x = x.to(next(model.parameters()).dtype)
        loss(model(x)).backward()
        for parameter in model.parameters():  # zero times infinity would be a change
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(0, 0, 0)
        optimizer.step()
    optimizer.zero_grad()


EVERY_PRUNER = [
    Case(LevelPruner),
    *(
        Case(pruner, options)
        for pruner in (L1FilterPruner, L2FilterPruner, FPGMPruner)
        for options in ({}, {"dummy_input": X}, {"dependency_aware": True, "dummy_input": X})
    ),
    Case(RandomFilterPruner),
    *(
        Case(pruner, options, trained=True)
        for pruner in (
            TaylorFOWeightFilterPruner,
            TaylorFOActivationFilterPruner,
            ActivationAPoZRankFilterPruner,
            ActivationMeanRankFilterPruner,
        )
        for options in ({}, {"dependency_aware": True, "dummy_input": X})
    ),
    *(
        Case(HessianFilterPruner, {"criterion": energy, **options}, trained=True)
        for options in ({}, {"dependency_aware": True, "dummy_input": X})
    ),
    Case(AGPPruner, {"num_iterations": 3}, trained=True, fine=True),
    Case(AGPPruner, {"num_iterations": 3, "pruning_algorithm": "l1", "dummy_input": X}, trained=True),
    Case(LinearPruner, {"num_iterations": 2, "pruning_algorithm": "taylorfo"}, trained=True),
    Case(ADMMPruner, {"num_iterations": 2, "epochs_per_iteration": 1, "criterion": energy}, trained=True),
    Case(
        ADMMPruner,
        {"num_iterations": 2, "epochs_per_iteration": 1, "base_algo": "level", "criterion": energy},
        trained=True,
        fine=True,
    ),
]
TOGETHER = [case for case in EVERY_PRUNER if "dependency_aware" in case.options]
every_pruner = pytest.mark.parametrize("case", EVERY_PRUNER, ids=str)


def snapshot(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(model, before):
    state = model.state_dict()
    return state.keys() == before.keys() and all(torch.equal(state[key], before[key]) for key in before)


def units(case, layer):
    """How many units a layer has, and how many of them are masked away."""
    mask = layer.weight_mask.expand(layer._parameters["weight"].shape)
    if not case.structured:
        return mask.numel(), int((~mask).sum())
    outputs = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    kept = mask.movedim(outputs, 0).flatten(1).any(dim=1)
    return kept.numel(), int((~kept).sum())


def pruned_places(model):
    for _, module in model.named_modules():
        for name in getattr(module, "torchpare_masked", ()):
            yield getattr(module, name), ~getattr(module, f"{name}_mask").expand(getattr(module, name).shape)


# ---------------------------------------------------------------------------------------------------- what is removed


@every_pruner
@pytest.mark.parametrize("constant", [False, True], ids=["random", "all equal"])
@pytest.mark.parametrize("sparsity", [0, 0.1, 0.3, 0.5, 0.99])
def test_exactly_the_asked_share_goes_ties_included(case, constant, sparsity):
    model = randomised(Residual())
    if constant:
        for parameter in model.parameters():
            nn.init.ones_(parameter)
    pruner = case.on(model, [{"sparsity": sparsity, "op_types": ["default"]}])
    pruner.compress()
    for name in pruner.targets:
        total, gone = units(case, model.get_submodule(name))
        assert gone == drop_count(total, sparsity)


@every_pruner
def test_a_later_entry_wins_and_what_is_excluded_has_no_mask_of_its_own(case):
    model = randomised(Residual())
    asked = [
        {"sparsity": 0.9, "op_types": ["default"]},
        {"sparsity": 0.25, "op_names": ["stem"]},
        {"sparsity": 0.5, "op_names": ["inner"]},
        {"exclude": True, "op_names": ["up", "outer"]},
        {"exclude": True, "op_types": ["Linear"]},
    ]
    case.on(model, asked).compress()
    assert units(case, model.stem)[1] == units(case, model.stem)[0] // 4
    assert units(case, model.inner)[1] == units(case, model.inner)[0] // 2
    assert not is_attached(model.up) or units(case, model.up)[1] == 0
    assert not is_attached(model.outer) or units(case, model.outer)[1] == 0


@every_pruner
def test_a_layer_is_never_pruned_whole(case):
    model = randomised(Residual())
    case.on(model, [{"sparsity": 0.999999, "op_types": ["default"]}]).compress()
    assert all(weight.any() for weight, _ in pruned_places(model) if weight.dim() > 1)


@every_pruner
def test_masks_are_as_small_as_what_they_say(case):
    model = randomised(Residual())
    case.on(model).compress()
    assert model.stem.weight_mask.dtype == torch.bool
    assert model.stem.weight_mask.shape == ((8, 1, 1, 1) if case.structured else (8, 3, 3, 3))
    if case.structured:
        assert model.stem.bias_mask.shape == (8,)
        assert torch.equal(model.stem.bias_mask, model.stem.weight_mask.flatten())
    else:
        assert model.stem.torchpare_masked == ("weight",)


@pytest.mark.parametrize("case", [case for case in EVERY_PRUNER if not case.options], ids=str)
@given(seed=st.integers(0, 10_000), sparsity=st.floats(0, 0.99))
def test_more_sparsity_removes_more_of_the_same(case, seed, sparsity):
    less, more = randomised(Residual(), seed), randomised(Residual(), seed)
    case.on(less, [{"sparsity": sparsity / 2, "op_types": ["default"]}]).compress()
    case.on(more, [{"sparsity": sparsity, "op_types": ["default"]}]).compress()
    for name in ("stem", "inner", "up"):
        assert not (less.get_submodule(name).weight_mask < more.get_submodule(name).weight_mask).any()


@every_pruner
def test_pruning_further_starts_from_what_is_gone(case):
    model = randomised(Residual())
    case.on(model, [{"sparsity": 0.25, "op_types": ["default"]}]).compress()
    first = {name: own["weight"] for name, own in case.on(model).get_masks().items()}
    pruner = case.on(model)
    pruner.compress()
    for name in pruner.targets:
        total, gone = units(case, model.get_submodule(name))
        assert gone == drop_count(total, 0.5)
        assert not (first[name] < model.get_submodule(name).weight_mask).any()


# ---------------------------------------------------------------------------------------------- what is left untouched


@every_pruner
def test_the_constructor_only_reads(case):
    model = randomised(Residual())
    before, classes = snapshot(model), [type(module) for module in model.modules()]
    case.on(model)
    assert same(model, before)
    assert [type(module) for module in model.modules()] == classes
    assert not model._forward_pre_hooks


@every_pruner
def test_parameters_stay_the_same_objects_with_their_dense_values(case):
    model = randomised(Residual())
    before, parameters = snapshot(model), dict(model.named_parameters())
    assert case.on(model).compress() is model
    model.eval()(batch())  # where it was waiting for a first batch it has one now
    assert list(parameters) == [name for name, _ in model.named_parameters()]
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in parameters.items())


@every_pruner
def test_a_second_compress_changes_nothing(case):
    model = randomised(Residual())
    pruner = case.on(model)
    pruner.compress()
    before, hooks = snapshot(model), dict(model._forward_pre_hooks)
    assert pruner.compress() is model
    assert same(model, before)
    assert dict(model._forward_pre_hooks) == hooks


@every_pruner
def test_the_loops_calls_are_harmless_at_any_time(case):
    model = randomised(Residual())
    pruner = case.on(model)
    pruner.update_epoch(0)
    pruner.step()
    assert not is_attached(model)
    pruner.compress()
    before = snapshot(model)
    for epoch in range(3):
        pruner.update_epoch(epoch)
        pruner.step()
    assert same(model, before)


@every_pruner
@pytest.mark.parametrize(
    "entry",
    [
        {"sparsity": 1.5, "op_types": ["default"]},
        {"sparsity": 0.5, "op_names": ["stme"]},
        {"sparsity": 0.5, "op_types": ["BatchNorm2d"]},
        {"sparsity": 0.5},
    ],
)
def test_a_wrong_config_list_leaves_the_model_alone(case, entry):
    model = randomised(Residual())
    before = snapshot(model)
    with pytest.raises(ConfigError, match=r"config_list\[1\]"):
        case.on(model, [{"sparsity": 0.5, "op_types": ["default"]}, entry])
    assert same(model, before)
    assert not is_attached(model)


@every_pruner
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_cannot_be_ranked_are_an_error_that_leaves_the_model_alone(case, value):
    model = randomised(Residual())
    with torch.no_grad():
        model.up.weight[0, 0, 0, 0] = value
    keys = list(snapshot(model))
    with pytest.raises(MaskError, match=r"up\.weight holds NaN or infinite values"):
        case.on(model).compress()
    assert not is_attached(model)
    assert list(model.state_dict()) == keys
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("case", [case for case in EVERY_PRUNER if "dummy_input" in case.options], ids=str)
def test_an_example_input_that_does_not_run_is_an_error_that_leaves_the_model_alone(case):
    model = randomised(Residual())
    before = snapshot(model)
    options = case.options | {"dummy_input": torch.ones(1, 4, 6, 6)}
    with pytest.raises(CaptureError):
        Case(case.pruner, options).on(model).compress()
    assert same(model, before)
    assert not is_attached(model)


# --------------------------------------------------------------------------------------------------- how it fine-tunes


def optimizers(parameters):
    parameters = list(parameters)
    return {
        "sgd": lambda: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.01),
        "adam": lambda: torch.optim.Adam(parameters, lr=0.05, weight_decay=0.01),
        "adamw": lambda: torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1),
    }


@every_pruner
@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_fine_tuning_leaves_what_is_pruned_at_exactly_zero(case, kind, tmp_path):
    model = randomised(Residual())
    optimizer = optimizers(model.parameters())[kind]()
    pruner = case.on(model)
    pruner.compress()
    moved = {name: value.detach().clone() for name, value in model.named_parameters()}
    for _ in range(4):
        optimizer.zero_grad()
        model(batch()).square().mean().backward()
        for weight, gone in pruned_places(model):
            assert not weight[gone].any()
        optimizer.step()
        pruner.step()
    assert all(not weight[gone].any() for weight, gone in pruned_places(model))
    assert any(not torch.equal(value, moved[name]) for name, value in model.named_parameters())
    pruner.export_model(tmp_path / "model.pth")
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    for name, own in pruner.get_masks().items():
        for key, mask in own.items():
            assert not state[f"{name}.{key}"][~mask.expand_as(state[f"{name}.{key}"])].any()


@every_pruner
def test_gradients_are_zero_where_masked(case):
    model = randomised(Residual())
    case.on(model).compress()
    model(batch()).square().sum().backward()
    for module in model.modules():
        for name in getattr(module, "torchpare_masked", ()):
            gradient = module._parameters[name].grad
            assert not gradient[~getattr(module, f"{name}_mask").expand_as(gradient)].any()


# ------------------------------------------------------------------------------------------------------ how it travels


@every_pruner
def test_copies_and_pickles_are_the_same_function(case):
    model = randomised(Residual()).eval()
    case.on(model).compress()
    x = batch()
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    expected = model(x)
    for twin in copies:
        assert torch.equal(twin(x), expected)
        assert not twin._forward_pre_hooks  # a copy made before the first batch completes its masks by itself
        assert all(not weight[gone].any() for weight, gone in pruned_places(twin))


@pytest.mark.parametrize("case", EVERY_PRUNER[:3], ids=str)
def test_a_compiled_model_is_the_same_function(case):
    model = randomised(Residual()).eval()
    case.on(model).compress()
    x = batch()
    expected = model(x)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), expected)


@every_pruner
def test_the_exported_model_goes_straight_into_the_original_class(case, tmp_path):
    model = randomised(Residual()).eval()
    keys = list(model.state_dict())
    pruner = case.on(model)
    pruner.compress()
    x = batch()
    expected = model(x)
    pruner.export_model(model_path=str(tmp_path / "model.pth"), mask_path=str(tmp_path / "mask.pth"))
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    assert list(state) == keys
    plain = Residual()
    plain.load_state_dict(state)
    assert torch.equal(plain.eval()(x), expected)
    assert is_attached(model)
    assert torch.equal(model(x), expected)


@every_pruner
def test_the_exported_masks_are_the_models(case, tmp_path):
    model = randomised(Residual())
    pruner = case.on(model)
    pruner.compress()
    model(batch())
    pruner.export_model(tmp_path / "model.pth", tmp_path / "mask.pth")
    masks, loaded = pruner.get_masks(), load_masks(tmp_path / "mask.pth")
    assert loaded.keys() == masks.keys()
    for name, own in masks.items():
        for key, mask in own.items():
            shape = model.get_submodule(name)._parameters[key].shape
            assert torch.equal(loaded[name][key].expand(shape), mask.expand(shape))


@every_pruner
def test_a_dense_state_is_loaded_behind_the_masks(case):
    model = randomised(Residual(), 1)
    pruner = case.on(model)
    pruner.compress()
    masks, other = pruner.get_masks(), randomised(Residual(), 2)
    pruner.load_model_state_dict(other.state_dict())
    assert torch.equal(model.stem.old_weight, other.stem.weight)
    assert all(
        torch.equal(mask, pruner.get_masks()[name][key]) for name, own in masks.items() for key, mask in own.items()
    )


@every_pruner
def test_a_masked_state_resumes_in_a_new_model(case):
    model, fresh = randomised(Residual(), 1).eval(), randomised(Residual(), 2).eval()
    case.on(model).compress()
    x = batch()
    expected = model(x)
    pruner = case.on(fresh)
    pruner.compress()
    pruner.load_model_state_dict(model.state_dict())
    assert torch.equal(fresh(x), expected)
    assert pruner.get_masks().keys() == {
        name for name, module in model.named_modules() if hasattr(module, "torchpare_masked")
    }


@every_pruner
def test_scripts_for_the_older_toolkit_may_unwrap_and_wrap(case):
    model = randomised(Residual()).eval()
    pruner = case.on(model)
    pruner._unwrap_model()
    pruner._wrap_model()
    assert not is_attached(model)
    pruner.compress()
    x = batch()
    expected = model(x)
    pruner._unwrap_model()
    pruner._unwrap_model()
    assert not is_attached(model)
    assert type(model.stem) is nn.Conv2d
    assert torch.equal(model(x), expected)
    pruner._wrap_model()
    pruner._wrap_model()
    assert is_attached(model)
    assert torch.equal(model(x), expected)


# ------------------------------------------------------------------------------------------------------- what it tells


@every_pruner
def test_what_is_left_is_returned_and_logged(case, caplog):
    model = randomised(Residual())
    pruner = case.on(model)
    untouched = pruner.get_pruned_weights()
    assert set(untouched) == set(pruner.targets)
    assert all(remaining == total for remaining, total in untouched.values())
    pruner.compress()
    with caplog.at_level("INFO", logger="torchpare"):
        left = pruner.show_pruned_weights()
    assert "stem: " in caplog.text
    if case.structured:
        assert left["stem"] == (4, 8)
        assert pruner.get_pruned_weights(dim=1)["up"] == (2, 4)


@every_pruner
def test_the_selected_layers_are_told_with_the_entry_that_won(case):
    model = randomised(Residual())
    pruner = case.on(model, [{"sparsity": 0.5, "op_types": ["default"]}, {"sparsity": 0.25, "op_names": ["stem"]}])
    layer, config = pruner.get_modules_to_compress()[0]
    assert (layer.name, layer.type, layer.module) == ("stem", "Conv2d", model.stem)
    assert config == {"sparsity": 0.25, "op_names": ("stem",)}
    assert pruner.bound_model is model
    assert len(pruner.config_list) == 2


@every_pruner
def test_there_is_nothing_to_export_before_compress(case, tmp_path):
    with pytest.raises(MaskError, match=r"call compress\(\) first"):
        case.on(randomised(Residual())).export_model(tmp_path / "model.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "pruner", [case.pruner for case in TOGETHER if not case.trained], ids=lambda kind: kind.__name__
)
def test_the_third_argument_may_be_an_optimizer_or_dependency_aware(pruner):
    model = randomised(Residual())
    asked = [{"sparsity": 0.5, "op_types": ["default"]}]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    older = pruner(model, asked, optimizer, True, X)
    assert (older.optimizer, older.dependency_aware, older.dummy_input) == (optimizer, True, X)
    later = pruner(model, asked, True, X)
    assert (later.optimizer, later.dependency_aware, later.dummy_input) == (None, True, X)
    plain = pruner(model, asked, False)
    assert (plain.optimizer, plain.dependency_aware, plain.dummy_input) == (None, False, None)
    named = pruner(model, asked, dependency_aware=True, dummy_input=X)
    assert (named.dependency_aware, named.dummy_input) == (True, X)
    with_mode = pruner(model, asked, "dependency_aware", X)
    assert (with_mode.mode, with_mode.dependency_aware, with_mode.dummy_input) == ("dependency_aware", True, X)
    with pytest.raises(ConfigError, match="third argument is a str"):
        pruner(model, asked, "sgd")
    with pytest.raises(ConfigError, match="dependency_aware is a Tensor"):
        pruner(model, asked, optimizer, X)
    with pytest.raises(ConfigError, match="needs dummy_input"):
        pruner(model, asked, dependency_aware=True)


def test_single_weights_depend_on_nothing():
    with pytest.raises(ConfigError, match="leave dependency_aware out"):
        LevelPruner(Residual(), [{"sparsity": 0.5, "op_types": ["default"]}], dependency_aware=True, dummy_input=X)


def test_later_names_are_the_same_pruners():
    assert L1NormPruner is L1FilterPruner
    assert L2NormPruner is L2FilterPruner
