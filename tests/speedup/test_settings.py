"""Sizes that a module keeps in a dict, in an object of settings or under a private name follow what they measure."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import nn

from torchpare import load, plan, save
from torchpare.errors import CheckpointError


class Shape(NamedTuple):
    heads: int
    width: int


@dataclass(frozen=True)
class Options:
    shape: Shape


@dataclass(slots=True)
class Slots:
    heads: int = 4
    width: int = 6


@dataclass(frozen=True, slots=True)
class FrozenSlots:
    heads: int = 4
    width: int = 6


class ReadOnly:
    def __init__(self):
        vars(self).update(heads=4, width=6)

    @property
    def heads(self):
        return vars(self)["heads"]

    @property
    def width(self):
        return vars(self)["width"]


class Plain:
    def __init__(self):
        self.heads, self.width, self.name = 4, 6, "small"


def heads_and_width(heads, *, width):
    return heads, width


class Attention(nn.Module):
    """Heads whose number and width are kept wherever `keep` puts them."""

    heads_of_all = 4
    of_all = {"width": 6}  # noqa: RUF012 - as users write it

    def __init__(self, keep, sizes):
        super().__init__()
        self.sizes = sizes
        self.q, self.k, self.v, self.o = nn.Linear(7, 24), nn.Linear(7, 24), nn.Linear(7, 24), nn.Linear(24, 3)
        keep(self)

    def forward(self, x):
        heads, width = self.sizes(self)
        q, k, v = (y.view(*x.shape[:2], heads, width).transpose(1, 2) for y in (self.q(x), self.k(x), self.v(x)))
        scores = (q @ k.transpose(-1, -2)).softmax(-1)
        return self.o((scores @ v).transpose(1, 2).reshape(*x.shape[:2], heads * width))


PLACES = {
    "a dict": (lambda m: setattr(m, "cfg", {"heads": 4, "width": 6}), lambda m: (m.cfg["heads"], m.cfg["width"])),
    "an ordered dict": (
        lambda m: setattr(m, "cfg", OrderedDict(heads=4, width=6)),
        lambda m: (m.cfg["heads"], m.cfg["width"]),
    ),
    "an object": (
        lambda m: setattr(m, "cfg", SimpleNamespace(heads=4, width=6)),
        lambda m: (m.cfg.heads, m.cfg.width),
    ),
    "private names": (lambda m: m.__dict__.update(_heads=4, _width=6), lambda m: (m._heads, m._width)),
    "a dict in a dict": (
        lambda m: setattr(m, "_cfg", {"attention": {"heads": 4, "width": 6}, "name": "small"}),
        lambda m: (m._cfg["attention"]["heads"], m._cfg["attention"]["width"]),
    ),
    "rows of dicts": (
        lambda m: setattr(m, "stages", [{"heads": 1}, {"heads": 4, 3: 6}]),
        lambda m: (m.stages[1]["heads"], m.stages[1][3]),
    ),
    "rows of rows": (lambda m: setattr(m, "rows", ((1, 2), (4, 6))), lambda m: m.rows[1]),
    "a named tuple": (lambda m: setattr(m, "shape", Shape(4, 6)), lambda m: (m.shape.heads, m.shape.width)),
    "a shape": (lambda m: setattr(m, "shape", torch.Size([4, 6])), lambda m: m.shape),
    "fields of fields": (
        lambda m: setattr(m, "cfg", Options(Shape(4, 6))),
        lambda m: (m.cfg.shape.heads, m.cfg.shape.width),
    ),
    "slots": (lambda m: setattr(m, "cfg", Slots()), lambda m: (m.cfg.heads, m.cfg.width)),
    "frozen slots": (lambda m: setattr(m, "cfg", FrozenSlots()), lambda m: (m.cfg.heads, m.cfg.width)),
    "read-only properties": (lambda m: setattr(m, "hp", ReadOnly()), lambda m: (m.hp.heads, m.hp.width)),
    "a plain object": (lambda m: setattr(m, "hp", Plain()), lambda m: (m.hp.heads, m.hp.width)),
    "a partial function": (
        lambda m: setattr(m, "sizes_of", partial(heads_and_width, 4, width=6)),
        lambda m: m.sizes_of(),
    ),
    "its class": (lambda m: None, lambda m: (m.heads_of_all, m.of_all["width"])),
    "a private name of an object": (
        lambda m: setattr(m, "cfg", SimpleNamespace(_heads=4, width=6)),
        lambda m: (m.cfg._heads, m.cfg.width),
    ),
}


def tokens():
    return torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("place", PLACES)
def test_sizes_follow_wherever_they_are_kept(place, tmp_path):
    torch.manual_seed(0)
    keep, sizes = PLACES[place]
    model, fresh = Attention(keep, sizes), Attention(keep, sizes)
    report = plan(model, [{"sparsity": 0.5, "structures": ["heads"]}], tokens()).apply()
    assert report.largest_difference <= 1e-10
    assert sizes(model) == (2, 6)
    assert type(sizes(model)[0]) is int
    assert sizes(fresh) == (4, 6), "another model holds the same numbers"
    save(model, tmp_path / "small.safetensors")
    load(fresh, tmp_path / "small.safetensors")
    assert torch.equal(fresh(tokens()), model(tokens()))


def test_a_dict_that_two_models_share_is_changed_for_one_alone():
    shared = {"heads": 4, "width": 6, "name": "small"}
    _, sizes = PLACES["a dict"]
    one, two = (Attention(lambda m: setattr(m, "cfg", shared), sizes) for _ in range(2))
    plan(one, [{"sparsity": 0.5, "structures": ["heads"]}], tokens()).apply()
    assert one.cfg == {"heads": 2, "width": 6, "name": "small"}
    assert two.cfg is shared
    assert shared["heads"] == 4


def test_settings_inside_settings_are_copied_with_all_that_holds_them():
    inner = {"heads": 4, "width": 6}
    _, sizes = PLACES["a dict"]
    model = Attention(lambda m: m.__dict__.update(cfg=inner, parts=[{"attention": inner}]), sizes)
    before = model.parts
    plan(model, [{"sparsity": 0.5, "structures": ["heads"]}], tokens()).apply()
    assert model.parts[0]["attention"] is model.cfg
    assert model.cfg["heads"] == 2
    assert before == [{"attention": {"heads": 4, "width": 6}}]


def test_settings_that_hold_each_other_are_read_once():
    _, sizes = PLACES["an object"]
    config = SimpleNamespace(heads=4, width=6)
    config.itself = config
    model = Attention(lambda m: setattr(m, "cfg", config), sizes)
    plan(model, [{"sparsity": 0.5, "structures": ["heads"]}], tokens()).apply()
    assert (model.cfg.heads, config.heads) == (2, 4)


def holds_itself(m):
    m.cfg = {"heads": 4, "width": 6}
    m.cfg["itself"] = m.cfg


def holds_what_holds_it(m):
    m.cfg = SimpleNamespace(heads=4, width=6)
    m.cfg.part = m.part = SimpleNamespace(whole=m.cfg, rows=([m.cfg],))


LOOPS = {
    "itself": (holds_itself, lambda m: (m.cfg["itself"]["heads"], m.cfg["width"])),
    "its part": (holds_what_holds_it, lambda m: (m.part.whole.heads, m.cfg.part.rows[0][0].width)),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_sizes_follow_in_settings_that_are_found_in_themselves(loop, tmp_path):
    keep, sizes = LOOPS[loop]
    torch.manual_seed(0)
    model, fresh = Attention(keep, sizes), Attention(keep, sizes)
    plan(model, [{"sparsity": 0.5, "structures": ["heads"]}], tokens()).apply(verify=False)
    assert (sizes(model), sizes(fresh)) == ((2, 6), (4, 6))
    save(model, tmp_path / "small.safetensors")
    load(fresh, tmp_path / "small.safetensors")
    assert torch.equal(fresh(tokens()), model(tokens()))


def test_rows_that_hold_themselves_are_no_hindrance():
    def keep(m):
        m.hp = Plain()
        m.hp.rows = [1]
        m.hp.rows.append(m.hp.rows)

    model = Attention(keep, PLACES["a plain object"][1])
    plan(model, [{"sparsity": 0.5, "structures": ["heads"]}], tokens()).apply()
    assert model.hp.heads == 2


def test_files_set_no_number_that_is_not_there(tmp_path):
    keep, sizes = PLACES["a dict"]
    model = Attention(keep, sizes)
    plan(model, [{"sparsity": 0.5, "structures": ["heads"]}], tokens()).apply()
    save(model, tmp_path / "small.safetensors")
    for other in ({"heads": "4", "width": 6}, {"width": 6}, ["heads"]):
        fresh = Attention(lambda m, other=other: setattr(m, "cfg", copy.copy(other)), sizes)
        with pytest.raises(CheckpointError, match=r"cfg\.heads"):
            load(fresh, tmp_path / "small.safetensors")


@dataclass(slots=True)
class Given:
    x: torch.Tensor
    y: object = None


class Told(nn.Module):
    """Reads and returns tensors in slots."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, given):
        told = self.a(given.x)
        return Given(self.b(told), told if given.y else None)


def test_tensors_in_slots_are_read_and_are_outputs():
    model, x = Told(), torch.randn(4, 3)
    assert plan(Told(), [{"sparsity": 0.5, "structures": ["all"]}], Given(x, y=True)).removal.empty
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], Given(x)).apply()
    assert report.largest_difference <= 1e-10
    assert model.a.out_features == 4
