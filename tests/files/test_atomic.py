from __future__ import annotations

import os

import pytest

from torchpare.errors import FileError
from torchpare.files.atomic import atomic_write


def test_the_file_appears_only_when_the_block_has_ended(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_write(path) as lent:
        lent.write_bytes(b"new")
        assert not path.exists()
        assert lent.parent == tmp_path
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail_half_way():
        with atomic_write(path) as lent:
            lent.write_bytes(b"ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "real.bin").write_bytes(b"old")
    (tmp_path / "link.bin").symlink_to("real.bin")
    with atomic_write(tmp_path / "link.bin") as lent:
        lent.write_bytes(b"new")
    assert (tmp_path / "link.bin").is_symlink()
    assert (tmp_path / "real.bin").read_bytes() == b"new"


def test_the_file_gets_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "a.bin") as lent:
            lent.write_bytes(b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640


def test_a_missing_folder_is_named(tmp_path):
    with (
        pytest.raises(FileError, match=r"there is no folder .*nowhere; make it first"),
        atomic_write(tmp_path / "nowhere" / "a"),
    ):
        pass


def test_a_folder_is_not_written_over(tmp_path):
    with pytest.raises(FileError, match="it is a folder"), atomic_write(tmp_path):
        pass


def test_a_folder_in_which_nothing_can_be_written_is_told(tmp_path, monkeypatch):
    def refused(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.open", refused)  # root may write everywhere
    with (
        pytest.raises(FileError, match=r"cannot write .*a\.bin: Permission denied"),
        atomic_write(tmp_path / "a.bin"),
    ):
        pass


@pytest.mark.parametrize("path", [None, 5, "\0"])
def test_what_is_no_path_is_told(path):
    with pytest.raises(FileError, match="it is not the name of a file"), atomic_write(path):
        pass
