"""A file appears under its name only once it is complete: a killed process leaves the old file, or none."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torchpare.errors import FileError

__all__ = ["atomic_write", "check_target"]


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lends an empty file beside `path` to write to; it takes the name `path` when the block ends well.

    If the block raises, the lent file is removed and whatever was at `path` stays as it was. A symbolic link is
    followed, as an ordinary write would follow it.

    Raises:
        FileError: the folder does not exist, nothing can be written there, or `path` is a folder itself, or no path.
    """
    target = check_target(path)
    lent = target.parent / f".{target.name}.{secrets.token_hex(4)}.tmp"
    try:
        # An ordinary exclusive open, not tempfile: the file is to get the permissions of the user's umask.
        try:
            lent.open("xb").close()
        except OSError as error:
            raise FileError(f"cannot write {path}: {error.strerror}") from error
        yield lent
        with lent.open("rb") as complete:
            os.fsync(complete.fileno())
        lent.replace(target)
    finally:
        with suppress(FileNotFoundError):
            lent.unlink()


def check_target(path: str | os.PathLike[str]) -> Path:
    """The file that a path means, links followed; also for those who work long before they write.

    Raises:
        FileError: it is no path, its folder does not exist, or it is a folder itself.
    """
    try:
        target = Path(os.path.realpath(os.fsdecode(path)))
    except (TypeError, ValueError) as error:
        raise FileError(f"cannot write {path!r}: it is not the name of a file") from error
    if not target.parent.is_dir():
        raise FileError(f"cannot write {path}: there is no folder {target.parent}; make it first")
    if target.is_dir():
        raise FileError(f"cannot write {path}: it is a folder; give the name of a file in it")
    return target
