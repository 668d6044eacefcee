"""The judges that look inside: they pass what is right, and name the operator that is wrong."""

from __future__ import annotations

import copy
import dataclasses
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from tests.graph.nets import image, keep_without, net
from tests.networks.oracles import fingerprint, masked_by_hand
from tests.networks.strategies import masks_for, recipes
from torchpare.errors import ProofError
from torchpare.graph import analyse
from torchpare.speedup import ModelSpeedup
from torchpare.speedup.verify import bisimulate, retrace


def residual():
    return net(
        lambda m, x: m.head(torch.relu(m.norm(m.a(x)) + m.b(x))),
        a=nn.Conv2d(3, 6, 1), norm=nn.BatchNorm2d(6), b=nn.Conv2d(3, 6, 3, padding=1), head=nn.Conv2d(6, 2, 1),
    )  # fmt: skip


def attention():
    """Heads of a fused projection; each loses other columns, so that labels depend on the head."""

    def run(m, x):
        batch, length, _ = x.shape
        q, k, v = m.qkv(x).view(batch, length, 3, m.heads, m.width).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, scale=0.5)
        return m.out(y.transpose(1, 2).flatten(2))

    return net(run, qkv=nn.Linear(5, 24), out=nn.Linear(8, 3), attributes={"heads": 2, "width": 4})


def sequence():
    return torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def normed():
    return net(lambda m, x: m.out(F.gelu(m.norm(m.a(x)))), a=nn.Linear(5, 6), norm=nn.LayerNorm(6), out=nn.Linear(6, 2))


def shrunk(model, x, **dropped):
    """The dense model, the small one and the removal, rows of ``dropped`` layers gone."""
    dense = copy.deepcopy(model)
    masks = {}
    for layer, indices in dropped.items():
        weight = model.get_submodule(layer).weight
        keep = keep_without(len(weight), *indices)
        masks[layer] = {"weight": keep.view(-1, *(1,) * (weight.dim() - 1))}
        if model.get_submodule(layer).bias is not None:
            masks[layer]["bias"] = keep
    masks = analyse(model, x).group_masks(masks)
    speedup = ModelSpeedup(model, x, masks)
    removal = speedup.plan().removal
    speedup.speedup_model()
    assert not removal.empty
    return dense, model, removal


def residual_case():
    return *shrunk(residual(), image(), a=[1, 4], b=[1, 4]), image()


def attention_case():
    keys, values = [1, 2, 4, 7], [0, 3, 4, 7]  # two of the four columns of each head; of keys not the same two
    rows = [*keys, *(8 + row for row in keys), *(16 + row for row in values)]
    return *shrunk(attention(), sequence(), qkv=rows), sequence()


CASES = {"residual": residual_case, "attention": attention_case}


@pytest.mark.parametrize("case", CASES)
def test_a_right_shrink_agrees_in_every_operator(case):
    dense, small, removal, x = CASES[case]()
    before = fingerprint(dense), fingerprint(small)
    result = bisimulate(dense, small, x, removal)
    assert result.incomparable == ""
    assert result.mismatches == {}
    assert result.compared > 15
    assert retrace(small, x, removal) > 5
    assert (fingerprint(dense), fingerprint(small)) == before


def test_it_runs_on_exact_numbers_whatever_the_model_says():
    def run(m, x):
        y = m.a(x).float()
        return m.head(torch.softmax(y.mean((2, 3)), -1, dtype=torch.float32).to(x.dtype))

    model = net(run, a=nn.Conv2d(3, 6, 1), head=nn.Linear(6, 2)).float()
    x = image().float()
    dense, small = copy.deepcopy(model), copy.deepcopy(model)
    result = bisimulate(dense, small, x, analyse(model, x).decide({}))
    assert result.mismatches == {}
    assert torch.get_default_dtype() == torch.float32
    with torch.no_grad():
        small.head.bias += 1e-7
    assert list(bisimulate(dense, small, x, analyse(model, x).decide({})).mismatches) == ["parameter"]


def test_a_norm_over_the_pruned_axis_is_the_only_operator_that_differs():
    dense, small, removal = shrunk(normed(), sequence(), a=[0, 2])
    result = bisimulate(dense, small, sequence(), removal)
    assert list(result.mismatches) == ["aten.native_layer_norm"]
    tally = result.mismatches["aten.native_layer_norm"]
    assert tally.total == tally.mismatches == 3  # the result, and its means and deviations
    assert tally.worst > 0.01
    assert "module 'norm'" in tally.first
    assert {name for name in result.tallies if "gelu" in name or "mm" in name}  # what comes behind it was compared


# -------------------------------------------------------------------------------------------------------- mutations


@pytest.mark.parametrize("name", ["a.weight", "b.bias", "norm.weight", "norm.running_var", "head.weight"])
def test_one_number_in_the_wrong_place_is_found_at_its_tensor(name):
    dense, small, removal, x = residual_case()
    with torch.no_grad():
        tensor = small.state_dict()[name]
        tensor.copy_(tensor.roll(1, 1 if name == "head.weight" else 0))
    result = bisimulate(dense, small, x, removal)
    kind = "buffer" if "running" in name else "parameter"
    assert list(result.mismatches) == [kind]
    assert result.mismatches[kind].first == f"'{name}'"


@pytest.mark.parametrize("case", CASES)
def test_a_removal_of_other_channels_than_were_cut_is_found(case):
    dense, small, removal, x = CASES[case]()
    gone = removal.gone.copy()
    ids = np.flatnonzero(gone)
    spare = np.setdiff1d(np.arange(len(gone)), [0, *ids])
    found = 0
    for label in ids:
        for other in spare:
            wrong = gone.copy()
            wrong[label], wrong[other] = False, True
            result = bisimulate(dense, small, x, dataclasses.replace(removal, gone=wrong))
            found += bool(result.mismatches or result.incomparable)
            break
    assert found == len(ids)


