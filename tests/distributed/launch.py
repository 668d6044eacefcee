"""torchrun, as a test calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["torchrun"]

ROOT = Path(__file__).parents[2]


def torchrun(
    script: str | Path, *arguments: str | Path, processes: int = 2, seconds: int = 240, folder: Path = ROOT,
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
