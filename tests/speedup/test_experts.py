"""Experts behind a router: which go, what is left, and what it computes."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import torchpare
from tests.networks.oracles import fingerprint
from torchpare import plan
from torchpare.errors import ConfigError, ProofError, ShrinkError
from torchpare.layers.experts import find_mixtures

EXPERTS = [{"sparsity": 0.5, "structures": ["experts"]}]


class Listed(nn.Module):
    """A list of experts, as people write it."""

    def __init__(self, experts=4, chosen=2, width=8, container=nn.ModuleList):
        super().__init__()
        self.num_experts, self.chosen = experts, chosen
        self.gate = nn.Linear(width, experts)
        made = [nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width)) for _ in range(experts)]
        self.experts = container(
            {f"expert_{at}": e for at, e in enumerate(made)} if container is nn.ModuleDict else made
        )

    def pick(self, logits):
        return logits.softmax(-1).topk(self.chosen)

    def forward(self, x):
        weights, chosen = self.pick(self.gate(x))
        out = torch.zeros_like(x)
        for at, expert in enumerate(self.experts.children()):
            if at >= self.num_experts:
                break
            token, place = torch.where(chosen == at)
            out = out.index_add(0, token, expert(x[token]) * weights[token, place, None])
        return out


class Stacked(nn.Module):
    """Experts as stacked parameters, a router of its own kind with a bias to choose by, and groups that come first."""

    def __init__(self, config):
        super().__init__()
        self.config, self.groups = config, config.groups
        self.gate = nn.Module()
        self.gate.weight = nn.Parameter(torch.randn(config.num_experts, 8))
        self.gate.register_buffer("correction_bias", 4 * torch.rand(config.num_experts))
        self.bank = nn.Module()
        self.bank.up = nn.Parameter(torch.randn(config.num_experts, 8, 6))
        self.bank.down = nn.Parameter(torch.randn(config.num_experts, 6, 8))

    def forward(self, x):
        scores = (x.float() @ self.gate.weight.float().T).sigmoid().to(x.dtype)
        wanted = scores + self.gate.correction_bias
        count = self.gate.weight.shape[0]
        best = wanted.view(-1, self.groups, count // self.groups).topk(2)[0].sum(-1).topk(1)[1]
        open_group = torch.zeros(len(x), self.groups, device=x.device).scatter(1, best, 1.0)
        mask = open_group.unsqueeze(-1).expand(-1, -1, count // self.groups).reshape(len(x), count).bool()
        _, chosen = wanted.masked_fill(~mask, 0.0).topk(2)
        weights = scores.gather(1, chosen)
        inner = torch.einsum("nd,nkdf->nkf", x, self.bank.up[chosen]).relu()
        return torch.einsum("nkf,nkfd,nk->nd", inner, self.bank.down[chosen], weights)


class Settings(SimpleNamespace):
    pass


Settings.__name__ = "MixtureConfig"


def listed(**options):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), Listed(**options), nn.Linear(8, 3)).eval(), torch.randn(32, 5)


def stacked():
    torch.manual_seed(0)
    config = Settings(num_experts=8, groups=2)
    return nn.Sequential(nn.Linear(5, 8), Stacked(config), nn.Linear(8, 3)).eval(), torch.randn(32, 5)


def by_hand(model, x, gone):
    """What a listed mixture computes with minus infinity in its gate's bias, in float64."""
    twin = copy.deepcopy(model).double()
    with torch.no_grad():
        twin[1].gate.bias[gone] = -torch.inf
        return twin(x.double())


@pytest.mark.parametrize("container", [nn.ModuleList, nn.ModuleDict])
def test_those_with_the_lowest_scores_go_and_the_rest_compute_the_same(container, tmp_path):
    model, x = listed(container=container)
    dense = copy.deepcopy(model)
    scores = dense[1].gate(dense[0](x)).softmax(-1).mean(0)
    lowest = sorted(scores.argsort()[:2].tolist())
    untouched = fingerprint(model)
    found = plan(model, EXPERTS, x)
    assert found.experts == {"1.experts": lowest}
    assert fingerprint(model) == untouched
    before, after = found.parameters
    report = found.apply()
    assert report.without == tuple(f"1.experts.{at}" for at in lowest)
    assert (report.parameters_before, report.parameters_after) == (before, after)
    assert sum(p.numel() for p in model.parameters()) == after < before
    assert (len(model[1].experts), model[1].num_experts, model[1].gate.out_features) == (2, 2, 2)
    torch.testing.assert_close(model.double()(x.double()), by_hand(dense, x, lowest), rtol=0, atol=1e-12)
    model.float()
    torchpare.save(model, tmp_path / "small.safetensors")
    fresh, _ = listed(container=container)
    torchpare.load(fresh, tmp_path / "small.safetensors")
    assert torch.equal(fresh(x), model(x))


