"""Whole blocks go by how little they do, with every number that counts them."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import torchpare
from tests.networks.oracles import fingerprint
from tests.support.attention import tokens
from torchpare import plan
from torchpare.errors import CheckpointError, ProofError, ShrinkError
from torchpare.files.dropped import with_dropped
from torchpare.layers.blocks import drop_blocks
from torchpare.speedup.depth import bypassed, find_stacks, influence

DEPTH = [{"sparsity": 0.34, "structures": ["layers"]}]


def with_a_lazy_block(index):
    """Blocks of which one adds next to nothing."""
    model, x = tokens(nn.LayerNorm)
    with torch.no_grad():
        for layer in (model.layers[index].out, model.layers[index].down):
            layer.weight.mul_(1e-3)
            layer.bias.zero_()
    return model, x


def test_influence_is_one_minus_the_cosine():
    x = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    assert influence(x, x) == pytest.approx(0)
    assert influence(x, -x) == pytest.approx(2)
    assert influence(x, torch.tensor([[[0.0, 1.0], [0.0, 5.0]]])) == pytest.approx(0.5)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_block_that_does_least_goes_and_its_neighbours_move_up(index):
    model, x = with_a_lazy_block(index)
    dense = copy.deepcopy(model)
    found = plan(model, DEPTH, x)
    assert found.dropped == {"layers": [index]}
    assert len(model.layers) == 3
    with bypassed(dense, found.dropped):
        reference = dense(x)
    found.apply()
    assert len(model.layers) == model.num_layers == 2
    assert [layer.layer_idx for layer in model.layers] == [0, 1]
    assert torch.equal(model(x), reference)
    assert not torch.equal(model(x), dense(x))


def test_depth_and_width_together_come_back_from_a_file(tmp_path):
    model, x = with_a_lazy_block(1)
    plan(model, [*DEPTH, {"sparsity": 0.5, "structures": ["all"]}], x).apply()
    torchpare.save(model, tmp_path / "small.safetensors")
    fresh = torchpare.load(with_a_lazy_block(1)[0], tmp_path / "small.safetensors")
    assert torch.equal(fresh(x), model(x))
    assert fresh.num_layers == 2


def test_width_before_depth_comes_back_too(tmp_path):
    model, x = with_a_lazy_block(0)
    plan(model, [{"sparsity": 0.5, "structures": ["mlp"], "op_names": ["layers.2"]}], x).apply()
    plan(model, [{"sparsity": 0.7, "structures": ["mlp"], "op_names": ["layers.1"]}], x).apply()
    record = with_dropped(model.torchpare_structure, {"layers": [0]})
    drop_blocks(model, {"layers": [0]})
    model.torchpare_structure = record
    torchpare.save(model, tmp_path / "small.safetensors")
    fresh = torchpare.load(with_a_lazy_block(0)[0], tmp_path / "small.safetensors")
    assert torch.equal(fresh(x), model(x))
    assert [layer.up.out_features for layer in fresh.layers] == [9, 14]


def test_blocks_dropped_twice_are_counted_in_the_original():
    once = with_dropped(None, {"layers": [1, 4]})
    twice = with_dropped(once, {"layers": [0, 2]})  # of 0 2 3 5 ...: the first and the third
    assert twice["dropped"] == {"layers": [0, 1, 3, 4]}


def test_names_behind_a_dropped_block_move_up_in_the_record():
    record = {
        "version": 1,
        "attributes": {"l.2": {"a": 1}, "l.0": {"a": 2}, "l.1": {"a": 3}},
        "added_parameters": ["l.2.bias", "head.bias"],
        "kept": {"l.2.w": {"0": [1]}, "l.1.w": {"0": [0]}},
    }
    moved = with_dropped(record, {"l": [1]})
    assert moved["attributes"] == {"l.1": {"a": 1}, "l.0": {"a": 2}}
    assert moved["added_parameters"] == ["l.1.bias", "head.bias"]
    assert moved["kept"] == {"l.1.w": {"0": [1]}}


def test_putting_back_puts_everything_back():
    model, _ = tokens()
    model.config = SimpleNamespace(num_hidden_layers=3, layer_types=["a", "b", "c"], other=3)
    shared = model.config
    before = fingerprint(model)
    put_back = drop_blocks(model, {"layers": [1]})
    assert vars(model.config) == {"num_hidden_layers": 2, "layer_types": ["a", "c"], "other": 3}
    assert shared.num_hidden_layers == 3  # somebody else may hold it
    put_back()
    assert model.config is shared
    assert fingerprint(model) == before


def test_stacks_whose_blocks_differ_are_left_alone():
    short = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = nn.Sequential(short, nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)))
    assert not find_stacks(model, torch.randn(2, 4))


def test_a_model_that_looks_at_its_blocks_otherwise_is_refused_and_as_it_was():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3))

        def forward(self, x):
            for at, block in enumerate(self.blocks):
                x = x + block(x) / (at + 1)  # depends on the place
            return x

    torch.manual_seed(0)
    model, x = Scaled().eval(), torch.randn(2, 4)
    with torch.no_grad():
        model.blocks[0][0].weight.zero_()
        model.blocks[0][0].bias.zero_()
    before = fingerprint(model)
    with pytest.raises(ProofError, match="with these blocks bypassed"):
        plan(model, DEPTH, x).apply()
    assert fingerprint(model) == before


def test_a_file_that_drops_what_is_not_there_is_refused(tmp_path):
    model, x = with_a_lazy_block(1)
    plan(model, DEPTH, x).apply()
    torchpare.save(model, tmp_path / "small.safetensors")
    other = tokens(nn.LayerNorm, blocks=1)[0]
    before = fingerprint(other)
    with pytest.raises(CheckpointError, match="drops blocks"):
        torchpare.load(other, tmp_path / "small.safetensors")
    assert fingerprint(other) == before


class Counting(nn.Module):
    """Asks for its blocks by number."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Adding() for _ in range(4))

    def forward(self, x):
        for at in range(4):
            x = self.blocks[at](x)
        return x


