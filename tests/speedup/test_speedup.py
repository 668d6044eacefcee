"""The two calls of the tutorial: masks from anywhere, models in any state, and a report that reads well."""

from __future__ import annotations

import copy
import io
import json

import pytest
import torch
from rich.console import Console
from torch import nn

import torchpare
from tests.graph.nets import image, keep_without, net
from tests.networks.oracles import exact_output
from torchpare.attach import attach_masks, is_attached
from torchpare.errors import MaskError
from torchpare.files.masks import save_masks
from torchpare.speedup import ModelSpeedup, apply_compression_results

KEEP = keep_without(6, 1, 4)
MASKS = {
    "a": {"weight": KEEP.view(6, 1, 1, 1), "bias": KEEP},
    "norm": {"weight": KEEP, "bias": KEEP},
}


def model():
    return net(
        lambda m, x: m.b(torch.relu(m.norm(m.a(x)))),
        a=nn.Conv2d(3, 6, 3),
        norm=nn.BatchNorm2d(6),
        b=nn.Conv2d(6, 2, 3, padding=1),
    )


def nni_layout():
    return {
        "a": {"weight": KEEP.view(6, 1, 1, 1).expand(6, 3, 3, 3).float(), "bias": KEEP.float()},
        "norm": {"weight": KEEP.float(), "bias": KEEP.float()},
    }


@pytest.fixture
def expected():
    small = model()
    ModelSpeedup(small, image(), MASKS).speedup_model()
    return exact_output(small, image())


def test_masks_come_as_a_dict_as_a_file_or_in_the_older_layout(tmp_path, expected):
    save_masks(MASKS, tmp_path / "mask.pth")
    torch.save(nni_layout(), tmp_path / "nni.pth")
    for given in (MASKS, nni_layout(), tmp_path / "mask.pth", str(tmp_path / "nni.pth")):
        for location in (None, "cpu", torch.device("cpu")):
            small = model()
            report = ModelSpeedup(small, image(), given, location).speedup_model()
            assert small.a.out_channels == 4
            assert report.exact
            assert torch.equal(exact_output(small, image()), expected)


@pytest.mark.parametrize("state", ["attached", "baked", "both"])
def test_masks_may_still_be_on_the_model_or_baked_into_it(state, expected):
    small = model()
    if state != "attached":
        apply_compression_results(small, MASKS)
    if state != "baked":
        attach_masks(small, MASKS)
    report = ModelSpeedup(small, image(), None if state == "attached" else MASKS).speedup_model()
    assert report.largest_difference <= 1e-10
    assert not is_attached(small)
    assert type(small.a) is nn.Conv2d
    assert torch.equal(exact_output(small, image()), expected)
    assert sorted(small.state_dict()) == sorted(model().state_dict())


def test_without_masks_anywhere_there_is_nothing_to_do():
    with pytest.raises(MaskError):
        ModelSpeedup(model(), image())


def test_applying_masks_writes_zeros_and_keeps_shapes():
    masked = model()
    before = copy.deepcopy(masked)
    apply_compression_results(masked, MASKS)
    assert masked.a.weight.shape == before.a.weight.shape
    assert not masked.a.weight[[1, 4]].any()
    assert not masked.norm.bias[[1, 4]].any()
    assert torch.equal(masked.a.weight[KEEP], before.a.weight[KEEP])
    with pytest.raises(MaskError):
        apply_compression_results(before, {"nowhere": {"weight": KEEP}})


def test_planning_does_not_touch_the_model_and_is_json():
    planned = model()
    before = copy.deepcopy(planned.state_dict())
    plan = ModelSpeedup(planned, image(), MASKS).plan()
    described = json.loads(json.dumps(plan.describe()))
    assert described["tensors"]["b.weight"] == {
        "before": [2, 6, 3, 3],
        "after": [2, 4, 3, 3],
        "kept": {"1": [0, 2, 3, 5]},
    }
    assert set(described["tensors"]) == {
        "a.weight", "a.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "b.weight",
    }  # fmt: skip
    assert all(torch.equal(before[key], value) for key, value in planned.state_dict().items())


@pytest.mark.parametrize("training", [True, False])
def test_a_model_keeps_its_mode_its_identity_and_its_hooks(training):
    small = model().train(training)
    small.b.eval()
    calls, modules = [], dict(small.named_modules())
    small.a.register_forward_hook(lambda *_: calls.append("a"))
    statistics = small.norm.running_mean[KEEP].clone()
    ModelSpeedup(small, image(), MASKS).speedup_model()
    calls.clear()
    assert (small.training, small.a.training, small.b.training) == (training, training, False)
    assert dict(small.named_modules()) == modules
    small.eval()(image())
    assert calls == ["a"]
    assert torch.equal(small.norm.running_mean, statistics), "the proof must not train the statistics"


def test_gradients_and_frozen_parameters_survive():
    small = model()
    small.a.weight.requires_grad_(False)
    small(image()).sum().backward()
    gradient = small.b.weight.grad[:, KEEP].clone()
    ModelSpeedup(small, image(), MASKS).speedup_model()
    assert not small.a.weight.requires_grad
    assert torch.equal(small.b.weight.grad, gradient)


def test_a_small_model_trains_copies_and_keeps_its_record():
    small = model()
    ModelSpeedup(small, image(), MASKS).speedup_model()
    twin = copy.deepcopy(small).train()
    optimizer = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9)
    before = twin.b.weight.detach().clone()
    twin(image()).square().mean().backward()
    optimizer.step()
    assert not torch.equal(before, twin.b.weight)
    assert twin.torchpare_structure == small.torchpare_structure
    assert twin.torchpare_structure["kept"]["b.weight"] == {"1": [0, 2, 3, 5]}


