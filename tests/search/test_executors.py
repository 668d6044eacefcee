"""Whoever runs the trials, the search is the same."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch

from tests.search.nets import CONVOLUTIONS, Chain, example, likelihood, trained, tune
from tests.search.strategies import STRATEGIES
from torchpare.errors import ConfigError, SearchError
from torchpare.pruning import NetAdaptPruner, SimulatedAnnealingPruner
from torchpare.search import Processes, RayCluster, SensitivityAnalysis, Serial
from torchpare.search.fingerprint import of_model


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _searched(name: str, folder: Path, executor) -> tuple[object, str, float]:
    """What goes, the model, and what the search says that it is worth."""
    folder.mkdir()
    model = trained(Chain)
    pruner = STRATEGIES[name](model, likelihood, folder, executor=executor)
    pruner.compress()
    worth = json.loads((folder / "search_result.json").read_text())["performance"]
    return pruner.get_config_list(), of_model(model), worth


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net_adapt", "annealing", "budget"])
def test_processes_find_what_one_process_finds(name: str, tmp_path: Path) -> None:
    serial = _searched(name, tmp_path / "serial", "serial")
    assert _searched(name, tmp_path / "processes", Processes(2, threads=1)) == serial


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, of what it imports
def test_every_search_and_a_sensitivity_analysis_find_on_ray_what_they_find_in_one_process(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")

    def compare(name: str) -> None:
        serial = _searched(name, tmp_path / f"{name} serial", "serial")
        assert _searched(name, tmp_path / f"{name} ray", RayCluster(2)) == serial, name

    first, *others = STRATEGIES
    compare(first)
    assert not ray.is_initialized()  # a cluster that a search started is stopped behind it
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        for name in others:
            compare(name)
        assert ray.is_initialized()  # and one that was there is not
        tables = [
            SensitivityAnalysis(trained(Chain), likelihood, [0.25, 0.5, 0.75], executor=executor).analysis()
            for executor in ("serial", RayCluster(2))
        ]
        assert tables[0] == tables[1]
    finally:
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, of what it imports
def test_what_ray_cannot_send_is_told_in_a_line(tmp_path: Path) -> None:
    lock = threading.Lock()

    def guarded(model):
        with lock:
            return likelihood(model)

    pruner = STRATEGIES["budget"](trained(Chain), guarded, tmp_path, executor=RayCluster(1))
    with pytest.raises(SearchError, match="cannot be sent to Ray's workers") as told:
        pruner.compress()
    assert len(str(told.value)) < 300


def test_annealing_ahead_finds_what_annealing_step_by_step_finds(tmp_path: Path) -> None:
    class Ahead(Serial):
        workers = 3

    assert _searched("annealing", tmp_path / "ahead", Ahead()) == _searched("annealing", tmp_path / "one", "serial")


@pytest.mark.slow
def test_an_evaluator_that_cannot_be_sent_is_told_before_a_process_starts(tmp_path: Path) -> None:
    def local(model):
        return likelihood(model)

    model = trained(Chain)
    pruner = SimulatedAnnealingPruner(
        model, CONVOLUTIONS, local, experiment_data_dir=tmp_path, executor=Processes(1),
        dummy_input=example(),
    )  # fmt: skip
    with pytest.raises(SearchError, match="top level of a module"):
        pruner.compress()


@pytest.mark.slow
def test_a_model_that_cannot_be_sent_is_told(tmp_path: Path) -> None:
    model = trained(Chain)
    model.register_forward_hook(lambda *_: None)
    pruner = STRATEGIES["budget"](model, likelihood, tmp_path, executor=Processes(1))
    with pytest.raises(SearchError, match="the model cannot be sent to another process"):
        pruner.compress()


def _dies(model: torch.nn.Module) -> float:
    import multiprocessing
    import os

    if multiprocessing.parent_process() is not None:
        os._exit(1)
    return likelihood(model)


@pytest.mark.slow
def test_a_worker_that_dies_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = trained(Chain)
    before = of_model(model)
    pruner = NetAdaptPruner(model, CONVOLUTIONS, tune, _dies, experiment_data_dir=tmp_path, executor=Processes(2),
                            dummy_input=example())  # fmt: skip
    with pytest.raises(SearchError, match="goes on where it stopped"):
        pruner.compress()
    assert of_model(model) == before


def test_an_executor_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'serial', 'processes', 'ray'"):
        STRATEGIES["annealing"](trained(), likelihood, tmp_path, executor="threads")
    with pytest.raises(ConfigError, match="'serial', 'processes', 'ray'"):
        STRATEGIES["annealing"](trained(), likelihood, tmp_path, executor=["serial"])
    for unusable in ({"workers": 0}, {"workers": "2"}, {"workers": 1.5}, {"threads": 0}, {"threads": "1"}):
        with pytest.raises(ConfigError, match="1 or more"):
            Processes(**unusable)
        with pytest.raises(ConfigError, match="1 or more"):
            RayCluster(**unusable)
