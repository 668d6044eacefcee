"""torchrun, as a test calls it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

__all__ = ["once", "torchrun"]

ROOT = Path(__file__).parents[2]


def torchrun(
    script: str | Path, *arguments: str | Path, processes: int = 2, seconds: int = 500, folder: Path = ROOT,
    path: Sequence[Path] = (),
) -> str:  # fmt: skip
    """What a script prints, run by so many processes on a free port; the test fails where one of them does.

    Args:
        script: its file.
        arguments: of the script.
        processes: how many.
        seconds: until it is given up.
        folder: where it runs.
        path: where it finds modules, besides this repository.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
               str(script), *map(str, arguments)]  # fmt: skip
    own = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, *path))), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, check=False, cwd=folder, env={**os.environ, **own}
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-6000:]
    return run.stdout


def once(factory: pytest.TempPathFactory, name: str, script: Path) -> Path:
    """The folder into which a script has written what its processes came to.

    It runs once, however many of pytest's own processes share the tests: the others wait.
    """
    shared = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder = shared / name
    try:
        folder.mkdir()
    except FileExistsError:
        end = time.monotonic() + 500
        while not (folder / "over").exists():
            assert time.monotonic() < end, f"{script} does not come to an end"
            time.sleep(0.2)
    else:
        try:
            torchrun(script, folder)
        finally:
            (folder / "over").touch()
    return folder