def test_the_random_state_and_default_type_are_left_alone():
    small = model()
    state = torch.get_rng_state()
    ModelSpeedup(small, image(), MASKS).speedup_model()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32


def test_the_report_counts_and_says_what_happened():
    small = model()
    before = sum(p.numel() for p in small.parameters())
    report = ModelSpeedup(small, image(), MASKS).speedup_model()
    assert (report.parameters_before, report.parameters_after) == (before, sum(p.numel() for p in small.parameters()))
    (row,) = [layer for layer in report.layers if layer.name == "a"]
    assert (row.kind, row.channels_before, row.channels_after) == ("Conv2d", 6, 4)
    assert (row.parameters_before, row.parameters_after) == (6 * 28, 4 * 28)
    text = str(report)
    assert text.startswith(f"{before:,} -> {report.parameters_after:,} parameters")
    assert "the same function as the masked model" in text
    assert set(report.seconds) >= {"analyse", "plan", "shrink", "proof"}
    json.dumps(report.to_dict())


def test_the_report_draws_itself_as_a_table():
    report = ModelSpeedup(model(), image(), MASKS).speedup_model()
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report)
    drawn = console.export_text()
    assert "Channels before and after" in drawn
    assert any(
        line.split("│")[1:5] and "Conv2d" in line and " 6 " in line and " 4 " in line for line in drawn.splitlines()
    )


def test_what_was_asked_for_and_stays_is_told():
    small = model()
    report = ModelSpeedup(
        small,
        image(),
        {"b": {"weight": torch.tensor([True, False]).view(2, 1, 1, 1), "bias": torch.tensor([True, False])}},
    ).speedup_model()
    assert small.b.out_channels == 2
    assert report.frozen == ["b: 1 channels stay (it is an output of the model)"]
    assert f"kept: {report.frozen[0]}" in str(report)


def test_parameters_that_were_not_reached_are_told():
    small = model()
    small.spare = nn.Linear(3, 3)
    report = ModelSpeedup(small, image(), MASKS).speedup_model()
    assert set(report.unreached) == {"spare.weight", "spare.bias"}
    assert "spare.weight" in str(report)


@pytest.mark.parametrize("form", ["tuple", "list", "dict"])
def test_dummy_inputs_come_as_arguments_or_keywords(form):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.c, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x, y):
            return {"out": self.b(torch.relu(self.a(x) + self.c(y)))}

    two = Two().double().eval()
    given = {"tuple": (image(), image()), "list": [image(), image()], "dict": {"y": image(), "x": image()}}[form]
    masks = {layer: {"weight": KEEP.view(6, 1, 1, 1), "bias": KEEP} for layer in "ac"}
    assert ModelSpeedup(two, given, masks).speedup_model().exact
    assert two.b.in_channels == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_proof_is_in_float64_whatever_the_model_is_in(dtype):
    small, x = model().to(dtype), image().to(dtype)
    report = ModelSpeedup(small, x, MASKS).speedup_model()
    assert report.dtype == "float64"
    assert report.largest_difference <= 1e-10
    assert {p.dtype for p in small.parameters()} == {dtype}


def test_an_axis_that_shrinks_to_one_entry_keeps_the_order_of_memory():
    """A kernel with the strides of channels last would make a convolution return that, and the view fail."""
    small = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=2), Viewed()).double()
    keep = torch.tensor([True, False, True, False])
    ModelSpeedup(small, image(), {"0": {"weight": keep.view(4, 1, 1, 1), "bias": keep}}).speedup_model()
    assert small[1].weight.shape == (4, 1, 3, 3)
    assert small[1].weight.stride() == (9, 9, 3, 1)
    assert small(image()).dim() == 2


class Viewed(nn.Module):
    def forward(self, x):
        return x.view(len(x), -1)


def test_memory_format_is_kept():
    small = model().to(memory_format=torch.channels_last)
    ModelSpeedup(small, image().to(memory_format=torch.channels_last), MASKS).speedup_model()
    assert small.b.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_small_model_with_groups_and_a_flat_size_is_saved_and_loaded(tmp_path):
    def fresh():
        return net(
            lambda m, x: m.fc(torch.relu(m.deep(torch.relu(m.a(x)))).view(-1, m.flat)),
            attributes={"flat": 6 * 36},
            a=nn.Conv2d(3, 6, 1),
            deep=nn.Conv2d(6, 6, 3, padding=1, groups=6),
            fc=nn.Linear(216, 2),
        )

    small = fresh()
    masks = {layer: {"weight": KEEP.view(6, 1, 1, 1), "bias": KEEP} for layer in ("a", "deep")}
    ModelSpeedup(small, image(), masks).speedup_model()
    assert (small.flat, small.deep.groups, small.fc.in_features) == (144, 4, 144)
    torchpare.save(small, tmp_path / "small.safetensors")
    loaded = torchpare.load(fresh(), tmp_path / "small.safetensors")
    assert (loaded.flat, loaded.deep.groups, loaded.fc.in_features) == (144, 4, 144)
    assert torch.equal(loaded(image()), small(image()))
    fewer = keep_without(4, 0)
    again = {layer: {"weight": fewer.view(4, 1, 1, 1), "bias": fewer} for layer in ("a", "deep")}
    assert ModelSpeedup(loaded, image(), again).speedup_model().exact
    assert (loaded.flat, loaded.deep.groups) == (108, 3)
