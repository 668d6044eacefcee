"""The journal takes a kill in the middle of a line, and refuses what is not its own."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from torchpare.errors import FileError
from torchpare.search.journal import Journal, alone_in, digest


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", {"search": "a"})
    journal.write("one", score=0.5)
    journal.write("two", score=math.nan)
    again = Journal(tmp_path / "j", {"search": "a"})
    assert again.get("one") == {"key": "one", "score": 0.5}
    assert again.get("two") == {"key": "two", "score": None}
    assert "three" not in again


def test_a_line_that_a_kill_cut_short_is_dropped_and_the_next_one_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", {"search": "a"})
    journal.write("one", score=0.5)
    with journal.path.open("a") as file:
        file.write('{"key": "two", "sc')
    again = Journal(tmp_path / "j", {"search": "a"})
    assert "two" not in again
    again.write("two", score=1.0)
    assert Journal(tmp_path / "j", {"search": "a"}).get("two") == {"key": "two", "score": 1.0}


@pytest.mark.parametrize(
    "text", ["", "not json\n", "[]\n", '{"torchpare_search": 1, "search": "b"}\n',
             '{"torchpare_search": 1, "search": "a"}\n{"score": 1}\n'],
)  # fmt: skip
def test_another_file_is_refused_with_the_way_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "j").mkdir()
    (tmp_path / "j" / "journal.jsonl").write_text(text)
    with pytest.raises(FileError, match="resume=False"):
        Journal(tmp_path / "j", {"search": "a"})
    Journal(tmp_path / "j", {"search": "a"}, resume=False).write("one", score=1.0)


@pytest.mark.parametrize("text", ["[" * 100_000 + "\n", "\0\0\0\n", '"a"\n{"key": 1}\n'])
def test_a_hostile_file_is_refused_as_any_other(tmp_path: Path, text: str) -> None:
    journal = Journal(tmp_path / "j", {"search": "a"})
    with journal.path.open("a") as file:
        file.write(text)
    with pytest.raises(FileError, match="resume=False"):
        Journal(tmp_path / "j", {"search": "a"})


def test_numbers_are_read_as_numbers_or_not_at_all(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", {"search": "a"})
    journal.write("one", score=0.5, nan=math.nan, word="0.5", yes=True, vector=[0.5, 1], short=[0.5], words=["a", 1])
    again = Journal(tmp_path / "j", {"search": "a"})
    assert again.number("one", "score") == 0.5
    assert math.isnan(again.number("one", "nan"))
    assert again.numbers("one", "vector", 2) == [0.5, 1.0]
    for name in ("word", "yes", "vector", "missing"):
        with pytest.raises(FileError, match=f"no number '{name}'; pass resume=False"):
            again.number("one", name)
    for name in ("score", "short", "words", "missing"):
        with pytest.raises(FileError, match=f"no 2 numbers '{name}'; pass resume=False"):
            again.numbers("one", name, 2)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_line_that_could_not_be_written_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fails(descriptor: int) -> None:
        raise error

    journal = Journal(tmp_path / "j", {"search": "a"})
    journal.write("one", score=0.5)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(FileError if isinstance(error, OSError) else KeyboardInterrupt):
            journal.write("two", score=1.0)
        with pytest.raises(FileError if isinstance(error, OSError) else KeyboardInterrupt):
            journal.write_state("two", save({"w": torch.arange(3)}))
    assert "two" not in journal
    journal.write("three", score=2.0)
    again = Journal(tmp_path / "j", {"search": "a"})
    assert "two" not in again
    assert again.get("three") == {"key": "three", "score": 2.0}


def test_one_search_at_a_time_is_at_work_in_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    refused = pytest.raises(FileError, match="another process is at work on this search")
    with alone_in(tmp_path / "j"), alone_in(tmp_path / "other"), refused, alone_in(tmp_path / "j"):
        raise AssertionError("two at work")
    with alone_in(tmp_path / "j"):  # and then the next
        pass
    with pytest.raises(FileError, match="cannot keep the search's journal"), alone_in(tmp_path / "no" / "where"):
        pass


def test_states_are_kept_until_they_are_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", {"search": "a"})
    for key in ("one", "two"):
        journal.write_state(key, save({"w": torch.arange(3)}))
    journal.drop_states(keep="two")
    assert journal.state("two")["w"].tolist() == [0, 1, 2]
    with pytest.raises(FileError, match="missing or spoilt"):
        journal.state("one")
    journal.drop_state("two")
    assert list((tmp_path / "j").glob("*.safetensors")) == []


def test_a_spoilt_state_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", {"search": "a"})
    journal.write_state("one", b"no tensors")
    with pytest.raises(FileError, match="spoilt"):
        journal.state("one")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot keep the search's journal"):
        Journal(tmp_path / "no" / "where", {})


def test_digests_differ_where_values_do() -> None:
    assert digest("a", 1, [0.5]) == digest("a", 1, [0.5])
    assert len({digest("a", 1), digest("a", 2), digest("b", 1)}) == 3
