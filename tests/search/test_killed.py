"""A search that is killed without warning goes on where it stopped, and ends where it would have ended."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from tests.search.nets import likelihood
from tests.search.strategies import STRATEGIES

SCRIPT = Path(__file__).with_name("killed.py")


def _run(name: str, folder: Path, evaluations: int) -> subprocess.CompletedProcess[str]:
    root = SCRIPT.parents[2]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from tests.search.killed import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, name, str(folder), str(evaluations)],
        capture_output=True, text=True, cwd=root, timeout=300, check=False,
    )  # fmt: skip


def never_ends(model: torch.nn.Module) -> float:
    """Of the dense model a number; in a worker, says that it has begun, and waits."""
    if multiprocessing.parent_process() is not None:
        print("begun", flush=True)
        threading.Event().wait()
    return likelihood(model)


@pytest.mark.slow
def test_workers_end_with_the_search_that_is_killed(tmp_path: Path) -> None:
    root = SCRIPT.parents[2]
    lines = [
        f"import sys; sys.path.insert(0, {str(root)!r})",
        "from tests.search.test_killed import never_ends; from tests.search.nets import Chain, trained",
        "from tests.search.strategies import STRATEGIES; from torchpare.search import Processes",
        f"STRATEGIES['budget'](trained(Chain), never_ends, {str(tmp_path)!r}, executor=Processes(2)).compress()",
    ]
    search = subprocess.Popen([sys.executable, "-c", "\n".join(lines)], stdout=subprocess.PIPE, cwd=root)
    assert search.stdout is not None
    assert [search.stdout.readline(), search.stdout.readline()] == [b"begun\n", b"begun\n"]
    search.kill()
    search.communicate(timeout=120)  # the pipe ends with the last process that holds it


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_killed_twice_ends_as_one_that_was_never_killed(name: str, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = _run(name, tmp_path / "whole", 0)
    assert whole.returncode == 0, whole.stderr
    evaluated = -json.loads(whole.stdout)["left"]
    assert evaluated >= 6

    for lives in (evaluated // 3, evaluated // 3):
        death = _run(name, tmp_path / "killed", lives)
        assert death.returncode == -9, death.stderr
    rest = _run(name, tmp_path / "killed", 0)
    assert rest.returncode == 0, rest.stderr

    ended, uninterrupted = json.loads(rest.stdout), json.loads(whole.stdout)
    assert ended["found"] == uninterrupted["found"]
    assert ended["weights"] == uninterrupted["weights"]
    assert -ended["left"] < evaluated  # it did not begin anew
    assert "going on with the search" in rest.stderr
