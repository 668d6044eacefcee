from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.support.nets import Net, TiedNet
from torchpare.errors import MaskError, MaskFileError
from torchpare.files.masks import compact, fit_masks, load_masks, save_masks

CHANNELS = torch.tensor([True, False, True, True, False, False, True, True])


def per_channel(channels=CHANNELS):
    return {"conv1": {"weight": channels.view(-1, 1, 1, 1), "bias": channels}}


def test_masks_come_back_as_they_were(tmp_path):
    fine = torch.rand(5, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    masks = per_channel() | {"norm1": {"weight": CHANNELS}, "head": {"weight": fine}}
    save_masks(masks, tmp_path / "mask.pth")
    loaded = load_masks(tmp_path / "mask.pth")
    assert {layer: set(own) for layer, own in loaded.items()} == {layer: set(own) for layer, own in masks.items()}
    for layer, own in masks.items():
        for name, mask in own.items():
            assert loaded[layer][name].dtype is torch.bool
            assert torch.equal(loaded[layer][name], mask)


def test_the_file_has_the_layout_scripts_expect_and_one_byte_per_channel(tmp_path):
    full = torch.ones(512, 512, 3, 3)
    full[::2] = 0
    save_masks({"conv": {"weight": full}}, tmp_path / "mask.pth")
    on_disk = torch.load(tmp_path / "mask.pth", weights_only=True)
    assert set(on_disk["conv"]) == {"weight", "bias"}
    assert on_disk["conv"]["bias"] is None
    assert on_disk["conv"]["weight"].shape == (512, 1, 1, 1)
    assert (tmp_path / "mask.pth").stat().st_size < 4096


def test_a_view_is_written_without_the_storage_behind_it(tmp_path):
    save_masks({"a": {"weight": torch.ones(1000, 1000)[:8, 0]}}, tmp_path / "mask.pth")
    assert (tmp_path / "mask.pth").stat().st_size < 4096


def test_full_size_float_masks_of_the_older_toolkit_are_folded(tmp_path):
    weight = CHANNELS.float().view(-1, 1, 1, 1).expand(8, 3, 3, 3).contiguous()
    head = {"weight": torch.ones(5, 8), "bias": None}
    torch.save({"conv1": {"weight": weight, "bias": CHANNELS.float()}, "head": head}, tmp_path / "nni.pth")
    loaded = load_masks(tmp_path / "nni.pth")
    assert torch.equal(loaded["conv1"]["weight"], CHANNELS.view(-1, 1, 1, 1))
    assert torch.equal(loaded["conv1"]["bias"], CHANNELS)
    assert loaded["head"]["weight"].shape == (5, 1)
    assert "bias" not in loaded["head"]


@st.composite
def masks_of_any_kind(draw):
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    constant = [draw(st.booleans()) for _ in shape]
    seed = draw(st.integers(0, 2**31))
    small = [1 if fold else size for size, fold in zip(shape, constant, strict=True)]
    mask = torch.rand(small, generator=torch.Generator().manual_seed(seed)) > 0.5
    return mask.expand(shape).contiguous()


@given(masks_of_any_kind())
def test_compacting_changes_the_form_and_not_the_meaning(mask):
    small = compact(mask)
    assert small.ndim == mask.ndim
    assert torch.equal(small.expand(mask.shape), mask)
    for axis in range(1, small.ndim):  # the first axis stays where a mask says the same of all
        if small.shape[axis] > 1:
            assert not bool((small == small.narrow(axis, 0, 1)).all())
    assert torch.equal(compact(small), small)


def test_fitting_gives_masks_that_broadcast_to_their_parameters():
    model = Net()
    fitted = fit_masks(per_channel(CHANNELS.float()), model)
    assert fitted["conv1"]["weight"].dtype is torch.bool
    assert fitted["conv1"]["weight"].expand_as(model.conv1.weight).shape == model.conv1.weight.shape


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"conv2": {"weight": CHANNELS}}, r"'conv2', but Net has no such layer; the nearest are 'conv1'"),
        (
            {"depthwise": {"bias": CHANNELS}},
            r"depthwise.bias, but this Conv2d has no parameter 'bias'; it has 'weight'",
        ),
        ({"conv1": {"weight": CHANNELS}}, r"shape \(8,\), its parameter \(8, 3, 3, 3\).*such as \(8, 1, 1, 1\)"),
        ({"conv1": {"bias": CHANNELS[:7]}}, r"mask of conv1.bias has shape \(7,\)"),
        ({"conv1": {"weight": torch.zeros(8, 1, 1, 1)}}, r"conv1.weight prunes everything"),
        ({"norm1": {"weight": torch.full((8,), 0.5)}}, r"norm1.weight holds values other than 0 and 1"),
        ({"norm1": {"weight": torch.full((8,), float("nan"))}}, r"values other than 0 and 1"),
        ({"norm1": {"weight": [1, 0]}}, r"norm1.weight is of type list, and not a tensor"),
        ({"norm1": CHANNELS}, r"'norm1' is a tensor, so this looks like a state_dict"),
        ({"norm1": {"weight": CHANNELS.to_sparse()}}, r"make it a dense one of torch.bool"),
        ({}, r"there is no mask in it"),
        ([], r"expected a dict, got list"),
    ],
)
def test_masks_that_do_not_fit_are_refused_by_name(masks, message):
    with pytest.raises(MaskError, match=message):
        fit_masks(masks, Net())


def test_two_names_of_one_parameter_need_masks_that_agree():
    keep = torch.tensor([True, True, False, True, True, True, True]).view(7, 1)
    agreeing = {"embed": {"weight": keep}, "decode": {"weight": keep.expand(7, 4).float()}}
    assert set(fit_masks(agreeing, TiedNet())) == {"embed", "decode"}
    with pytest.raises(
        MaskError, match=r"embed.weight and decode.weight are one shared parameter, but their masks disagree"
    ):
        fit_masks(agreeing | {"decode": {"weight": ~keep}}, TiedNet())


def test_a_layer_may_be_named_by_each_of_its_names():
    assert set(fit_masks({"mix_again": {"bias": torch.ones(4)}}, TiedNet())) == {"mix_again"}


def test_saving_refuses_what_loading_would_refuse(tmp_path):
    with pytest.raises(MaskError, match="values other than 0 and 1"):
        save_masks({"a": {"weight": torch.rand(3)}}, tmp_path / "mask.pth")
    assert not list(tmp_path.iterdir())


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(MaskFileError, match=r"there is no mask file .*nothing\.pth"):
        load_masks(tmp_path / "nothing.pth")
    with pytest.raises(MaskFileError, match=r"is not a file; give the mask file itself, such as .*mask\.pth"):
        load_masks(tmp_path)


def test_a_state_dict_is_recognised(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "model.pth")
    with pytest.raises(
        MaskFileError, match=r"'weight' is a tensor, so this looks like a state_dict; masks are \{layer name"
    ):
        load_masks(tmp_path / "model.pth")
