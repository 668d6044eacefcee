"""A model that hangs, dies or leaves costs its own result alone, and no process outlives the sweep."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from torchpare.zoo.results import Result
from torchpare.zoo.sweep import Settings, chunk, sweep

ROOT = Path(__file__).parents[2]
SUITE = "tests.zoo.bad_suite"


@pytest.fixture(autouse=True)
def _children_find_the_suite(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.slow
def test_each_model_gets_its_own_result():
    seen: list[Result] = []
    names = ["hangs", "dies", "leaves", "broken", "good"]
    results = sweep(SUITE, names, Settings(onnx=False, limit=20, jobs=2), seen.append)
    assert [result.model for result in results] == names
    assert sorted(result.model for result in seen) == sorted(names)
    assert [result.reason for result in results] == ["timeout", "killed", "killed", "build", None]
    hung, dead, left, _, good = results
    assert hung.misses[0].detail == "after 20 s"
    assert hung.seconds == pytest.approx(20, abs=5)
    assert "SIGKILL" in dead.misses[0].detail
    assert left.misses[0].detail == "it ended with code 3: famous last words"
    assert good.ok
    assert not children()


def test_a_sweep_that_is_broken_off_ends_its_processes():
    def stop(_: Result) -> None:
        raise KeyboardInterrupt

    threads = threading.active_count()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        sweep(SUITE, ["hangs", "dies", "hangs"], Settings(onnx=False, limit=300, jobs=2), stop)
    assert time.perf_counter() - start < 60
    assert not children()
    assert threading.active_count() == threads


def test_so_does_one_that_is_asked_to_end():
    script = f"from torchpare.zoo.sweep import *; sweep({SUITE!r}, ['hangs'], Settings())"
    process = psutil.Popen([sys.executable, "-c", script], cwd=ROOT)
    while not (found := process.children()):
        time.sleep(0.1)
    process.terminate()
    assert process.wait(30) == 143
    assert not found[0].is_running()


def test_the_process_of_one_model_prints_its_result():
    command = [sys.executable, "-m", "torchpare.zoo.one", SUITE, "broken", "--no-onnx"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert Result.model_validate_json(done.stdout).reason == "build"
    assert "RuntimeError: no such weights" in done.stderr  # with its traceback


def test_chunks_are_disjoint_and_complete():
    names = [f"{index}" for index in range(11)]
    chunks = [chunk(names, index, 4) for index in (1, 2, 3, 4)]
    assert sorted(name for part in chunks for name in part) == sorted(names)
    assert chunks[1] == ["1", "5", "9"]


def children() -> list[str]:
    return [
        " ".join(child.cmdline()) for child in psutil.Process().children() if "zoo.one" in " ".join(child.cmdline())
    ]
