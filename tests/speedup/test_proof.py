"""The proof: a mistake anywhere is an error that names the first module that differs, and the model is as it was."""

from __future__ import annotations

import dataclasses
import operator

import numpy as np
import pytest
import torch
from torch import nn

from tests.graph.nets import image, keep_without, net
from tests.networks.oracles import fingerprint
from torchpare import plan
from torchpare.attach import attach_masks
from torchpare.errors import CaptureError, MaskConflictError, MaskError, ProofError, ShrinkError
from torchpare.graph.rules import table
from torchpare.speedup import ModelSpeedup, model_speedup
from torchpare.speedup.proof import Outputs, largest_difference


def residual():
    return net(
        lambda m, x: m.head(torch.relu(m.norm(m.a(x)) + m.b(x))),
        a=nn.Conv2d(3, 6, 1), norm=nn.BatchNorm2d(6), b=nn.Conv2d(3, 6, 3, padding=1), head=nn.Conv2d(6, 2, 1),
    )  # fmt: skip


def masks(**dropped):
    found = {}
    for layer, indices in dropped.items():
        keep = keep_without(6, *indices)
        weight = keep if layer == "norm" else keep.view(6, 1, 1, 1)
        found[layer] = {"weight": weight, "bias": keep}
    return found


GROUP = masks(a=[1, 4], b=[1, 4], norm=[1, 4])


def broken(monkeypatch, edit):
    """Let every plan be edited before it is carried out."""
    real = model_speedup.make_plan
    monkeypatch.setattr(model_speedup, "make_plan", lambda removal: edit(real(removal)))


def keeping(cut, axis, indices):
    kept = np.zeros(cut.before[axis], dtype=bool)
    kept[indices] = True
    axes = list(cut.axes)
    axes[axis] = kept.reshape([-1 if other == axis else 1 for other in range(len(cut.before))])
    return dataclasses.replace(cut, axes=tuple(axes))


@pytest.mark.parametrize("attached", [False, True])
@pytest.mark.parametrize(
    ("tensor", "axis", "kept", "culprit"),
    [
        ("a.weight", 0, [0, 1, 2, 3], "module 'a' (Conv2d)"),
        ("b.weight", 0, [0, 1, 3, 5], "module 'b' (Conv2d)"),
        ("norm.running_mean", 0, [1, 2, 3, 5], "module 'norm' (BatchNorm2d)"),
        ("head.weight", 1, [2, 3, 4, 5], "module 'head' (Conv2d)"),
    ],
)
def test_a_wrong_cut_is_found_and_named(monkeypatch, tensor, axis, kept, culprit, attached):
    model = residual()
    if attached:
        attach_masks(model, GROUP)
    before = fingerprint(model)
    broken(
        monkeypatch,
        lambda plan: dataclasses.replace(plan, cuts={**plan.cuts, tensor: keeping(plan.cuts[tensor], axis, kept)}),
    )
    with pytest.raises(ProofError) as caught:
        ModelSpeedup(model, image(), GROUP).speedup_model()
    assert culprit in str(caught.value)
    assert "as it was" in str(caught.value)
    assert fingerprint(model) == before


def test_a_forgotten_cut_is_an_error_and_no_change(monkeypatch):
    model = residual()
    before = fingerprint(model)
    broken(
        monkeypatch,
        lambda plan: dataclasses.replace(plan, cuts={k: c for k, c in plan.cuts.items() if k != "head.weight"}),
    )
    with pytest.raises(ShrinkError, match="as it was"):
        ModelSpeedup(model, image(), GROUP).speedup_model()
    assert fingerprint(model) == before


def test_a_wrong_rule_is_caught_by_the_proof(monkeypatch):
    """A concatenation whose labels come out in the wrong order."""
    real = table._RULES["cat"]

    def swapped(flow, op):
        real(flow, dataclasses.replace(op, args=(op.args[0][::-1], *op.args[1:])))

    model = net(
        lambda m, x: m.head(torch.cat([m.a(x), m.b(x)], 1)),
        a=nn.Conv2d(3, 6, 1),
        b=nn.Conv2d(3, 6, 1),
        head=nn.Conv2d(12, 2, 1),
    )
    before = fingerprint(model)
    monkeypatch.setitem(table._RULES, "cat", swapped)
    with pytest.raises(ProofError, match="module 'head'"):
        ModelSpeedup(model, image(), masks(a=[1])).speedup_model()
    assert fingerprint(model) == before
    monkeypatch.undo()
    assert ModelSpeedup(model, image(), masks(a=[1])).speedup_model().exact


def test_without_the_proof_nothing_is_claimed():
    report = ModelSpeedup(residual(), image(), GROUP, verify=False).speedup_model()
    assert np.isnan([report.largest_difference, report.masked_difference, report.output_change]).all()


def test_a_model_that_cannot_run_on_the_dummy_input_is_untouched():
    model = residual()
    before = fingerprint(model)
    with pytest.raises(CaptureError, match="dummy input"):
        ModelSpeedup(model, image(channels=5), GROUP).speedup_model()
    assert fingerprint(model) == before


