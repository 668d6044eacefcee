"""Every algorithm has its lines in the example, and they run."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchpare import pruning

ROOT = Path(__file__).resolve().parents[2]
ABSTRACT_OR_ELSEWHERE = {"TransformerHeadPruner"}  # in transformers_heads.py


def _run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / "pruners.py"), *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _algorithms() -> set[str]:
    public = {name: getattr(pruning, name) for name in pruning.__all__}
    first = {kind: kind.__name__ for kind in public.values() if not inspect.isabstract(kind)}  # aliases fall together
    return {name for name in first.values() if name not in ABSTRACT_OR_ELSEWHERE and name != "GradualPruner"}


@pytest.mark.slow
def test_the_example_has_every_algorithm_and_each_runs(tmp_path):
    listed = _run(tmp_path, "--list").split()
    assert set(listed) == _algorithms()
    rows = {
        row[0]: row for line in _run(tmp_path, "--epochs", "0").splitlines() if (row := line.replace("│", " ").split())
    }
    dense = int(rows["dense"][2].replace(",", ""))
    for name in listed:
        parameters, zeros = int(rows[name][2].replace(",", "")), rows[name][3]
        assert parameters < dense or zeros == "80%", name
