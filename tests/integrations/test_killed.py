"""A run whose process is killed and started again ends with the same weights, masks and scales."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.integrations.runs import by_hand, made

ROOT = Path(__file__).parents[2]


def run(folder, *last):
    command = [sys.executable, "-m", "tests.integrations.killed", str(folder), *map(str, last)]
    threads = {name: str(torch.get_num_threads()) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}  # as here
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **threads})
    return done.returncode, [int(line) for line in done.stdout.split()], done.stderr


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_as_if_it_had_not_been(tmp_path):
    assert run(tmp_path, 6)[:2] == (-signal.SIGKILL, [0, 1])
    assert run(tmp_path, 7)[:2] == (-signal.SIGKILL, [1, 2])
    code, epochs, errors = run(tmp_path)
    assert (code, epochs) == (0, [2, 3]), errors
    end, expected = torch.load(tmp_path / "end.pt", weights_only=True), by_hand("AGP and QAT, late").state_dict()
    assert end.keys() == expected.keys()
    assert all(torch.equal(end[key], expected[key]) for key in expected)
    assert not torch.equal(end["b.weight"], made("AGP and QAT, late")[0].state_dict()["b.weight"])
