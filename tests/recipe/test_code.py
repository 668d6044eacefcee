"""What a run takes for changed: code with all that it uses, and data by its values."""

from __future__ import annotations

import functools
import importlib
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from torchpare.recipe.code import of_data, of_model_code, of_use

SOURCE = """
import functools
from dataclasses import dataclass
import torch
from torch import nn

THRESHOLD = 0.5
CLASSES = ["cat", "dog"]
TABLE = torch.ones(3)
calls = []

def helper(x, power=2):
    return [value ** power for value in x]

@functools.lru_cache(1)
def cached():
    return 1

class Net(nn.Module):
    scale = 3.0

    def forward(self, x):
        return x * self.scale

@dataclass(frozen=True)
class Limit:
    at: float

    def __call__(self, model):
        return model > self.at

def evaluate(model, count=8):
    # a comment
    calls.append(1)
    found = helper(range(count))
    return sum(x > THRESHOLD for x in found) + len(CLASSES) + float(TABLE.sum()) + cached()
"""


@pytest.fixture
def module_of(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two sources of one second and size look alike

    def module(source=SOURCE):
        (tmp_path / "own_code_of_a_test.py").write_text(source, encoding="utf-8")
        sys.modules.pop("own_code_of_a_test", None)
        importlib.invalidate_caches()
        return importlib.import_module("own_code_of_a_test")

    yield module
    sys.modules.pop("own_code_of_a_test", None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("THRESHOLD = 0.5", "THRESHOLD = 0.6"),
        ('["cat", "dog"]', '["cat", "cow"]'),
        ("torch.ones(3)", "torch.zeros(3)"),
        ("power=2", "power=3"),
        ("value ** power", "value + power"),
        ("    return 1\n", "    return 2\n"),
        ("count=8", "count=9"),
    ],
)
def test_a_function_changes_with_what_it_uses(module_of, old, new):
    before = of_use(module_of().evaluate)
    assert of_use(module_of().evaluate) == before
    assert SOURCE.count(old) == 1
    assert of_use(module_of(SOURCE.replace(old, new)).evaluate) != before


def test_comments_other_functions_and_what_a_run_fills_do_not_count(module_of):
    module = module_of()
    before = of_use(module.evaluate)
    module.evaluate(None)
    assert of_use(module.evaluate) == before
    other = SOURCE.replace("# a comment", "# another one") + "\n\ndef unrelated():\n    return THRESHOLD\n"
    assert of_use(module_of(other).evaluate) == before


def test_a_model_changes_with_the_code_of_its_classes(module_of):
    before = of_model_code(nn.Sequential(module_of().Net()))
    for old, new in (("x * self.scale", "x + self.scale"), ("scale = 3.0", "scale = 4.0")):
        assert of_model_code(nn.Sequential(module_of(SOURCE.replace(old, new)).Net())) != before
    assert of_model_code(nn.Sequential(module_of().Net())) == before


def test_objects_closures_and_partial_functions(module_of):
    module = module_of()
    assert of_use(module.Limit(1)) == of_use(module.Limit(1)) != of_use(module.Limit(2))
    assert of_use(functools.partial(module.helper, power=2)) != of_use(functools.partial(module.helper, power=3))

    def closes(over):
        return lambda model: (model, over)

    assert of_use(closes(torch.zeros(2))) == of_use(closes(torch.zeros(2))) != of_use(closes(torch.ones(2)))

    def endless(n):
        return endless(n)

    assert of_use(endless) == of_use(endless)


def test_data_is_known_by_its_values():
    x, y = torch.arange(12.0).view(6, 2), torch.arange(6)
    other = x.clone()
    other[5, 1] = 0

    def all_of(x):
        sets = TensorDataset(x, y)
        return [[(x, y)], [{"x": x}], DataLoader(sets, 2), DataLoader(sets, 3), DataLoader(sets, 2, shuffle=True),
                DataLoader(Subset(sets, [0, 5]), 2), [x.numpy()], None]  # fmt: skip

    first, again, changed = ([of_data(each) for each in all_of(x)] for x in (x, x.clone(), other))
    assert first == again
    assert len(set(first)) == len(first)
    assert all(a != b for a, b in zip(first[:-1], changed[:-1], strict=True))

    class Own(Dataset):
        def __init__(self, values):
            self.values, self.epoch = values, 0

        def __len__(self):
            return len(self.values)

    told = Own(x)
    told.epoch = 3  # as loaders are told of epochs
    assert of_data(Own(x)) == of_data(told) != of_data(Own(other))
    assert of_data([np.array([{}], dtype=object)]) == of_data([np.array([{}], dtype=object)])
