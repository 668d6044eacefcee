"""What a search has found, line by line on disk, so that a killed one goes on where it stopped.

A journal is a folder with a file of JSON lines. The first says which search it is of; each other is one finished piece
of work under its key. A line is written at once and flushed to the disk; one that a kill cut short is dropped. Going on
is starting anew: whatever has its line is taken from there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from torchpare.errors import FileError
from torchpare.files.atomic import atomic_write

__all__ = ["Journal", "alone_in", "digest"]

log = logging.getLogger(__name__)

_VERSION = 1


class Journal:
    """The journal of one search.

    Args:
        folder: where; made if it is missing. Its parent must exist.
        search: what the first line says: JSON-able, and equal for equal searches.
        resume: False begins anew, whatever is there.

    Raises:
        FileError: the folder cannot be used, or holds a file that is no journal, or that of another search.
    """

    def __init__(self, folder: Path, search: Mapping[str, Any], *, resume: bool = True) -> None:
        _made(folder)
        self.folder = folder
        self.path = folder / "journal.jsonl"
        header = json.loads(json.dumps({"torchpare_search": _VERSION, **search}, default=repr))  # as it is read again
        self._lines: dict[str, dict[str, Any]] = {}
        if resume and self.path.exists():
            self._read(header)
        else:
            with atomic_write(self.path) as lent:
                lent.write_text(json.dumps(header) + "\n", encoding="utf-8")
        if self._lines:
            log.warning("going on with the search in %s: %d results are there already; delete the folder or pass "
                        "resume=False to begin anew", folder, len(self._lines))  # fmt: skip

    def __contains__(self, key: str) -> bool:
        return key in self._lines

    def get(self, key: str) -> dict[str, Any] | None:
        """What was written under a key; None if nothing was."""
        return self._lines.get(key)

    def number(self, key: str, name: str) -> float:
        """A number of the line under a key; NaN where it was that.

        Raises:
            FileError: there is none.
        """
        value = self._lines.get(key, {}).get(name, "")
        if value is not None and not _is_number(value):
            raise self.spoilt(f"under {key!r} there is no number {name!r}")
        return math.nan if value is None else float(value)

    def numbers(self, key: str, name: str, count: int) -> list[float]:
        """A list of so many numbers of the line under a key.

        Raises:
            FileError: there is none.
        """
        values = self._lines.get(key, {}).get(name)
        if not isinstance(values, list) or len(values) != count or not all(map(_is_number, values)):
            raise self.spoilt(f"under {key!r} there are no {count} numbers {name!r}")
        return [float(value) for value in values]

    def spoilt(self, why: str) -> FileError:
        """The error for what is not as a search writes it."""
        return FileError(f"the search cannot go on: {self.path} is spoilt: {why}; pass resume=False to begin anew")

    def write(self, key: str, **values: Any) -> None:
        """Add a line, whole and on the disk before this returns, or not at all.

        Raises:
            FileError: it cannot be written.
        """
        known = {name: None if _is_nan(value) else value for name, value in values.items()}
        line = {"key": key, **known}
        before = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except BaseException as error:
            with suppress(OSError):
                os.truncate(self.path, before)  # half a line would spoil the next one
            if isinstance(error, OSError):
                raise self._unwritten(error) from error
            raise
        self._lines[key] = line

    def write_state(self, key: str, state: bytes) -> None:
        """Keep the tensors of a state under a key.

        Raises:
            FileError: they cannot be written.
        """
        try:
            with atomic_write(self._state_path(key)) as lent:
                lent.write_bytes(state)
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> FileError:
        return FileError(f"cannot write to the search's journal in {self.folder}: {error.strerror or error}. Mend that "
                         "and run the search again: it goes on where it stopped")  # fmt: skip

    def state(self, key: str) -> dict[str, Tensor]:
        """The tensors that were kept under a key.

        Raises:
            FileError: they are gone, or spoilt.
        """
        path = self._state_path(key)
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise FileError(f"the search cannot go on: {path} is missing or spoilt ({error}); pass resume=False to "
                            "begin anew") from error  # fmt: skip

    def drop_state(self, key: str) -> None:
        """Delete the tensors that were kept under a key, if there are any."""
        self._state_path(key).unlink(missing_ok=True)

    def drop_states(self, keep: str | None = None) -> None:
        """Delete the kept tensors, but for those of one key."""
        for path in self.folder.glob("*.safetensors"):
            if keep is None or path != self._state_path(keep):
                path.unlink(missing_ok=True)

    def _state_path(self, key: str) -> Path:
        return self.folder / f"{digest(key)[:16]}.safetensors"

    def _read(self, header: Mapping[str, Any]) -> None:
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"cannot read the search's journal {self.path}: {error}; delete it, or pass resume=False "
                            "to begin anew") from error  # fmt: skip
        whole, _, cut = text.rpartition("\n")
        lines = whole.split("\n") if whole else []
        found = [_parsed(line) for line in lines]
        if not found or any(line is None for line in found) or found[0] != header:
            raise FileError(f"{self.path} is not the journal of this search: delete it, name another folder, or pass "
                            "resume=False to begin anew")  # fmt: skip
        for line in found[1:]:
            if line is None or not isinstance(line.get("key"), str):
                raise self.spoilt("a line has no key")
            self._lines[line["key"]] = line
        if cut:  # a kill in the middle of a line: what follows must start on a line of its own
            with atomic_write(self.path) as lent:
                lent.write_text(whole + "\n", encoding="utf-8")


@contextmanager
def alone_in(folder: Path, what: str = "search", setting: str = "experiment_data_dir") -> Iterator[None]:
    """Keeps other processes from working in a folder meanwhile; a kill lets it go.

    Args:
        folder: of a journal; made if it is missing. Its parent must exist.
        what: is done there, for errors.
        setting: that names the folder, for errors.

    Raises:
        FileError: another process is at work there, or the folder cannot be used.
    """
    _made(folder)
    try:
        file = (folder / "lock").open("a")
    except OSError as error:
        raise FileError(f"cannot write in {folder}: {error.strerror or error}") from error
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileError(f"another process is at work on this {what}, in {folder}: wait until it has ended, or name "
                            f"another {setting}") from error  # fmt: skip
        except (ImportError, OSError):  # a system or a file system without locks
            pass
        yield


def _made(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot keep the search's journal in {folder}: {error.strerror or error}") from error


def digest(*parts: Any) -> str:
    """A name for JSON-able values: equal for equal ones."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
