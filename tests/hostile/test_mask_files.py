"""Files that are damaged, foreign or meant to harm, given to the reader of masks."""

from __future__ import annotations

import io
import pickle
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchpare.errors import MaskFileError
from torchpare.files.masks import load_masks

GOOD = {"conv": {"weight": torch.tensor([True, False] * 8).view(-1, 1, 1, 1), "bias": None}}


def bytes_of(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


WHOLE = bytes_of(GOOD)


class Payload:
    """Unpickled without care, this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("wrap", ["torch.save", "pickle"])
def test_code_in_a_pickle_is_named_and_not_run(tmp_path, wrap):
    content = {"conv": {"weight": Payload(tmp_path / "pwned")}}
    data = bytes_of(content) if wrap == "torch.save" else pickle.dumps(content, protocol=2)
    (tmp_path / "mask.pth").write_bytes(data)
    with pytest.raises(MaskFileError, match=r"asks for \w*io\.open to be called; nothing in it was run"):
        load_masks(tmp_path / "mask.pth")
    assert not (tmp_path / "pwned").exists()


@given(st.integers(0, len(WHOLE) - 1))
def test_a_truncated_file_is_refused(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("cut") / "mask.pth"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(MaskFileError):
        load_masks(path)


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_flipped_byte_changes_nothing_or_is_refused(tmp_path_factory, place, flip):
    path = tmp_path_factory.mktemp("flip") / "mask.pth"
    path.write_bytes(WHOLE[:place] + bytes([WHOLE[place] ^ flip]) + WHOLE[place + 1 :])
    try:
        loaded = load_masks(path)
    except MaskFileError:
        return
    assert torch.equal(loaded["conv"]["weight"], GOOD["conv"]["weight"])


def test_a_tensor_that_claims_to_be_a_folder_is_refused(tmp_path):
    # With this one bit set, torch skips the data without a word and hands out memory it never filled.
    with zipfile.ZipFile(io.BytesIO(WHOLE)) as archive:
        directory = archive.start_dir
    entry = WHOLE.index(b"archive/data/0", directory)
    bit = entry - 46 + 38  # a directory entry has 46 bytes before its name, the attributes at byte 38
    (tmp_path / "mask.pth").write_bytes(WHOLE[:bit] + b"\x10" + WHOLE[bit + 1 :])
    with pytest.raises(MaskFileError, match="claims to be a folder"):
        load_masks(tmp_path / "mask.pth")


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "mask.pth"
    path.write_bytes(data)
    with pytest.raises(MaskFileError):
        load_masks(path)


def test_a_compressed_archive_that_could_unpack_to_any_size_is_refused(tmp_path):
    path = tmp_path / "mask.pth"
    with zipfile.ZipFile(io.BytesIO(WHOLE)) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    with pytest.raises(MaskFileError, match="it is compressed"):
        load_masks(path)


@pytest.mark.parametrize(
    "bomb",
    [torch.ones(1, 1).expand(2**20, 2**20), torch.ones(4096).as_strided((2000, 2000), (1, 1))],
    ids=["repeated", "overlapping"],
)
def test_a_mask_larger_than_its_data_takes_no_memory(tmp_path, bomb):
    (tmp_path / "mask.pth").write_bytes(bytes_of({"conv": {"weight": bomb}}))
    if bomb.stride(0) == 0:
        assert load_masks(tmp_path / "mask.pth")["conv"]["weight"].shape == (1, 1)
    else:
        with pytest.raises(MaskFileError, match="more values than there is data behind it"):
            load_masks(tmp_path / "mask.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(3), "expected a dict, got Tensor"),
        ([1, 2], "expected a dict, got list"),
        ({}, "there is no mask in it"),
        ({3: {"weight": torch.ones(2)}}, "expected a layer name and a dict, got 3"),
        ({"conv": {"weight": "all"}}, "conv.weight is of type str, and not a tensor"),
        ({"conv": {0: torch.ones(2)}}, "has the key 0, which is no parameter's name"),
        ({"conv": {"weight": torch.full((2,), float("nan"))}}, "values other than 0 and 1"),
        ({"conv": {"weight": torch.tensor([2, 1])}}, "values other than 0 and 1"),
        ({"conv": {"weight": torch.ones(2, dtype=torch.complex64)}}, "make it a dense one of torch.bool"),
        ({"conv": {"weight": torch.ones(2, device="meta")}}, "make it a dense one of torch.bool"),
    ],
)
def test_what_is_no_mask_is_refused_by_place_and_value(tmp_path, content, message):
    (tmp_path / "mask.pth").write_bytes(bytes_of(content))
    with pytest.raises(MaskFileError, match=message):
        load_masks(tmp_path / "mask.pth")
