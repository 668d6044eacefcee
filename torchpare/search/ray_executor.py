"""Trials on a Ray cluster: a local one that is started here, or one that runs already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from torchpare.errors import ConfigError, MissingExtraError, SearchError
from torchpare.search.executor import Executor
from torchpare.search.trial import Bench, Job, Outcome, run_trial

__all__ = ["RayCluster"]


class RayCluster(Executor):
    """Runs trials on Ray.

    Args:
        workers: how many trials at a time.
        address: of a running cluster, as for ``ray.init``; without it, and where Ray runs not yet, a local one of so
            many workers is started, and stopped by `close`.
        threads: of torch in each trial; 1 if not given.
        resources: what a trial asks Ray for, such as ``{"num_gpus": 1}``; one CPU, if not given.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(
        self,
        workers: int = 2,
        address: str | None = None,
        threads: int = 1,
        resources: dict[str, Any] | None = None,
    ) -> None:
        for key, value in (("workers", workers), ("threads", threads)):
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f"RayCluster: {key} is {value!r}; give 1 or more")
        try:
            import ray
            import ray.exceptions
        except ImportError as error:
            raise MissingExtraError("Ray is not installed; it comes with: pip install 'torchpare[ray]'") from error
        self._ray: Any = ray
        self.workers, self.address, self.threads = workers, address, threads
        self.resources = {"num_cpus": 1, **(resources or {})}
        self._started = False
        self._bench: Bench | None = None
        self._sent: Any = None

    def run(self, bench: Bench, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Run the jobs, as many at a time as there are workers."""
        self._connect()
        if bench is not self._bench:
            self._bench, self._sent = bench, self._put(bench)
        remote = self._ray.remote(**self.resources, max_retries=1)(_run)
        left, running = list(jobs), []
        try:
            while left or running:
                while left and len(running) < self.workers:
                    running.append(remote.remote(self._sent, left.pop(0), self.threads))
                done, running = self._ray.wait(running, num_returns=1)
                yield self._ray.get(done[0])
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(getattr(error, "cause", None), SearchError) else error
            raise SearchError(str(cause)) from error
        except self._ray.exceptions.RayError as error:
            raise SearchError(
                f"Ray lost a trial: {error}. Run the search again: it goes on where it stopped"
            ) from error
        finally:
            for task in running:
                self._ray.cancel(task, force=True)

    def close(self) -> None:
        """Forget the model, and stop the cluster if it was started here."""
        self._bench = self._sent = None
        if self._started:
            self._ray.shutdown()
            self._started = False

    def _put(self, bench: Bench) -> Any:
        try:
            return self._ray.put(bench)
        except TypeError as error:  # Ray's own, with a page of advice
            raise SearchError(
                f"the model, the evaluator or the fine-tuner cannot be sent to Ray's workers ({error.__cause__}): they "
                "hold something that cannot be pickled, such as an open file or a lock"
            ) from error

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.address is None:
            options |= {"num_cpus": self.workers, "include_dashboard": False}
        else:
            options["address"] = self.address
        self._ray.init(**options)
        self._started = True


def _run(bench: Bench, job: Job, threads: int) -> Outcome:
    torch.set_num_threads(threads)
    return run_trial(bench, job)
