"""Time is taken of the program that the runtime runs."""

from __future__ import annotations

import pytest
import torch

from tests.search.nets import Chain, example, trained
from torchpare.errors import ConfigError, ExportError
from torchpare.search.latency import RUNTIMES, latency, prepared, relative_latency


def test_a_runtime_of_ones_own_that_returns_nothing_to_run_is_told() -> None:
    with pytest.raises(ConfigError, match="the runtime returned a Tensor; it returns a function"):
        prepared(trained(Chain), example(), lambda model, batch: model(batch))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_runs_the_model_it_was_given(runtime: str) -> None:
    model = trained(Chain).train()
    run = RUNTIMES[runtime](model, example())
    with torch.no_grad():
        expected = model.eval()(example())
    made = run()
    found = torch.from_numpy(made[0]) if isinstance(made, list) else made
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_latency_is_the_median_of_as_many_runs_as_were_asked_for() -> None:
    ran = []
    assert latency(lambda: ran.append(1), 5) >= 0
    assert len(ran) == 5 + 3  # three to warm up


def test_a_candidate_is_timed_in_turns_with_the_dense_model() -> None:
    ran = []
    assert relative_latency(lambda: ran.append("small"), lambda: ran.append("dense"), 4) > 0
    assert ran.count("small") == ran.count("dense") == 7
    assert all({ran[at], ran[at + 1]} == {"small", "dense"} for at in range(0, 14, 2))


def test_a_runtime_of_ones_own_is_given_the_model_and_the_example() -> None:
    model = trained(Chain)
    assert prepared(model, example(), lambda *given: lambda: given)()[0] is model


def test_a_model_that_a_runtime_cannot_take_is_told() -> None:
    class Fickle(torch.nn.Module):
        def forward(self, x):
            return x * 2 if float(x.sum()) > 0 else x

    with pytest.raises(ExportError):
        prepared(Fickle(), torch.ones(2, 2), "onnxruntime")