@pytest.mark.parametrize(
    ("case", "layer", "wrong", "operator"),
    [
        (residual_case, "norm", lambda m, x: F.batch_norm(x, m.running_mean, m.running_var, m.weight), "batch_norm"),
        (residual_case, "a", lambda m, x: F.conv2d(x, m.weight, m.bias) * 1.5, None),
        (attention_case, "out", lambda m, x: F.linear(x.flip(-1), m.weight, m.bias), None),
    ],
)
def test_another_computation_is_found_in_the_operator_that_does_it(case, layer, wrong, operator):
    dense, small, removal, x = case()
    module = small.get_submodule(layer)
    module.forward = lambda x: wrong(module, x)
    result = bisimulate(dense, small, x, removal)
    if operator is None:
        assert "part ways" in result.incomparable
        assert f"module '{layer}'" in result.incomparable
        assert result.compared == 0
    else:
        assert [name for name in result.mismatches if operator in name] == list(result.mismatches) != []


def test_another_scale_of_attention_is_found():
    dense, small, removal, x = attention_case()
    before = bisimulate(dense, small, x, removal)
    real = small.run

    def scaled(m, x):
        with pytest.MonkeyPatch.context() as patch:
            sdpa = F.scaled_dot_product_attention
            patch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, scale: sdpa(q, k, v, scale=scale / 2))
            return real(m, x)

    small.run = scaled
    result = bisimulate(dense, small, x, removal)
    assert before.mismatches == {}
    assert list(result.mismatches) == ["aten.mul"]


def test_retrace_names_the_operator_whose_shape_is_not_the_planned_one():
    _, small, removal, x = residual_case()
    gone = removal.gone.copy()
    gone[np.setdiff1d(removal.space.channels("a").classes, np.flatnonzero(gone))[0]] = True
    with pytest.raises(ProofError, match=r"aten.convolution in module 'a' \(.*\) makes .*\(2, 4, 6, 6\); planned was"):
        retrace(small, x, dataclasses.replace(removal, gone=gone))


def test_retrace_wants_the_modules_that_ran():
    _, small, removal, x = residual_case()
    small.norm = nn.Identity()
    small.run = lambda m, x: m.head(m.a(x))
    with pytest.raises(ProofError, match="other modules"):
        retrace(small, x, removal)


# ---------------------------------------------------------------------------------------------- whatever the network


@settings(max_examples=15)
@given(recipes(), st.integers(0, 999))
def test_only_reductions_and_norms_over_pruned_axes_differ(recipe, seed):
    model, x = recipe.build(), recipe.input()
    masks = masks_for(analyse(model, x), model, "aware", seed)
    assume(masks)
    dense = masked_by_hand(model, masks)  # some masked filters have to stay, as zeros
    speedup = ModelSpeedup(model, x, masks)
    removal = speedup.plan().removal
    report = speedup.speedup_model()
    result = bisimulate(dense, model, x, removal)
    by_nature = {"aten.native_layer_norm", "aten.native_group_norm", "aten.mean", "aten.amax", "aten.max"}
    allowed = by_nature if report.changes else set()
    assert set(result.mismatches) <= allowed, str(result)
    assert result.incomparable or result.compared > 10


# ------------------------------------------------------------------------------------------------------- in words


def printed(result):
    console = Console(file=io.StringIO(), width=120)
    console.print(result)
    return console.file.getvalue()


def test_the_result_prints_itself():
    dense, small, removal = shrunk(normed(), sequence(), a=[0, 2])
    result = bisimulate(dense, small, sequence(), removal)
    assert f"{result.compared} tensors compared, 3 differ" in str(result)
    assert "aten.native_layer_norm: 3 of 3, by up to" in str(result)
    table = printed(result)
    assert "native_layer_norm" in table.splitlines()[4]  # what differs comes first
    assert "aten.addmm" in table


def test_runs_that_cannot_be_laid_beside_each_other_say_so():
    dense, small, removal, x = residual_case()
    small.head = nn.Sequential(nn.ReLU(), small.head)
    result = bisimulate(dense, small, x, removal)
    assert "not compared operator by operator: the runs part ways: aten.relu in module 'head.0'" in str(result)
    assert "part ways" in printed(result).replace("\n", " ")
    assert not result.tallies


def test_a_folded_bias_is_named_and_goes_along():
    model = net(
        lambda m, x: m.head(torch.sigmoid(m.a(x)).mean((2, 3))),
        a=nn.Conv2d(3, 6, 1), head=nn.Linear(6, 2, bias=False),
    )  # fmt: skip
    keep = keep_without(6, 1, 4)
    dense = copy.deepcopy(model)
    speedup = ModelSpeedup(model, image(), {"a": {"weight": keep.view(6, 1, 1, 1), "bias": keep}})
    removal = speedup.plan().removal
    assert speedup.speedup_model().folded == ("head",)
    result = bisimulate(dense, model, image(), removal)
    assert list(result.mismatches) == ["parameter"]
    assert result.mismatches["parameter"].first == "'head.bias'"


def test_what_lies_in_memory_by_chance_is_no_difference():
    def run(m, x):
        y = m.b(torch.relu(m.a(x)))
        whole = torch.empty(y.shape[0], 4, 6, 6, dtype=x.dtype)
        first, second = whole[:, :2], whole[:, 2:]
        first.copy_(y)
        second.copy_(y)
        return whole

    dense, small, removal = shrunk(net(run, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 2, 1)), image(), a=[1, 4])
    result = bisimulate(dense, small, image(), removal)
    assert {"aten.slice", "aten.copy_"} <= result.tallies.keys()
    assert result.mismatches == {}
