"""Who runs the trials: this process, several processes on this machine, or Ray on many.

An executor takes jobs and hands back outcomes as they come, in any order. Each trial is seeded by its job, so that the
search is the same whoever ran it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import torch

from torchpare.errors import ConfigError, SearchError
from torchpare.search.trial import Bench, Job, Outcome, run_trial

__all__ = ["Executor", "Processes", "Serial"]


class Executor(ABC):
    """Runs trials."""

    workers: int = 1
    """How many at a time: searches that go step by step try as many next steps ahead."""

    @abstractmethod
    def run(self, bench: Bench, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Run the jobs and hand back their outcomes as they come.

        Raises:
            SearchError: a trial failed, or the workers are gone.
        """

    def close(self) -> None:  # noqa: B027 - nothing to let go, by default
        """Let the workers go; the next `run` hires anew."""


class Serial(Executor):
    """One trial after the other, in this process."""

    def run(self, bench: Bench, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Run the jobs in their order."""
        for job in jobs:
            yield run_trial(bench, job)


class Processes(Executor):
    """Several processes on this machine.

    Args:
        workers: how many.
        threads: of torch in each; this process's number divided by the workers, if not given. Sums over other numbers
            of threads may round otherwise: for results equal to the last bit give what the serial run uses.

    The evaluator and the fine-tuner must be importable (defined at the top level of a module), and a script that
    searches must start under ``if __name__ == "__main__":``, as for every use of processes in Python.
    """

    def __init__(self, workers: int = 2, threads: int | None = None) -> None:
        for key, value in (("workers", workers), ("threads", threads)):
            if not (isinstance(value, int) and value >= 1) and not (key == "threads" and value is None):
                raise ConfigError(f"Processes: {key} is {value!r}; give 1 or more")
        self.workers = workers
        self.threads = threads or max(1, torch.get_num_threads() // workers)
        self._bench: Bench | None = None
        self._pool: ProcessPoolExecutor | None = None

    def run(self, bench: Bench, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Run the jobs, the first ones first."""
        pool = self._pool_for(bench)
        try:  # the first starts the processes, which are sent the bench
            waiting = [pool.submit(_try, job) for job in jobs]
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            message = (
                f"the model cannot be sent to another process ({error}): define its class, and the hooks on it, at the "
                "top level of a module, or search with executor='serial'"
            )
            raise SearchError(message) from error
        try:
            for done in as_completed(waiting):
                yield done.result()
        except BrokenProcessPool as error:
            self._pool = None
            message = (
                "a worker process died: out of memory, or killed, or the script is not guarded by "
                "`if __name__ == '__main__':`. Run the search again: it goes on where it stopped"
            )
            raise SearchError(message) from error
        finally:
            for job in waiting:
                job.cancel()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._bench = self._pool = None

    def _pool_for(self, bench: Bench) -> ProcessPoolExecutor:
        if self._pool is None or bench is not self._bench:
            self.close()
            try:
                pickle.dumps((bench.evaluator, bench.fine_tuner))
            except Exception as error:
                message = (
                    f"the evaluator or the fine-tuner cannot be sent to another process ({error}): define it at the "
                    "top level of a module, or search with executor='serial'"
                )
                raise SearchError(message) from error
            self._pool = ProcessPoolExecutor(
                self.workers, multiprocessing.get_context("spawn"), _receive, (bench, self.threads)
            )
            self._bench = bench
        return self._pool


_received: list[Bench] = []
"""In a worker: the bench of the present stage."""


def _receive(bench: Bench, threads: int) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _received[:] = [bench]


def _leave_with_parent() -> None:
    """End this process with the one that searches: a worker that waits for a job never hears that it was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _try(job: Job) -> Outcome:
    return run_trial(_received[0], job)
