"""A journal serves the search that wrote it, and no other one."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

from tests.search.nets import CONVOLUTIONS, Chain, example, likelihood, trained, trainer, tune
from tests.search.strategies import STRATEGIES
from torchpare.attach import attach_masks
from torchpare.errors import ConfigError
from torchpare.pruning import AMCPruner, AutoCompressPruner, BudgetSearchPruner, SensitivityPruner
from torchpare.search import Objective, SearchPruner, SimulatedAnnealingPruner
from torchpare.search.fingerprint import of_code, of_example, of_model


def test_a_model_is_the_same_in_whatever_order_it_was_masked() -> None:
    mask = torch.arange(16) > 3
    masks = {"weight": mask.reshape(16, 1, 1, 1), "bias": mask}
    one, other = trained(Chain), trained(Chain)
    attach_masks(one, {"wide": masks})
    attach_masks(other, {"wide": dict(reversed(masks.items()))})
    assert of_model(one) == of_model(other) != of_model(trained(Chain))


def test_functions_that_do_something_else_have_other_names() -> None:
    def scaled(model, by=1):
        return by * likelihood(model)

    names = {
        of_code(None), of_code(likelihood), of_code(tune), of_code(scaled), of_code(functools.partial(scaled, by=2)),
        of_code(functools.partial(scaled, by=3)), of_code(lambda model: 1), of_code(lambda model: 2),
    }  # fmt: skip
    assert len(names) == 8
    assert of_code(functools.partial(scaled, by=2)) == of_code(functools.partial(scaled, by=2))


def test_an_example_is_known_by_its_kind() -> None:
    x = torch.zeros(1, 3, 8, 8)
    assert of_example((x, {"y": x})) == of_example((x + 1, {"y": x}))
    assert len({of_example(x), of_example(x[0]), of_example(x.half()), of_example((x, 1)), of_example(None)}) == 5


def _sensitivity(**more) -> SearchPruner:
    return SensitivityPruner(trained(Chain), CONVOLUTIONS, likelihood, **{"finetuner": tune, **more})


def _auto_compress(does=trainer, **more) -> SearchPruner:
    return AutoCompressPruner(trained(Chain), CONVOLUTIONS, does, likelihood, example(), **more)


def _amc(**more) -> SearchPruner:
    return AMCPruner(trained(Chain), CONVOLUTIONS, likelihood, **more)


def _budget(**more) -> SearchPruner:
    return BudgetSearchPruner(trained(Chain), CONVOLUTIONS, likelihood, **more)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        (_sensitivity, {"finetuner": likelihood}),
        (_sensitivity, {"sparsity_proportion_calc": dict}),
        (_auto_compress, {"does": tune}),
        (_auto_compress, {"criterion": torch.nn.functional.mse_loss}),
        (_amc, {"reward": functools.partial(max, 0.5)}),
        (_budget, {"sampler": functools.partial(optuna.samplers.TPESampler, multivariate=True)}),
    ],
)
def test_each_function_of_the_user_is_a_setting(kind, changed: dict, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert kind().settings() == kind().settings()
    assert kind(**changed).settings() != kind().settings()


def test_runtimes_of_ones_own_are_told_apart_by_what_they_do() -> None:
    def timed(model, batch):
        return lambda: model(batch)

    first = Objective("latency", runtime=lambda model, batch: lambda: model(batch))
    second = Objective("latency", runtime=lambda model, batch: lambda: model(2 * batch))
    third = Objective("latency", runtime=timed)
    assert len({str(objective.described()) for objective in (first, second, third)}) == 3


def test_what_a_batch_of_another_size_costs_is_found_anew(tmp_path: Path) -> None:
    found = []
    for batch in (example(), example()[:2], example()):
        pruner = BudgetSearchPruner(trained(Chain), CONVOLUTIONS, likelihood, 1, experiment_data_dir=tmp_path,
                                    dummy_input=batch)  # fmt: skip
        pruner.compress()
        found.append(len(list(tmp_path.glob("*/journal.jsonl"))))
    assert found == [1, 2, 2]


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    for _ in range(2):
        pruner = SimulatedAnnealingPruner(
            trained(Chain), CONVOLUTIONS, likelihood, start_temperature=np.float32(100), stop_temperature=95,
            experiment_data_dir=tmp_path, dummy_input=example(),
        )  # fmt: skip
        assert pruner.compress(return_config_list=True)
    assert len(list(tmp_path.glob("*/journal.jsonl"))) == 1


def test_a_sampler_that_cannot_be_made_anew_is_refused() -> None:
    with pytest.raises(ConfigError, match="sampler is a RandomSampler; it is a function"):
        _budget(sampler=optuna.samplers.RandomSampler(0))


def test_every_search_has_settings_that_are_the_same_when_it_is_started_again(tmp_path: Path) -> None:
    for kind in STRATEGIES.values():
        assert (
            kind(trained(Chain), likelihood, tmp_path).settings()
            == kind(trained(Chain), likelihood, tmp_path).settings()
        )
