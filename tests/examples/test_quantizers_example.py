"""Every quantizer has its lines in the example, and they run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchpare import quantization

ROOT = Path(__file__).resolve().parents[2]


def _run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "examples" / "quantizers.py"), *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_example_has_every_quantizer_and_each_runs(tmp_path):
    listed = _run(tmp_path, "--list").split()
    public = {getattr(quantization, name).__name__ for name in quantization.__all__ if name.endswith("Quantizer")}
    assert {name.split("-")[0] for name in listed} == public - {"Quantizer"}
    rows = {
        row[0]: row for line in _run(tmp_path, "--epochs", "0").splitlines() if (row := line.replace("│", " ").split())
    }
    dense, accurate = int(rows["float"][2].replace(",", "")), float(rows["float"][1].rstrip("%"))
    for name in listed:
        assert int(rows[name][2].replace(",", "")) < dense, name
        assert int(rows[name][3]) >= 2
    assert float(rows["ObserverQuantizer"][1].rstrip("%")) > accurate - 1
