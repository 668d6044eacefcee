"""The example of distillation runs, and its rows are there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_example_fine_tunes_with_and_without_a_teacher(tmp_path):
    command = [sys.executable, str(ROOT / "examples" / "distillation.py")]
    settings = ["--dense-epochs", "2", "--epochs", "2", "--width", "8", "--sparsity", "0.5"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *settings], capture_output=True, text=True, cwd=tmp_path, env=env, check=False)
    assert done.returncode == 0, done.stderr
    cells = [[cell.strip() for cell in line.split("│")] for line in done.stdout.splitlines() if "%" in line]
    rows = {row[1]: (float(row[2].rstrip("%")), int(row[3].replace(",", ""))) for row in cells}
    assert list(rows) == ["dense", "pruned", "fine-tuned", "fine-tuned with a teacher"]
    assert rows["fine-tuned"][1] == rows["fine-tuned with a teacher"][1] < rows["dense"][1] / 2
    assert rows["fine-tuned"] != rows["fine-tuned with a teacher"]  # the teacher changes what is learnt
    assert min(rows["fine-tuned"][0], rows["fine-tuned with a teacher"][0]) > 50
