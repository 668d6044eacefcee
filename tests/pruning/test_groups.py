"""What is fine-tuned is what is shipped: filter masks cover the norms and consumers behind the filters."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.pruning.nets import CONVOLUTIONS, Residual, batch, randomised
from torchpare.attach import detach, is_attached, masks_of
from torchpare.pruning import FPGMPruner, L1FilterPruner, L2FilterPruner, LevelPruner
from torchpare.pruning.groups import is_incomplete
from torchpare.speedup.model_speedup import ModelSpeedup

DEFAULT = [{"sparsity": 0.5, "op_types": ["default"]}]


def removed(mask):
    return set((~mask.flatten()).nonzero().flatten().tolist())


def test_the_first_batch_completes_the_masks_before_it_is_used():
    model = randomised(Residual()).eval()
    pruner = L1FilterPruner(model, DEFAULT)
    pruner.compress()
    own = pruner.get_masks()
    assert set(own) == set(pruner.targets)
    assert is_incomplete(model)
    x = batch()
    first = model(x)
    assert not is_incomplete(model)
    masks = pruner.get_masks()
    assert torch.equal(model(x), first)  # the first batch already ran under the complete masks
    gone = removed(own["inner"]["weight"])
    assert removed(masks["inner_norm"]["weight"]) == gone == removed(masks["inner_norm"]["bias"])
    arriving = []
    model.outer.register_forward_pre_hook(lambda _, args: arriving.append(args[0]))
    model(x)
    assert not arriving[0][:, sorted(gone)].any()
    for name, parameters in own.items():  # what was asked for stays asked for
        for key, mask in parameters.items():
            assert not (masks[name][key] & ~mask).any()


def test_the_masks_are_the_same_whether_an_example_input_or_a_first_batch_completed_them():
    one, other = randomised(Residual()).eval(), randomised(Residual()).eval()
    L2FilterPruner(one, DEFAULT, dummy_input=batch(1)).compress()
    assert not is_incomplete(one)
    L2FilterPruner(other, DEFAULT).compress()
    other(batch(3))
    left, right = masks_of(one), masks_of(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(mask, right[name][key]) for name, own in left.items() for key, mask in own.items())


def test_layers_that_disagree_across_a_residual_take_along_only_what_both_of_them_drop():
    model = randomised(Residual()).eval()
    pruner = L1FilterPruner(model, DEFAULT, dummy_input=batch())
    own = pruner._own_masks(None)
    both = removed(own["stem"]["weight"]) & removed(own["outer"]["weight"])
    pruner.compress()
    masks = pruner.get_masks()
    assert removed(masks["stem"]["bias"]) == removed(own["stem"]["weight"])
    assert removed(masks.get("norm", {}).get("bias", torch.ones(8, dtype=torch.bool))) == both


@pytest.mark.parametrize("pruner", [L1FilterPruner, L2FilterPruner, FPGMPruner])
@pytest.mark.parametrize("together", [False, True])
def test_a_fine_tuned_model_shrinks_to_the_same_function(pruner, together):
    model = randomised(Residual()).double()
    options = {"dependency_aware": True, "dummy_input": batch().double()} if together else {}
    pruner(model, DEFAULT, **options).compress()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model(batch().double()).square().mean().backward()
        optimizer.step()
    model.eval()
    x = batch().double()
    masked = model(x)
    report = ModelSpeedup(model, batch().double()).speedup_model()
    assert report.masked_difference < 1e-12
    torch.testing.assert_close(model(x), masked, rtol=1e-10, atol=1e-12)
    assert model.inner.weight.shape[0] == 3
    if together:
        assert model.stem.weight.shape[0] == model.outer.weight.shape[0] == 4


@given(
    pruner=st.sampled_from([L1FilterPruner, L2FilterPruner, FPGMPruner]),
    sparsities=st.fixed_dictionaries({name: st.sampled_from([None, 0.1, 0.3, 0.5, 0.8]) for name in CONVOLUTIONS}),
    together=st.booleans(),
    early=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(max_examples=25)
def test_whatever_is_asked_and_learnt_the_small_model_is_the_masked_one(pruner, sparsities, together, early, seed):
    asked = [{"sparsity": s, "op_names": [name]} for name, s in sparsities.items() if s is not None]
    if not asked:
        return
    model, x = randomised(Residual(), seed).eval(), batch(2)
    pruner(model, asked, dependency_aware=together, dummy_input=x if together or early else None).compress()
    model(x)
    randomised(model, seed + 1000)  # as far from the weights that were pruned as training could take it
    assert ModelSpeedup(model, x).speedup_model().masked_difference < 1e-10


def test_single_weights_take_nothing_along():
    model = randomised(Residual())
    pruner = LevelPruner(model, DEFAULT, dummy_input=batch())
    pruner.compress()
    assert not is_incomplete(model)
    assert pruner.get_masks().keys() == {"stem", "inner", "outer", "up", "head"}


def test_copies_and_pickles_wait_for_their_own_first_batch():
    model = randomised(Residual()).eval()
    L1FilterPruner(model, DEFAULT).compress()
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    model(batch())
    for twin in twins:
        assert is_incomplete(twin)
        twin(batch())
        assert masks_of(twin).keys() == masks_of(model).keys()


def test_whoever_counts_or_records_operators_is_not_disturbed():
    model = randomised(Residual()).eval()
    L1FilterPruner(model, DEFAULT).compress()
    with FlopCounterMode(display=False) as counter:
        model(batch())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, batch(), check_trace=False)
    copy.deepcopy(model).to("meta")(batch().to("meta"))
    assert is_incomplete(model)
    assert counter.get_total_flops() > 0
    model(batch())
    assert not is_incomplete(model)


def test_a_first_batch_in_inference_mode_leaves_masks_that_training_can_use():
    model = randomised(Residual()).eval()
    L1FilterPruner(model, DEFAULT).compress()
    with torch.inference_mode():
        model(batch())
    assert not is_incomplete(model)
    model.train()(batch()).sum().backward()
    assert not model.norm.old_weight.grad[~model.stem.bias_mask & ~model.outer.bias_mask].any()


def test_a_compiled_model_completes_its_masks_too():
    torch._dynamo.reset()
    model = randomised(Residual()).eval()
    L1FilterPruner(model, DEFAULT).compress()
    compiled = torch.compile(model, backend="eager")
    x = batch()
    first = compiled(x)
    assert not is_incomplete(model)
    torch.testing.assert_close(first, model(x))
    torch.testing.assert_close(compiled(x), model(x))


def test_an_export_does_not_complete_the_masks():
    model = randomised(Residual()).eval()
    L1FilterPruner(model, DEFAULT).compress()
    program = torch.export.export(model, (batch(),), strict=False)
    assert is_incomplete(model)
    assert program.module()(batch()).shape == (4, 5)


def test_importing_pruners_does_not_load_the_compiler():
    script = "import sys, torchpare.pruning; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 2, 1)

    def forward(self, x, scale=None, *, flip=False):
        x = self.b(torch.relu(self.norm(self.a(x))))
        x = x if scale is None else x * scale
        return x.flip(-1) if flip else x


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((torch.ones(1, 2, 4, 4),), {}),
        ((torch.ones(1, 2, 4, 4), torch.ones(1)), {}),
        ((), {"x": torch.ones(1, 2, 4, 4)}),
        ((torch.ones(1, 2, 4, 4),), {"flip": True}),
        ((torch.ones(1, 2, 4, 4),), {"scale": torch.ones(1), "flip": True}),
    ],
)
def test_the_first_batch_may_come_in_any_form(args, kwargs):
    model = Keywords()
    L1FilterPruner(model, [{"sparsity": 0.5, "op_names": ["a"]}]).compress()
    model(*args, **kwargs)
    assert masks_of(model)["norm"]["bias"].sum() == 2


class PositionalOnly(Keywords):
    def forward(self, x, /, *, flip=False):
        return super().forward(x, flip=flip)


def test_a_first_batch_that_has_no_names_does_not_stop_the_user():
    model = PositionalOnly()
    L1FilterPruner(model, [{"sparsity": 0.5, "op_names": ["a"]}]).compress()
    with pytest.warns(UserWarning, match="positional arguments without names beside keywords"):
        assert model(torch.ones(1, 2, 4, 4), flip=True).shape == (1, 2, 4, 4)
    assert set(masks_of(model)) == {"a"}


class Impossible(nn.Module):
    """Cannot be copied, so that the analysis, which runs a copy, fails."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.copied = False

    def __deepcopy__(self, memo):
        raise RuntimeError("there is only one of me")

    def forward(self, x):
        return self.conv(x)


def test_a_model_that_cannot_be_analysed_still_runs_and_warns_once():
    model = Impossible()
    L1FilterPruner(model, DEFAULT).compress()
    with pytest.warns(UserWarning, match=r"cover the selected layers only.*there is only one of me.*dummy_input"):
        model(batch())
    assert is_attached(model)
    assert not model.conv.weight[~model.conv.weight_mask.flatten()].any()
    model(batch())  # a second warning would be an error here


def test_a_model_whose_masks_were_taken_off_stops_waiting():
    model = randomised(Residual())
    L1FilterPruner(model, DEFAULT).compress()
    detach(model, bake=True)
    model(batch())
    assert not is_incomplete(model)
    assert not is_attached(model)


def test_an_unwrapped_model_waits_again_when_it_is_wrapped():
    model = randomised(Residual())
    pruner = L1FilterPruner(model, DEFAULT)
    pruner.compress()
    pruner._unwrap_model()
    assert not is_incomplete(model)
    model(batch())
    pruner._wrap_model()
    assert is_incomplete(model)
    model(batch())
    assert "norm" in masks_of(model) or "inner_norm" in masks_of(model)
