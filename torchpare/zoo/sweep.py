"""Many models, each in a process of its own with a time limit: one that hangs or dies costs its own result alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from torchpare.zoo.results import Reason, Result, Stage

__all__ = ["Settings", "chunk", "sweep"]

_TAIL = 300  # characters of the last words of a process that died


@dataclass(frozen=True)
class Settings:
    """How each model is examined.

    Attributes:
        ratio: the share of every group of channels that is to go.
        onnx: whether it is exported.
        limit: seconds that one model may take.
        jobs: processes at a time, of one thread each.
    """

    ratio: float = 0.5
    onnx: bool = True
    limit: float = 600.0
    jobs: int = 1


def chunk(names: Sequence[str], index: int, count: int) -> list[str]:
    """Every `count`-th name, from the `index`-th on (from 1): families are spread evenly over the chunks."""
    return list(names[index - 1 :: count])


def sweep(
    module: str, names: Sequence[str], settings: Settings, on_result: Callable[[Result], None] = lambda _: None
) -> list[Result]:
    """Examines models of the suite in `module`; no process outlives the call.

    Args:
        module: where the suite lives.
        names: its models.
        settings: how.
        on_result: is given each result as soon as there is one, in this thread.

    Returns:
        A result for each name, in order.
    """
    found: dict[str, Result] = {}
    processes = _Processes()
    pool = ThreadPoolExecutor(settings.jobs)
    before = signal.signal(signal.SIGTERM, _leave) if threading.current_thread() is threading.main_thread() else None
    try:
        waiting = [pool.submit(_examine_apart, processes, module, name, settings) for name in names]
        for done in as_completed(waiting):
            result = done.result()
            found[result.model] = result
            on_result(result)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        processes.end()
        pool.shutdown()
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return [found[name] for name in names]


def _leave(number: int, _: object) -> NoReturn:
    """Ends this process by way of its `finally` blocks, with the code that the signal would have given it."""
    sys.exit(128 + number)


class _Processes:
    """The processes that run now, so that all can be ended when the sweep is broken off."""

    def __init__(self) -> None:
        self._lock, self._running, self._over = threading.Lock(), set(), False

    def run(self, command: list[str], log: Path, limit: float) -> int | None:
        """Runs a command in a process group of its own; None if it was still running at the limit."""
        with log.open("wb") as stream, self._lock:
            if self._over:
                return None
            process = subprocess.Popen(  # noqa: S603 - our own module, with names of our own suites
                command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=_environment(),
                start_new_session=True,
            )  # fmt: skip
            self._running.add(process)
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self._end(process)
            with self._lock:
                self._running.discard(process)

    def end(self) -> None:
        """Ends what runs, and lets nothing start any more."""
        with self._lock:
            self._over = True
            for process in self._running:
                self._end(process)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with its own children, should it have any
        process.wait()


def _examine_apart(processes: _Processes, module: str, name: str, settings: Settings) -> Result:
    with tempfile.TemporaryDirectory(prefix="torchpare-zoo-") as folder:
        path, log = Path(folder) / "result.json", Path(folder) / "log"
        command = [sys.executable, "-m", "torchpare.zoo.one", module, name, "--ratio", str(settings.ratio)]
        command += ["--result", str(path), *([] if settings.onnx else ["--no-onnx"])]
        start = time.perf_counter()
        code = processes.run(command, log, settings.limit)
        seconds = time.perf_counter() - start
        result = Result.model_validate_json(path.read_bytes()) if path.exists() else Result(model=name)
        if result.done:
            return result
        words = log.read_text(errors="replace").split() if log.exists() else []
    reason: Reason = "timeout" if code is None else "killed"
    told = f"after {settings.limit:g} s" if code is None else _death(code, " ".join(words)[-_TAIL:])
    last = result.stages[-1].name if result.stages else "the start"
    stage = Stage(name=f"after {last}", seconds=round(seconds - result.seconds, 3), reason=reason, detail=told)
    return result.model_copy(update={"done": True, "stages": (*result.stages, stage)})


def _death(code: int, words: str) -> str:
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"it ended with code {code}"
    return f"{how}: {words}" if words else how


def _environment() -> dict[str, str]:
    """One thread, no accelerator, no network: the same result everywhere."""
    mine = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **mine}
