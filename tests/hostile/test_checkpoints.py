"""Files that are damaged, foreign, edited or meant to harm, given to the reader of small checkpoints."""

from __future__ import annotations

import json
import pickle
import struct
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.support.nets import Net, shrunk_net
from torchpare import load, save
from torchpare.errors import CheckpointError
from torchpare.files.archive import Archive, read_archive, write_archive


@pytest.fixture
def path(tmp_path, generator):
    save(shrunk_net(generator), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


@pytest.fixture
def whole(path):
    return path.read_bytes()


@cache
def whole_bytes(folder):
    save(shrunk_net(torch.Generator().manual_seed(0)), folder / "whole.safetensors")
    return (folder / "whole.safetensors").read_bytes()


def refused(data, folder):
    (folder / "hostile.safetensors").write_bytes(data)
    model = Net()
    before = {name: (id(tensor), tensor.clone()) for name, tensor in model.named_parameters()}
    with pytest.raises(CheckpointError) as caught:
        load(model, folder / "hostile.safetensors")
    assert (model.width, model.depthwise.groups) == (8, 8)
    for name, tensor in model.named_parameters():
        assert id(tensor) == before[name][0]
        assert torch.equal(tensor, before[name][1])
    return str(caught.value)


def edited(path, **changes):
    """The bytes of the file with its record changed and its digest made anew, as a forger would."""
    archive = read_archive(path)
    tensors = archive.tensors | changes.pop("tensors", {})
    structure = archive.record["structure"] | changes.pop("structure", {})
    record = archive.record | {"structure": structure} | changes
    write_archive(path, Archive(tensors, record))
    return path.read_bytes()


def with_header(data, change):
    """The bytes with their JSON header changed by `change`, lengths kept right."""
    length = struct.unpack("<Q", data[:8])[0]
    header = change(data[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(tmp_path_factory, cut):
    folder = tmp_path_factory.getbasetemp()
    data = whole_bytes(folder)
    refused(data[: int(len(data) * cut)], folder)


@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flipped_byte_is_refused(tmp_path_factory, place, flip):
    folder = tmp_path_factory.getbasetemp()
    data = whole_bytes(folder)
    at = int(len(data) * place)
    refused(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :], folder)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(tmp_path_factory, data):
    assert "cannot be read" in refused(data, tmp_path_factory.getbasetemp())


def test_a_changed_weight_is_told_by_the_digest(whole, tmp_path):
    assert "its digest does not match" in refused(whole[:-1] + bytes([whole[-1] ^ 1]), tmp_path)


def test_a_changed_record_is_told_by_the_digest(whole, tmp_path):
    data = with_header(whole, lambda header: header.replace(rb"\"width\":4", rb"\"width\":3"))
    assert "its digest does not match" in refused(data, tmp_path)


@pytest.mark.parametrize("length", [2**63, 2**40, 10**9])
def test_a_header_that_claims_any_length_takes_no_memory(whole, tmp_path, length):
    assert "cannot be read" in refused(struct.pack("<Q", length) + whole[8:], tmp_path)


def test_a_pickle_under_another_name_is_refused(tmp_path):
    assert "cannot be read" in refused(pickle.dumps({"a": 1}), tmp_path)
    torch.save(Net().state_dict(), tmp_path / "model.pth")
    assert "cannot be read" in refused((tmp_path / "model.pth").read_bytes(), tmp_path)


def test_a_foreign_safetensors_file_is_told_what_it_is(tmp_path):
    save_file(Net().state_dict(), tmp_path / "foreign.safetensors", {"format": "pt"})
    message = refused((tmp_path / "foreign.safetensors").read_bytes(), tmp_path)
    assert "not one of torchpare (its format is 'pt')" in message
    assert "load_state_dict" in message


def test_a_later_version_asks_for_an_upgrade(whole, tmp_path):
    data = with_header(whole, lambda header: header.replace(b'"version":"1"', b'"version":"9"'))
    assert "has version '9'" in refused(data, tmp_path)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*nothing"):
        load(Net(), tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError, match=r"is not a file; give the checkpoint itself"):
        load(Net(), tmp_path)


@pytest.mark.parametrize("text", ['{"structure": NaN}', "[" * 10_000, "[]", "1e999", '{"a":}', "9" * 5000, ""])
def test_a_record_that_is_not_json_is_refused(tmp_path, text, monkeypatch):
    monkeypatch.setattr(json, "dumps", lambda *_, **__: text)
    write_archive(tmp_path / "odd.safetensors", Archive({"a": torch.ones(1)}, {}))
    with pytest.raises(CheckpointError, match=r"odd.safetensors: its record is (not JSON|of type)"):
        read_archive(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ({"attributes": {"nowhere": {"width": 4}}}, "sets numbers of module 'nowhere', which Net lacks"),
        ({"attributes": {"": {"forward": 4}}}, "sets .forward to 4, but in this Net that is no whole number"),
        ({"attributes": {"": {"training": 0}}}, "that is no whole number"),
        ({"attributes": {"": {"__dict__": 4}}}, "that is no whole number"),
        ({"attributes": {"": {"brand_new": 4}}}, "that is no whole number"),
        ({"attributes": {"": {"width": 9}}}, "but it was 8, and a size can only shrink"),
        ({"attributes": {"": {"width": -1}}}, "but it was 8, and a size can only shrink"),
        ({"attributes": {"": {"width": [4]}}}, "but it was 8, and a size can only shrink"),
        ({"attributes": {"": {"shape_after_pool": 4}}}, "and a size can only shrink"),
        ({"attributes": {"": {"shape_after_pool": [4]}}}, "and a size can only shrink"),
        ({"attributes": {"": {"shape_after_pool": [-2, 4]}}}, "and a size can only shrink"),
        ({"attributes": {"": {"width": 4.0}}}, "that is no number with a fraction"),
        ({"attributes": {"": {"width": True}}}, "its record is not as it should be"),
        ({"attributes": {"": {"width": "4"}}}, "its record is not as it should be"),
        ({"version": 2}, "its record is not as it should be, at 'structure.version'"),
        ({"more": 1}, "its record is not as it should be, at 'structure.more'"),
        (
            {"kept": {"conv1.weight": {"0": [0, 1, 2, 9]}}},
            r"conv1.weight has shape (4, 3, 3, 3), in this model (8, 3, 3, 3)",
        ),
        ({"kept": {"conv1.weight": {"7": [0]}}}, "conv1.weight has shape"),
        ({"kept": {"conv1.weight": {"x": [0]}}}, "its record is not as it should be"),
        (
            {"added_parameters": ["depthwise.bias", "head.extra"]},
            "adds the parameter 'head.extra', for which this Net keeps no",
        ),
        ({"added_parameters": ["head.bias", "depthwise.bias"]}, "adds the parameter 'head.bias'"),
        ({"added_parameters": []}, "it has 'depthwise.bias'"),
    ],
)
def test_a_forged_record_of_the_shrink_is_refused(path, tmp_path, structure, message):
    assert message in refused(edited(path, structure=structure), tmp_path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"conv1.weight": torch.ones(9, 3, 3, 3)}, "conv1.weight has shape (9, 3, 3, 3), in this model (8, 3, 3, 3)"),
        ({"conv1.weight": torch.ones(0, 3, 3, 3)}, "conv1.weight has shape (0, 3, 3, 3)"),
        ({"conv1.weight": torch.ones(4, 27)}, "conv1.weight has shape (4, 27)"),
        ({"head.bias": torch.ones(5, dtype=torch.int64)}, "head.bias holds torch.int64, in this model torch.float32"),
        ({"depthwise.bias": torch.ones(4, dtype=torch.int64)}, "adds depthwise.bias as torch.int64"),
        ({"extra": torch.ones(1)}, "it has 'extra'"),
        ({"head.weigth": torch.ones(1)}, "it has 'head.weigth' (nearest here: 'head.weight')"),
    ],
)
def test_forged_tensors_are_refused(path, tmp_path, tensors, message):
    assert message in refused(edited(path, tensors=tensors), tmp_path)


@pytest.mark.parametrize(
    "aliases", [{"conv1.weight": "conv1.bias"}, {"new": "nowhere"}, {"a": "b", "b": "conv1.bias"}, {"a": 3}, "conv1"]
)
def test_forged_aliases_are_refused(path, tmp_path, aliases):
    refused(edited(path, aliases=aliases), tmp_path)
