"""What a plan refuses, and what it says then."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.networks.oracles import fingerprint
from torchpare import plan
from torchpare.errors import ConfigError, ShrinkError

ALL = [{"sparsity": 0.5, "structures": ["all"]}]


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def test_a_plan_is_good_for_the_model_it_was_made_for():
    model, x = network(), torch.randn(2, 4)
    found = plan(model, ALL, x)
    found.apply()
    before = fingerprint(model)
    with pytest.raises(ShrinkError, match="make a new plan"):
        found.apply()
    assert fingerprint(model) == before


def test_without_weights_there_is_a_plan_and_nothing_to_apply():
    found = plan(network().to("meta"), ALL, torch.randn(2, 4))
    assert found.parameters == (58, 30)
    with pytest.raises(ShrinkError, match="is on the meta device"):
        found.apply()


def test_a_wrapper_for_several_devices_is_unwrapped_by_the_user():
    with pytest.raises(ConfigError, match=r"model\.module"):
        plan(nn.DataParallel(network()), ALL, torch.randn(2, 4))


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"0.weigh": torch.ones(8, 4)}, "did you mean '0.weight'"),
        ({"0.weight": torch.ones(8, 3)}, r"of shape \(8, 3\), and the parameter of \(8, 4\)"),
        ({"0.weight": torch.full((8, 4), torch.nan)}, "not finite"),
        ({"0.weight": torch.full((8, 4), torch.inf)}, "not finite"),
        ({"0.weight": [1.0, 2.0]}, r"'0.weight'\] is a list; it is a tensor"),
        ({"0.weight": torch.ones(8, 4, dtype=torch.complex64)}, "is a tensor of torch.complex64; it is a tensor"),
        (torch.ones(8, 4), "scores is a Tensor; it is a dict of tensors by parameter name"),
    ],
)
def test_scores_are_checked(scores, said):
    with pytest.raises(ConfigError, match=said):
        plan(network(), ALL, torch.randn(2, 4), scores=scores)