def test_more_goes_in_a_second_step_and_the_file_still_loads(tmp_path):
    model, x = listed(experts=6)
    plan(model, [{"sparsity": 0.34, "structures": ["experts"]}], x).apply()
    plan(model, [{"sparsity": 0.5, "structures": ["mlp", "experts"]}], x).apply()
    assert len(model[1].experts) == 2
    assert model[1].experts[0][0].out_features == 6
    torchpare.save(model, tmp_path / "small.safetensors")
    fresh, _ = listed(experts=6)
    torchpare.load(fresh, tmp_path / "small.safetensors")
    assert torch.equal(fresh(x), model(x))


def test_stacked_experts_go_evenly_from_each_group_with_their_settings():
    model, x = stacked()
    config = model[1].config
    found = plan(model, EXPERTS, x)
    gone = found.experts["1.bank"]
    assert [sum(at // 4 == group for at in gone) for group in (0, 1)] == [2, 2]
    assert found.apply().largest_difference <= 1e-10
    assert model[1].bank.up.shape == (4, 8, 6)
    assert model[1].gate.weight.shape == (4, 8)
    assert model[1].gate.correction_bias.shape == (4,)
    assert (model[1].config.num_experts, config.num_experts) == (4, 8)


def test_as_many_stay_as_a_token_needs():
    model, x = listed(chosen=3)
    found = plan(model, [{"sparsity": 0.9, "structures": ["experts"]}], x)
    assert len(found.experts["1.experts"]) == 1
    assert "a token goes to 3" in str(found)


def test_all_leaves_them_and_names_reach_them():
    model, x = listed()
    assert not plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).experts
    assert plan(model, [{**EXPERTS[0], "op_names": ["1"]}], x).experts
    two = nn.Sequential(nn.Linear(5, 8), Listed(), Listed(), nn.Linear(8, 3)).eval()
    assert list(plan(two, [{**EXPERTS[0], "op_names": ["2"]}], x).experts) == ["2.experts"]
    excluded = [*EXPERTS, {"exclude": True, "structures": ["experts"], "op_names": ["1"]}]
    assert not plan(model, excluded, x).experts


def test_a_model_without_experts_says_so():
    with pytest.raises(ConfigError, match="experts"):
        plan(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), EXPERTS, torch.randn(2, 4))


def test_code_that_counts_experts_by_a_number_leaves_the_model_as_it_was():
    class Counting(Listed):
        def forward(self, x):
            weights, chosen = self.pick(self.gate(x))
            return sum(self.experts[at](x) * (weights * (chosen == at)).sum(-1, keepdim=True) for at in range(4))

    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 8), Counting(), nn.Linear(8, 3)).eval(), torch.randn(32, 5)
    before = fingerprint(model)
    with pytest.raises(ShrinkError, match=r"1\.experts\.\d.*as it was"):
        plan(model, EXPERTS, x)
    assert fingerprint(model) == before
    assert not hasattr(model, "torchpare_structure")


def test_a_router_that_would_choose_otherwise_is_found_out():
    class Odd(Listed):
        def pick(self, logits):
            return (logits.softmax(-1) * logits.shape[-1]).topk(self.chosen)  # what it gives depends on the count

    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 8), Odd(), nn.Linear(8, 3)).eval(), torch.randn(32, 5)
    before = fingerprint(model)
    with pytest.raises(ProofError, match="something else"):
        plan(model, EXPERTS, x).apply()
    assert fingerprint(model) == before


def test_neither_a_mask_nor_a_graph_can_say_it():
    model, x = listed()
    found = plan(model, EXPERTS, x)
    with pytest.raises(ShrinkError, match="experts"):
        found.mask()
    with pytest.raises(ShrinkError, match="experts"):
        plan(model, EXPERTS, x, literals="trace").graph()


def test_what_does_not_route_is_no_mixture_that_routes():
    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(3, 8)
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x) + self.table.weight.sum(0)
            return x

    model = Blocks()
    assert find_mixtures(model)  # by its build it could be one
    with pytest.raises(ConfigError):
        plan(model, EXPERTS, torch.randn(2, 8))


def test_gradients_and_marks_of_what_stays_are_kept():
    model, x = listed()
    model(x).sum().backward()
    model[1].gate.weight.mark = "mine"
    whole = model[1].gate.weight.grad.clone()
    found = plan(model, EXPERTS, x)
    assert model[1].gate.weight.mark == "mine"
    found.apply()
    kept = [at for at in range(4) if at not in found.experts["1.experts"]]
    assert model[1].gate.weight.mark == "mine"
    assert torch.equal(model[1].gate.weight.grad, whole[kept])