def test_layers_that_disagree_can_be_refused_by_name():
    model = residual()
    before = fingerprint(model)
    with pytest.raises(MaskConflictError) as caught:
        ModelSpeedup(model, image(), masks(a=[1, 4], b=[4, 5]), on_conflict="refuse").speedup_model()
    assert "2 channels of a, b" in str(caught.value)
    assert fingerprint(model) == before
    assert ModelSpeedup(model, image(), masks(a=[1, 4], b=[1, 4]), on_conflict="refuse").speedup_model()


def test_masks_that_do_not_fit_are_refused_before_anything_happens():
    model = residual()
    before = fingerprint(model)
    for wrong in ({"c": {"weight": keep_without(6, 1)}}, {"a": {"weight": keep_without(5, 1).view(5, 1, 1, 1)}}, {}):
        with pytest.raises(MaskError):
            ModelSpeedup(model, image(), wrong)
    with pytest.raises(ShrinkError, match="Module"):
        ModelSpeedup(lambda x: x, image(), GROUP)
    assert fingerprint(model) == before


def test_a_model_that_fails_only_when_small_is_taken_back():
    def run(m, x):
        y = m.a(x)
        assert operator.index(y.shape[1]) == 6, "six channels, please"  # which no size can notice
        return m.b(y)

    model = net(run, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 2, 1))
    before = fingerprint(model)
    with pytest.raises(ShrinkError, match="six channels, please"):
        ModelSpeedup(model, image(), masks(a=[1])).speedup_model()
    assert fingerprint(model) == before


def picky(whole):
    """A kernel that takes every width in float64, and in short floats multiples of three; or, there, none."""

    def run(m, x):
        y = m.a(x)
        if y.dtype is torch.float32 and not y.is_meta and (len(m.a.weight) % 3 or not whole):
            message = "a multiple of three, please"
            raise RuntimeError(message)
        return m.b(y)

    return net(run, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 2, 1)).float()


def test_a_model_that_cannot_be_used_in_its_own_types_is_taken_back():
    model = picky(whole=True)
    before = fingerprint(model)
    with pytest.raises(ShrinkError, match=r"does not run in its own types: RuntimeError: a multiple of three, please"):
        ModelSpeedup(model, image().float(), masks(a=[1])).speedup_model()
    assert fingerprint(model) == before
    assert ModelSpeedup(model, image().float(), masks(a=[1, 2, 4])).speedup_model().exact


def test_a_model_that_never_ran_in_its_own_types_is_shrunk_all_the_same():
    model = picky(whole=False)
    assert ModelSpeedup(model, image().float(), masks(a=[1])).speedup_model().exact
    assert len(model.a.weight) == 5


def test_imaginary_parts_are_compared():
    left, right = (Outputs([torch.tensor([3.0 + 4.0j, 1.0 + part * 1j])], torch.float64) for part in (2, -6))
    assert largest_difference(left, right) == 2.0  # of a range of 4
    assert largest_difference(left, left) == 0.0


def complex_numbers():
    torch.manual_seed(0)
    a, b = nn.Linear(4, 64, dtype=torch.complex64), nn.Linear(64, 3, dtype=torch.complex64)
    return net(lambda m, x: torch.view_as_real(m.b(m.a(x))), a=a, b=b), torch.randn(5, 4, dtype=torch.complex64)


def test_complex_parameters_are_proved_in_double_precision():
    """In complex64 two correct programs differ by 1e-8, which is more than is allowed."""
    model, x = complex_numbers()
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert report.exact
    assert report.dtype == "float64"
    assert report.largest_difference < 1e-15
    assert model.a.weight.shape == (32, 4)
    assert model.a.weight.dtype == torch.complex64


def test_complex_constants_move_into_biases():
    (model, x), keep = complex_numbers(), keep_without(64, 1, 4)
    with torch.no_grad():
        wanted = (x @ (model.a.weight * keep[:, None]).T) @ model.b.weight.T + model.a.bias @ model.b.weight.T
        wanted = wanted + model.b.bias
    report = ModelSpeedup(model, x, {"a": {"weight": keep[:, None]}}).speedup_model()
    assert report.folded == ("b",)
    assert report.masked_difference < 1e-12
    assert model.a.weight.shape == (62, 4)
    torch.testing.assert_close(model(x), torch.view_as_real(wanted))


def test_a_recurrent_layer_watches_its_own_weights_before_and_after():
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.head = nn.LSTM(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.read(x)[0])

    def watched() -> list[bool]:
        watches = model.read._flat_weight_refs
        return [watch() is weight for watch, weight in zip(watches, model.read.parameters(), strict=True)]

    model, x = Reader().eval(), torch.randn(5, 2, 4)
    watches = model.read._flat_weight_refs
    made = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x)
    with pytest.raises(ProofError):
        made.apply(tolerance=-1.0)
    assert model.read._flat_weight_refs is watches
    assert all(watched())
    made.apply()
    assert all(watched())
