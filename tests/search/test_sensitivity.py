"""One layer at a time, further and further."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tests.search.nets import Chain, likelihood, trained
from torchpare.errors import ConfigError, FileError
from torchpare.pruning import L1FilterPruner, SensitivityPruner
from torchpare.search import Executor, Processes, Serial
from torchpare.utils import SensitivityAnalysis


class Plain(Executor):
    """Not the serial one, but as good."""

    def run(self, bench, jobs):
        return Serial().run(bench, jobs)


def _masked(model, name: str, sparsity: float) -> float:
    small = copy.deepcopy(model)
    L1FilterPruner(small, [{"sparsity": sparsity, "op_names": [name]}]).compress()
    return likelihood(small)


def test_each_value_is_that_of_the_model_with_one_layer_pruned() -> None:
    model = trained(Chain)
    before = copy.deepcopy(model.state_dict())
    found = SensitivityAnalysis(model, likelihood, [0.5, 0.25]).analysis()
    assert list(found) == ["wide", "stem", "inner"]
    for name, row in found.items():
        assert row == {0.25: _masked(model, name, 0.25), 0.5: _masked(model, name, 0.5)}
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_model_is_only_read_whatever_the_evaluator_does() -> None:
    def careless(model):
        with torch.no_grad():
            model.head.bias.add_(1.0)
        return likelihood(model)

    model = trained(Chain)
    before = model.head.bias.clone()
    SensitivityAnalysis(model, careless, np.linspace(0.25, 0.75, 2), early_stop_mode="dropped",
                        early_stop_value=9.0).analysis()  # fmt: skip
    assert torch.equal(model.head.bias, before)


def test_what_is_pruned_already_is_not_counted_twice() -> None:
    model = trained(Chain)
    analysis = SensitivityAnalysis(model, likelihood, [0.5])
    analysis.update_already_pruned("wide", 0.5)
    assert analysis.analysis(specified_layers=["wide"])["wide"][0.5] == _masked(model, "wide", 0.75)


@pytest.mark.parametrize(
    ("mode", "value", "tried"),
    [("minimize", 0.7, [0.1, 0.2, 0.3]), ("dropped", 0.25, [0.1, 0.2, 0.3]), ("maximize", 0.95, [0.1, 0.2, 0.3, 0.4]),
     ("raised", 0.03, [0.1, 0.2, 0.3, 0.4]), (None, None, [0.1, 0.2, 0.3, 0.4])],
)  # fmt: skip
def test_a_row_ends_where_it_is_to_stop(mode, value, tried: list[float]) -> None:
    values = iter([*([0.9] if mode in ("dropped", "raised") else []), 0.9, 0.8, 0.6, 0.96])
    analysis = SensitivityAnalysis(trained(Chain), lambda model: next(values), [0.1, 0.2, 0.3, 0.4],
                                   early_stop_mode=mode, early_stop_value=value)  # fmt: skip
    assert list(analysis.analysis(specified_layers=["stem"])["stem"]) == tried


def test_the_table_is_written_and_read_back(tmp_path) -> None:
    analysis = SensitivityAnalysis(trained(Chain), likelihood, [0.3, 0.6])
    found = analysis.analysis(specified_layers=["wide", "inner"])
    analysis.export(tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text().startswith("layername,0.3,0.6\nwide,")
    assert SensitivityPruner.load_sensitivity(tmp_path / "s.csv") == found
    (tmp_path / "bad.csv").write_text("layername,a\n")
    with pytest.raises(FileError, match="no table of sensitivities"):
        SensitivityPruner.load_sensitivity(tmp_path / "bad.csv")
    (tmp_path / "long.csv").write_text("layername,0.1\na," + "1" * 200_000)
    with pytest.raises(FileError, match="no table of sensitivities"):
        SensitivityPruner.load_sensitivity(tmp_path / "long.csv")


@pytest.mark.slow
@pytest.mark.parametrize("stops", [{}, {"early_stop_mode": "dropped", "early_stop_value": 0.05}])
def test_several_processes_find_the_same_values(stops) -> None:
    model = trained(Chain)
    alone = SensitivityAnalysis(model, likelihood, [0.25, 0.5, 0.75], **stops)
    together = SensitivityAnalysis(model, likelihood, [0.25, 0.5, 0.75], executor=Processes(2, threads=1), **stops)
    assert together.analysis() == alone.analysis()
    assert list(together.sensitivities) == list(alone.sensitivities)
    assert [list(row) for row in together.sensitivities.values()] == [list(r) for r in alone.sensitivities.values()]


def test_an_executor_is_shown_a_model_with_one_layer_masked_for_each_value() -> None:
    class Recorder(Executor):
        labels: list[list[str]] = []  # noqa: RUF012

        def run(self, bench, jobs):
            self.labels.append([job.label for job in jobs])
            return Serial().run(bench, list(reversed(jobs)))

    model = trained(Chain)
    recorder = Recorder()
    analysis = SensitivityAnalysis(model, likelihood, [0.25, 0.5], executor=recorder)
    assert analysis.analysis(specified_layers=["wide", "stem"]) == SensitivityAnalysis(
        model, likelihood, [0.25, 0.5]
    ).analysis(specified_layers=["wide", "stem"])
    assert recorder.labels == [["wide at 25%", "wide at 50%", "stem at 25%", "stem at 50%"]]
    recorder.labels.clear()
    stopping = SensitivityAnalysis(model, likelihood, [0.25, 0.5], "l1", "minimize", 99.0, executor=recorder)
    assert [list(row) for row in stopping.analysis(specified_layers=["wide"]).values()] == [[0.25]]
    assert recorder.labels == [["wide at 25%"]]


@pytest.mark.parametrize("prune_type", ["l1", "level"])
def test_a_layer_that_has_lost_some_already_is_pruned_further_by_an_executor_too(prune_type) -> None:
    found = []
    for executor in ("serial", Plain()):
        analysis = SensitivityAnalysis(trained(Chain), likelihood, [0.5], prune_type, executor=executor)
        analysis.update_already_pruned("wide", 0.5)
        found.append(analysis.analysis(specified_layers=["wide"]))
    assert found[0] == found[1]


def test_the_heat_map_is_drawn(tmp_path) -> None:
    analysis = SensitivityAnalysis(trained(Chain), likelihood, [0.25, 0.5])
    with pytest.raises(ConfigError, match=r"call analysis\(\) first"):
        analysis.plot(tmp_path / "heat.svg")
    analysis.analysis(specified_layers=["wide"])
    analysis.plot(tmp_path / "heat.svg")
    assert "wide at 50%" in (tmp_path / "heat.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prune_type": "fine-grained"}, "'level', 'l1'"),
        ({"early_stop_mode": "minimize"}, "belong together"),
        ({"early_stop_mode": "less", "early_stop_value": 1.0}, "'minimize', 'maximize'"),
        ({"sparsities": [0.5, 1.0]}, "between 0 and 1"),
        ({"sparsities": 0.5}, "a list of numbers"),
        ({"sparsities": ["half"]}, "a list of numbers"),
        ({"sparsities": [0.001]}, "rounded to two digits"),
        ({"executor": "threads"}, "executor is 'threads'"),
        ({"val_func": None}, "val_func is a NoneType"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SensitivityAnalysis(trained(Chain), **{"val_func": likelihood, **arguments})
    with pytest.raises(ConfigError, match="returned a tuple; it returns one number"):
        SensitivityAnalysis(trained(Chain), lambda _: (1, 2)).analysis(specified_layers=["wide"])
    with pytest.raises(ConfigError, match="no layer that 'l1' can prune"):
        SensitivityAnalysis(trained(Chain), likelihood).analysis(specified_layers=["head"])
