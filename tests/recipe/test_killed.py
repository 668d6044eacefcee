"""A run that is killed without warning, anywhere, ends with the same weights as one that never was."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipe.killed import STAGES

ROOT = Path(__file__).resolve().parents[2]


def run(name: str, folder: Path, events: int) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.recipe.killed import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, name, str(folder), str(events)],
        capture_output=True, text=True, cwd=ROOT, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_a_run_killed_at_random_points_ends_as_one_that_was_not(name: str, tmp_path: Path) -> None:
    whole = run(name, tmp_path / "whole", 0)
    assert whole.returncode == 0, whole.stderr
    uninterrupted = json.loads(whole.stdout)
    events = uninterrupted["events"]
    assert events > 40

    draw = random.Random(name)
    lived = []
    for _ in range(4):
        lives = draw.randint(5, events // 3)
        death = run(name, tmp_path / "killed", lives)
        if death.returncode == 0:
            break
        assert death.returncode == -9, death.stderr
        lived.append(lives)
    rest = run(name, tmp_path / "killed", 0)
    assert rest.returncode == 0, rest.stderr
    ended = json.loads(rest.stdout)
    assert len(lived) >= 2
    assert ended["weights"] == uninterrupted["weights"]
    assert ended["metrics"] == uninterrupted["metrics"]
    assert ended["events"] < events  # it did not begin anew