class Adding(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.layer(x)


def test_code_that_asks_for_blocks_by_number_is_named():
    model = Counting().eval()
    before = fingerprint(model)
    with pytest.raises(
        ShrinkError, match=r"of 'blocks'.*IndexError.*test_depth\.py:\d+: x = self\.blocks\[at\].*by name"
    ):
        plan(model, DEPTH, torch.randn(2, 4))
    assert fingerprint(model) == before


class _Step(nn.Module):
    def __init__(self, strength):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        with torch.no_grad():
            self.linear.weight.mul_(strength)

    def forward(self, x):
        return x + self.linear(torch.tanh(x))


class _Stage(nn.Module):
    def __init__(self, *strengths):
        super().__init__()
        self.steps = nn.ModuleList(_Step(strength) for strength in strengths)

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


class _Nested(nn.Module):
    """Stages of steps: a stack in each block of a stack."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([_Stage(0.01, 0.01), _Stage(3.0, 2.0), _Stage(2.0, 0.02)])
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return self.head(x)


@pytest.mark.parametrize("inner_first", [True, False])
def test_stacks_within_stacks_shrunk_twice_come_back_from_a_file(inner_first, tmp_path):
    torch.manual_seed(0)
    model, x = _Nested(), torch.randn(5, 8)
    last = "stages.2" if inner_first else "stages.1"  # by then the first one is gone
    whole = [
        {"sparsity": 0.5, "structures": ["layers"], "op_names": ["stages"]},
        {"exclude": True, "structures": ["layers"], "op_names": [f"stages.{at}.steps" for at in range(3)]},
    ]
    inside = [{"sparsity": 0.5, "structures": ["layers"], "op_names": [f"{last}.steps"]}]
    for entries in (inside, whole) if inner_first else (whole, inside):
        plan(model, entries, x).apply()
    assert [len(stage.steps) for stage in model.stages] == [2, 1]
    assert model.torchpare_structure["dropped"] == {"stages": [0], "stages.2.steps": [1]}
    plan(model, [{"sparsity": 0.5, "structures": ["embedding"]}], x).apply()
    torchpare.save(model, tmp_path / "small.safetensors")
    again = torchpare.load(_Nested(), tmp_path / "small.safetensors")
    assert torch.equal(again(x), model(x))


def test_names_in_stacks_within_stacks_move_up_by_both():
    record = {**with_dropped(None, {}), "kept": {"a.3.b.2.w": {}, "a.0.b.1.w": {}, "a.3.b.0.w": {}}}
    moved = with_dropped(record, {"a": [0, 2], "a.3.b": [0]})
    assert set(moved["kept"]) == {"a.1.b.1.w"}
    assert moved["dropped"] == {"a": [0, 2], "a.3.b": [0]}
    again = with_dropped(moved, {"a.1.b": [1], "a": [0]})  # of b 1 2 3 ... the second, of a 1 3 4 ... the first
    assert again["dropped"] == {"a": [0, 1, 2], "a.3.b": [0, 2]}
