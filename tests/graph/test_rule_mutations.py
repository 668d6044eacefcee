"""Every rule is broken on purpose, in every way of a list, and some judge has to notice.

Three mutations: the labels of one output lie one entry further along; the rule forgets what it forbids; the rule
forgets what it ties together. The judges are the analysis itself, the run of the small model, the proof against the
masked model, the comparison operator by operator.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from tests.networks.rule_nets import NETS
from torchpare import plan
from torchpare.errors import TorchpareError
from torchpare.graph.flow import Flow
from torchpare.graph.program import Op
from torchpare.graph.rules import apply, table
from torchpare.speedup import ModelSpeedup
from torchpare.speedup.verify import bisimulate

pytestmark = pytest.mark.slow


class Mutant:
    """A rule that does one thing wrong, and counts how often that made a difference."""

    def __init__(self, rule: table.Rule, how: str) -> None:
        self.rule, self.how, self.hits = rule, how, 0

    def __call__(self, flow: Flow, op: Op) -> None:
        with pytest.MonkeyPatch.context() as patch:
            if self.how == "rolled":
                patch.setattr(flow, "define", lambda uid, axes: Flow.define(flow, uid, self.rolled(flow, uid, axes)))
            elif self.how == "unfrozen":
                patch.setattr(flow.store, "freeze", lambda labels, why: self.count(flow.store.find(labels).any()))
            else:
                unify = lambda left, right, why: self.count((flow.store.find(left) != flow.store.find(right)).any())  # noqa: E731
                patch.setattr(flow.store, "unify", unify)
            self.rule(flow, op)

    def count(self, hit: bool) -> None:
        self.hits += bool(hit)

    def rolled(self, flow: Flow, uid: int, axes) -> list[np.ndarray]:
        arrays = list(axes)
        for axis, array in enumerate(arrays):
            shifted = np.roll(array, 1, axis)
            if uid not in flow.axes and (flow.store.find(array) != flow.store.find(shifted)).any():
                arrays[axis], self.hits = shifted, self.hits + 1
                break
        return arrays


def rules() -> Iterator[tuple[str, table.Rule]]:
    """Every function in the table, once."""
    yield from {function.__name__: function for function in table._RULES.values()}.items()


def noticed(model, x) -> bool:
    """Whether any judge objects to removing a part of the channels."""
    for sparsity in (0.34, 0.5):
        dense, small = copy.deepcopy(model), copy.deepcopy(model)
        try:
            made = plan(small, [{"sparsity": sparsity, "structures": ["all"]}], x)
            report = ModelSpeedup.of_removal(small, x, made.removal)
        except (TorchpareError, AssertionError, IndexError, ValueError):
            return True
        result = bisimulate(dense, small, x, made.removal)
        if not report.changes and (result.mismatches or result.incomparable):
            return True
    return False


@pytest.mark.parametrize("name", sorted(name for name, _ in rules()))
def test_the_nets_of_a_rule_use_it_and_pass_unbroken(name):
    for build in NETS[name]:
        model, x = build()
        mutant = Mutant(dict(rules())[name], "rolled")
        assert not noticed(model, x)
        with broken(name, mutant):
            plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x)


def broken(name: str, mutant: Mutant) -> ExitStack:
    """While this lasts, a rule is replaced by a mutant of it."""
    stack = ExitStack()
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    for operator, function in list(table._RULES.items()):
        if function.__name__ == name:
            patch.setitem(table._RULES, operator, mutant)
    if name == "pointwise":
        patch.setattr(apply, "pointwise", mutant)
    return stack


def outcome(name: str, how: str) -> str:
    hits = 0
    for build in NETS[name]:
        model, x = build()
        mutant = Mutant(dict(rules())[name], how)
        with broken(name, mutant):
            found = noticed(model, x)
        if mutant.hits and found:
            return "caught"
        hits += mutant.hits
    return "missed" if hits else "nothing to break"
