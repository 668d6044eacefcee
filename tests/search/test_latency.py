"""Time is taken of the program that the runtime runs."""

from __future__ import annotations

import pytest
import torch

from tests.search.nets import Chain, example, trained
from torchpare.errors import ExportError
from torchpare.search.latency import RUNTIMES, latency


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

    def runtime(model, batch):
        assert isinstance(model, Chain)
        assert batch.shape == example().shape
        return lambda: ran.append(1)

    assert latency(trained(Chain), example(), runtime, 5) >= 0
    assert len(ran) == 5 + 3  # three to warm up


def test_a_model_that_a_runtime_cannot_take_is_told() -> None:
    class Fickle(torch.nn.Module):
        def forward(self, x):
            return x * 2 if float(x.sum()) > 0 else x

    with pytest.raises(ExportError):
        latency(Fickle(), torch.ones(2, 2), "onnxruntime", 2)
