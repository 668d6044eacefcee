"""Which module of NNI has which names, and where each comes from: ``"room.file:Name"``, or ``":what to use"``."""

from __future__ import annotations

from torchpare.compat.nni.names_v1 import V1
from torchpare.compat.nni.names_v2 import V2
from torchpare.compat.nni.names_v3 import V3

__all__ = ["MODULES"]

_ELSEWHERE = ":a search library such as Optuna; torchpare searches by itself: docs/search.md"

_TOP = {
    "trace": "torchpare.compat.nni.trace:trace",
    **dict.fromkeys(
        (
            "choice", "get_current_parameter", "get_experiment_id", "get_next_parameter", "get_sequence_id",
            "get_trial_id", "report_final_result", "report_intermediate_result",
        ),
        _ELSEWHERE,
    ),
}  # fmt: skip


def _together(*tables: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """All modules of all versions; where versions share a path, with the names of each."""
    together: dict[str, dict[str, str]] = {}
    for table in tables:
        for path, names in table.items():
            together.setdefault(path, {}).update(names)
    return together


MODULES: dict[str, dict[str, str]] = _together({"nni": _TOP}, V1, V2, V3)
"""By path, by name, where it comes from."""
