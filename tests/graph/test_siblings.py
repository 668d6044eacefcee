"""Modules that the example inputs do not reach fit what their siblings were cut to."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from torchpare import plan

ALL = [{"sparsity": 0.5, "structures": ["all"]}]


class Mixture(nn.Module):
    """The best expert for each token, called only when a token is sent to it."""

    def __init__(self, width=16, experts=6):
        super().__init__()
        self.gate = nn.Linear(width, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width)) for _ in range(experts)
        )

    def forward(self, x):
        weights, chosen = self.gate(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for at, expert in enumerate(self.experts):
            token = torch.where(chosen == at)[0]
            if len(token):
                out = out.index_add(0, token, expert(x[token]) * weights[token, None])
        return out


def masked_copy(model, found):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for layer, own in found.masks().items():
            for name, mask in own.items():
                twin.get_parameter(f"{layer}.{name}").mul_(mask)
    return twin.double()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), Mixture(), nn.Linear(16, 5)).eval()


def test_experts_without_tokens_shrink_in_step_and_compute_what_their_masked_selves_do():
    model, few, many = network(), torch.randn(3, 8), torch.randn(300, 8)
    found = plan(model, ALL, few)
    assert 1 < len(found.space.followed) < 6
    assert not found.space.unreached
    assert "in step with '1.experts." in str(found)
    masked = masked_copy(model, found)
    found.apply()
    assert {expert[0].weight.shape for expert in model[1].experts} == {(16, 8)}
    torch.testing.assert_close(model.double()(many.double()), masked(many.double()), rtol=0, atol=1e-12)


def test_a_parameter_that_no_expert_reads_hides_no_sibling():
    model, few, many = network(), torch.randn(3, 8), torch.randn(300, 8)
    for expert in model[1].experts:
        expert.unused = nn.Parameter(torch.ones(32))
    found = plan(model, ALL, few)
    masked = masked_copy(model, found)
    found.apply()
    assert {expert[0].weight.shape for expert in model[1].experts} == {(16, 8)}
    assert {expert.unused.shape for expert in model[1].experts} == {(32,)}
    torch.testing.assert_close(model.double()(many.double()), masked(many.double()), rtol=0, atol=1e-12)


def test_of_a_chain_of_which_one_link_was_reached_what_links_it_stays():
    class Early(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(4, 12)
            self.steps = nn.ModuleList(nn.Sequential(nn.Linear(12, 12), nn.ReLU()) for _ in range(3))
            self.head = nn.Linear(12, 3)

        def forward(self, x):
            x = self.stem(x)
            for step in self.steps[: 1 if len(x) < 4 else 3]:
                x = step(x)
            return self.head(x)

    model = Early().eval()
    found = plan(model, ALL, torch.randn(2, 4))
    found.apply()
    assert model(torch.randn(9, 4)).shape == (9, 3)
    assert "which the example inputs do not reach" in found.frozen["stem"]


def test_normalised_features_lose_channels_and_the_report_says_so():
    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 8), nn.Linear(8, 4)

        def forward(self, x):
            x = F.normalize(self.conv(x), dim=1).mean((2, 3))
            return self.head(F.normalize(self.linear(x), dim=-1))

    model, x = Normalised().eval(), torch.randn(2, 3, 8, 8)
    report = plan(model, ALL, x).apply()
    assert (model.conv.out_channels, model.linear.out_features) == (8, 4)
    assert not report.exact
    assert any("norm" in change.kind for change in report.changes)
    assert report.largest_difference <= 1e-10
