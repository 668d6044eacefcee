"""`plan` says what would go before anything is touched, and `apply` does just that."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import torchpare
from tests.networks.oracles import exact_output, fingerprint, masked_by_hand, relative
from tests.support.attention import tokens
from torchpare import plan
from torchpare.errors import ConfigError, ShrinkError
from torchpare.speedup.verify import bisimulate, retrace

GOLDEN = Path(__file__).parents[1] / "golden"
ALL = [{"sparsity": 0.5, "structures": ["all"]}]


def residual():
    """Two convolutions that share channels, a grouped one, and a classifier."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 3, padding=1)
            self.one = nn.Conv2d(16, 24, 3, padding=1)
            self.norm = nn.BatchNorm2d(24)
            self.grouped = nn.Conv2d(24, 24, 3, padding=1, groups=4)
            self.two = nn.Conv2d(24, 16, 1)
            self.head = nn.Linear(16, 5)

        def forward(self, x):
            x = self.stem(x)
            y = self.grouped(torch.relu(self.norm(self.one(x))))
            return self.head(torch.relu(x + self.two(y)).mean((2, 3)))

    torch.manual_seed(0)
    return Net().eval(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


NETS = {"residual": residual, "tokens": tokens}


@pytest.mark.parametrize("name", NETS)
def test_the_table_of_a_plan_is_as_it_was(name):
    model, x = NETS[name]()
    found = str(plan(model, ALL, x))
    path = GOLDEN / f"plan_{name}.txt"
    assert found.splitlines() == path.read_text(encoding="utf-8").splitlines(), f"if it should be, write it to {path}"


@pytest.mark.parametrize("name", NETS)
def test_planning_touches_nothing_and_applying_does_what_was_planned(name):
    model, x = NETS[name]()
    before, dense = fingerprint(model), copy.deepcopy(model)
    found = plan(model, ALL, x)
    assert fingerprint(model) == before
    report = found.apply()
    assert report.largest_difference <= 1e-10
    assert report.output_change > 1e-3
    assert (report.parameters_before, report.parameters_after) == found.parameters
    assert sum(parameter.numel() for parameter in model.parameters()) == found.parameters[1]
    assert relative(exact_output(masked_by_hand(dense, found.masks()), x), exact_output(model, x)) < 1e-6
    assert retrace(model, x, found.removal) > 10


def test_a_second_look_at_the_small_model_finds_the_sizes_that_were_planned():
    model, x = residual()
    found = plan(model, ALL, x)
    found.apply()
    again = plan(model, [{"sparsity": 0.0, "structures": ["all"]}], x)
    assert [(group.kind, group.name, group.before) for group in again.groups] == [
        (group.kind, group.name, group.after) for group in found.groups if group.after > 1
    ]


def test_removing_nothing_is_the_identity():
    model, x = tokens()
    found = plan(model, [{"sparsity": 0.0, "structures": ["all"]}], x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = found.apply()
    assert found.removal.empty
    assert report.largest_difference == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


STRUCTURES = {
    "heads": {"layers.0.qkv.weight": (36, 20), "layers.0.out.weight": (20, 12), "layers.0.up.weight": (28, 20)},
    "head_dim": {"layers.0.qkv.weight": (36, 20), "layers.0.out.weight": (20, 12), "layers.0.up.weight": (28, 20)},
    "mlp": {"layers.0.qkv.weight": (72, 20), "layers.0.out.weight": (20, 24), "layers.0.up.weight": (14, 20)},
    "embedding": {"layers.0.qkv.weight": (72, 10), "layers.0.out.weight": (10, 24), "embed.weight": (11, 10)},
}


@pytest.mark.parametrize("kind", STRUCTURES)
def test_a_structure_is_chosen_by_its_word_alone(kind):
    model, x = tokens()
    report = plan(model, [{"sparsity": 0.5, "structures": [kind]}], x).apply()
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert {name: shapes[name] for name in STRUCTURES[kind]} == STRUCTURES[kind]
    assert report.exact, str(report)


def test_the_attributes_follow():
    model, x = tokens()
    plan(model, [{"sparsity": 0.5, "structures": ["heads", "head_dim"]}], x).apply()
    assert [(layer.heads, layer.head_dim) for layer in model.layers] == [(2, 3)] * 3


def test_whole_groups_of_convolutions_go_and_the_number_of_groups_follows():
    model, x = residual()
    plan(model, [{"sparsity": 0.5, "structures": ["groups"]}], x).apply()
    assert (model.grouped.groups, tuple(model.grouped.weight.shape)) == (2, (12, 6, 3, 3))
    assert model.one.out_channels == 12


def test_entries_by_name_and_a_later_one_wins():
    model, x = tokens()
    config = [
        {"sparsity": 0.5, "structures": ["mlp"]},
        {"sparsity": 0.75, "structures": ["mlp"], "op_names": ["layers.1"]},
        {"exclude": True, "op_names": ["layers.2.gate"]},
    ]
    plan(model, config, x).apply()
    assert [layer.up.out_features for layer in model.layers] == [14, 7, 28]


def test_an_excluded_group_is_not_even_changed_to_follow_another():
    class Tied(nn.Module):  # heads * head_dim must be the width of the stream
        def __init__(self):
            super().__init__()
            self.enter, self.qkv, self.out = nn.Linear(7, 24), nn.Linear(24, 72), nn.Linear(24, 24)
            self.heads, self.leave = 4, nn.Linear(24, 5)

        def forward(self, x):
            x = self.enter(x)
            n, length, c = x.shape
            q, k, v = self.qkv(x).view(n, length, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
            weights = (q @ k.transpose(-2, -1) * 0.3).softmax(-1)
            return self.leave(x + self.out((weights @ v).transpose(1, 2).reshape(n, length, c)))

    torch.manual_seed(0)
    model, x = Tied().eval(), torch.randn(2, 5, 7)
    followed = copy.deepcopy(model)
    config = [{"sparsity": 0.5, "structures": ["embedding"]}]
    plan(followed, config, x).apply()
    assert followed.enter.out_features == 12
    assert followed.heads * (followed.out.in_features // followed.heads) == 12
    kept = [*config, {"exclude": True, "structures": ["heads", "head_dim"]}]
    found = plan(model, kept, x)
    assert found.removal.empty
    assert any(group.why and "c // " not in group.why for group in found.groups if group.kind == "embedding")


@pytest.mark.parametrize("multiple", [4, 8])
def test_widths_are_rounded_to_multiples_where_groups_are_that_large(multiple):
    model, x = residual()
    found = plan(model, [{"sparsity": 0.6, "structures": ["channels"], "round_to": multiple}], x)
    found.apply()
    assert model.stem.out_channels % multiple == 0
    assert model.stem.out_channels < 16


def test_outputs_that_do_not_matter_hold_nothing_back():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(7, 12), nn.Linear(12, 5)

        def forward(self, x):
            hidden = torch.relu(self.body(x))
            return {"hidden": hidden, "logits": self.head(hidden)}

    torch.manual_seed(0)
    x = torch.randn(3, 7)
    kept = Two().eval()
    assert not plan(kept, ALL, x).groups
    plan(kept, ALL, x, outputs=lambda output: output["logits"]).apply()
    assert kept.body.out_features == 6


def test_scores_of_ones_own_decide_what_stays():
    model, x = residual()
    scores = {"stem.weight": torch.zeros(16, 3, 3, 3)}
    scores["stem.weight"][[1, 5, 6, 7, 8, 11, 14, 15]] = 1
    wanted = model.stem.weight.detach()[[1, 5, 6, 7, 8, 11, 14, 15]].clone()
    plan(model, [{"sparsity": 0.5, "structures": ["channels"], "op_names": ["stem", "two"]}], x, scores=scores).apply()
    assert torch.equal(model.stem.weight, wanted)


def test_weights_on_the_meta_device_suffice_for_a_plan():
    with torch.device("meta"):
        model = tokens()[0].__class__()
    found = plan(model, ALL, torch.zeros(2, 5, dtype=torch.long, device="meta"))
    assert found.parameters[1] < 0.5 * found.parameters[0]
    assert found.macs[1] < 0.5 * found.macs[0]


def test_what_a_group_saves_is_what_the_model_loses_when_it_alone_goes():
    for name in ("layers.1.gate", "embed"):
        model, x = tokens()
        group = next(g for g in plan(model, ALL, x).groups if g.name == name)
        config = [{"sparsity": 0.5, "structures": [group.kind], "op_names": list(group.layers)}]
        alone = plan(model, config, x)
        assert alone.parameters[0] - alone.parameters[1] == group.parameters_saved
        assert alone.macs[0] - alone.macs[1] == group.macs_saved


def test_multiply_accumulates_are_those_of_the_formula():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, groups=1), nn.Conv2d(8, 8, 3, groups=4), nn.Flatten(), nn.Linear(8 * 16, 5)
    )
    found = plan(model, [{"sparsity": 0.0, "structures": ["all"]}], torch.randn(2, 3, 8, 8))
    assert found.macs[0] == 2 * (8 * 36 * 27 + 8 * 16 * 2 * 9 + 128 * 5)


WRONG = {
    "structure": ([{"sparsity": 0.5, "structures": ["haeds"]}], r"\['structures'\]\[0\].*did you mean 'heads'"),
    "name": ([{"sparsity": 0.5, "structures": ["mlp"], "op_names": ["layer.0"]}], "did you mean 'layers.0'"),
    "type": ([{"sparsity": 0.5, "structures": ["mlp"], "op_types": ["Conv9d"]}], "no module of Tokens is of type"),
    "nothing": ([{"sparsity": 0.5, "structures": ["groups"]}], "reaches no group of channels of the kind 'groups'"),
    "multiple": ([{"sparsity": 0.5, "structures": ["mlp"], "round_to": 0}], "not a whole number above 0"),
    "text": ([{"sparsity": 0.5, "structures": "mlp"}], r"not a list; give \['mlp'\]"),
    "no stack": ([{"sparsity": 0.5, "structures": ["layers"], "op_names": ["head"]}], "'layers'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_used_is_said_and_nothing_is_touched(name):
    config, message = WRONG[name]
    model, x = tokens()
    before = fingerprint(model)
    with pytest.raises(ConfigError, match=message):
        plan(model, config, x)
    assert fingerprint(model) == before


def test_a_plan_is_data():
    model, x = tokens()
    found = plan(model, [*ALL, {"sparsity": 0.34, "structures": ["layers"]}], x)
    told = json.loads(json.dumps(found.to_dict()))
    assert told["dropped"] == {"layers": [found.dropped["layers"][0]]}
    assert {group["kind"] for group in told["groups"]} == {"heads", "head_dim", "mlp", "embedding"}
    assert told["parameters"][0] > told["parameters"][1]
    assert "it is an output" in told["frozen"]["head"]


def test_numbers_that_nobody_could_see_are_kept_and_the_rest_goes_all_the_same():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.width = 8
            self.seen, self.unseen, self.head = nn.Linear(7, 12), nn.Linear(12, 16), nn.Linear(8, 5)

        def forward(self, x):
            y = self.unseen(torch.relu(self.seen(x))).view(len(x), 2, self.width)
            first = torch.IntTensor([self.width])  # a legacy constructor, which tells nobody
            return self.head(y.sum(1)[:, : int(first[0])] * torch.ones(int(first[0])))

    torch.manual_seed(0)
    model, x = Hidden().eval(), torch.randn(3, 7)
    report = plan(model, ALL, x).apply()
    assert report.largest_difference <= 1e-10
    assert (model.seen.out_features, model.width) == (6, 8)


def test_the_small_model_agrees_operator_by_operator():
    model, x = tokens(nn.LayerNorm)
    dense = copy.deepcopy(model)
    found = plan(model, ALL, x)
    report = found.apply()
    assert not report.exact
    assert report.largest_difference <= 1e-10
    assert set(bisimulate(dense, model, x, found.removal).mismatches) == {"aten.native_layer_norm"}


def test_a_saved_plan_loads_into_a_fresh_model(tmp_path):
    model, x = tokens()
    plan(model, ALL, x).apply()
    torchpare.save(model, tmp_path / "small.safetensors")
    fresh = torchpare.load(tokens()[0], tmp_path / "small.safetensors")
    assert torch.equal(fresh(x), model(x))


def test_a_model_that_cannot_be_made_smaller_is_as_it_was():
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(7, 12), nn.Linear(12, 5)

        def forward(self, x):
            y = self.a(x)
            if "in_features=12," not in repr(self.b):
                raise ValueError("twelve, please")
            return self.b(y)

    torch.manual_seed(0)
    model, x = Stubborn().eval(), torch.randn(3, 7)
    before = fingerprint(model)
    with pytest.raises(ShrinkError, match="twelve, please"):
        plan(model, ALL, x).apply()
    assert fingerprint(model) == before


def test_a_cache_that_comes_back_holds_nothing_back():
    class StepCache:  # as `past_key_values`: handed to the next call, looked at by nobody else
        def __init__(self, keys):
            self.keys = keys

    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(7, 12), nn.Linear(12, 5)

        def forward(self, x):
            hidden = self.body(x)
            return self.head(hidden), StepCache(hidden)

    torch.manual_seed(0)
    model = Caching().eval()
    report = plan(model, ALL, torch.randn(3, 7)).apply()
    assert model.body.out_features == 6
    assert report.exact


def test_what_a_fresh_model_worked_out_before_it_was_loaded_is_forgotten(tmp_path):
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.shift, self.head = nn.Linear(7, 12), nn.Parameter(torch.randn(3, 12)), nn.Linear(12, 5)
            self.cache = {}

        def forward(self, x):
            if "shift" not in self.cache:
                self.cache["shift"] = self.shift.sum(0)
            return self.head(self.body(x) + self.cache["shift"])

    torch.manual_seed(0)
    model, fresh, x = Cached().eval(), Cached().eval(), torch.randn(3, 7)
    with torch.no_grad():
        model(x), fresh(x)  # both have worked something out by now
        plan(model, ALL, x).apply()
        torchpare.save(model, tmp_path / "small.safetensors")
        assert torch.equal(torchpare.load(fresh, tmp_path / "small.safetensors")(x), model(x))


def test_what_the_example_does_not_reach_keeps_its_size():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.extra = nn.Linear(7, 12), nn.Embedding(10, 16)
            self.heads = nn.ModuleList(nn.Linear(12, 5) for _ in range(2))

        def forward(self, x, at=0):
            return self.heads[at](self.body(x).relu())

    torch.manual_seed(0)
    model = Several().eval()
    with torch.random.fork_rng():
        report = plan(model, ALL, torch.randn(3, 7)).apply()
    assert model.extra.weight.shape == (10, 16)
    assert model.heads[1].weight.shape == model.heads[0].weight.shape == (5, 12)  # they may read the same, or not
    model(torch.randn(3, 7), at=1)
    assert set(report.unreached) == {"extra.weight", "heads.1.weight", "heads.1.bias"}
