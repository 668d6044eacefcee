"""What every test shares: hypothesis profiles, one thread per worker, a generator with a fixed seed."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.support.browser import browser  # noqa: F401 - a fixture for whoever looks at pages

# A shared machine is slow by fits and starts: no deadline. In CI the examples are the same in every run.
settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=50,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers already fill the cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an accelerator"))


@pytest.fixture
def generator() -> torch.Generator:
    """A source of randomness that starts from the same seed in every test."""
    return torch.Generator().manual_seed(20260101)


@pytest.fixture(autouse=True)
def _same_randomness_in_every_order() -> None:
    torch.manual_seed(0)
