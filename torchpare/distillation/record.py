"""The records of two shrunk models compared: which indices of the teacher's tensors the student's still have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchpare.errors import ConfigError
from torchpare.files.dropped import EMPTY, as_built, moved_up

__all__ = ["relative_kept", "teacher_name"]

Record = Mapping[str, Any] | None


def relative_kept(student: Record, teacher: Record) -> dict[str, dict[int, list[int]]]:
    """By parameter and axis of the teacher, the kept indices, counted in the teacher.

    Args:
        student: its record of what was kept of the model as its class builds it; None if it was never shrunk.
        teacher: the teacher's, which may be a model between that one and the student.

    Raises:
        ConfigError: the student keeps something that the teacher has lost.
    """
    ours, its = student or EMPTY, teacher or EMPTY
    relative: dict[str, dict[int, list[int]]] = {}
    for name, axes in ours["kept"].items():
        there = teacher_name(name, student, teacher)
        for axis, indices in axes.items():
            before = its["kept"].get(there, {}).get(axis)
            places = None if before is None else {index: place for place, index in enumerate(before)}
            if places is not None and not places.keys() >= set(indices):
                raise ConfigError(f"the student keeps entries of {name!r} along axis {axis} that the teacher has lost; "
                                  "the teacher must be a model before the student's last shrink")  # fmt: skip
            relative.setdefault(there, {})[int(axis)] = indices if places is None else [places[at] for at in indices]
    return relative


def teacher_name(name: str, student: Record, teacher: Record) -> str:
    """The teacher's name of a layer or parameter of the student.

    Raises:
        ConfigError: the teacher was made without the block that holds it.
    """
    built = as_built(name, (student or {}).get("dropped", {}))
    there = moved_up(built, (teacher or {}).get("dropped", {}))
    if there is None:
        raise ConfigError(f"the student's {name!r} lies in a block that the teacher does not have")
    return there
