"""Every rule is broken on purpose, in every way of a list, and some judge has to notice.

The judges are the analysis itself, the run of the small model, the proof against the masked model, and the comparison
operator by operator. A rule for which no net is listed fails, too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from torch import nn

from tests.networks.rule_nets import NETS
from torchpare import plan
from torchpare.errors import TorchpareError
from torchpare.graph.flow import Flow
from torchpare.graph.labels import LabelStore
from torchpare.graph.program import Op
from torchpare.graph.rules import apply, table
from torchpare.speedup import ModelSpeedup
from torchpare.speedup.verify import bisimulate

pytestmark = pytest.mark.slow

MUTATIONS = {
    "rolled": "the labels of an output lie one entry further along",
    "unlinked": "an output has labels of its own",
    "unfrozen": "nothing that the rule forbids is forbidden",
    "untied": "nothing that the rule ties together is tied",
    "unrequired": "no size has to follow what the code computes",
}
NEVER_MET = {
    "linear": "torch hands on the products it consists of, on the devices on which models are recorded",
    "nothing": "its operators make no tensor that channels flow through",
}
HARMLESS = {
    ("constant", "rolled"): "all entries of a constant are alike: only how many there are matters",
    ("like", "rolled"): "the same",
}


class Mutant:
    """A rule that does one thing wrong, and counts how often that made a difference."""

    def __init__(self, rule: table.Rule, how: str) -> None:
        self.rule, self.how, self.hits = rule, how, 0

    def __call__(self, flow: Flow, op: Op) -> None:
        with pytest.MonkeyPatch.context() as patch:
            getattr(self, f"_{self.how}")(flow, patch)
            self.rule(flow, op)

    def _rolled(self, flow: Flow, patch: pytest.MonkeyPatch) -> None:
        def define(uid: int, axes: Any) -> None:
            arrays = list(axes)
            for axis, array in enumerate(arrays if uid not in flow.axes else ()):
                shifted = np.roll(array, 1, axis)
                if (flow.store.find(array) != flow.store.find(shifted)).any():
                    arrays[axis], self.hits = shifted, self.hits + 1
                    break
            Flow.define(flow, uid, arrays)

        patch.setattr(flow, "define", define)

    def _unlinked(self, flow: Flow, patch: pytest.MonkeyPatch) -> None:
        def define(uid: int, axes: Any) -> None:
            arrays = list(axes)
            if uid not in flow.axes and any(size > 1 for size in flow.shape(uid)):
                arrays, self.hits = flow.new(flow.shape(uid)), self.hits + 1
            Flow.define(flow, uid, arrays)

        patch.setattr(flow, "define", define)

    def _unfrozen(self, flow: Flow, patch: pytest.MonkeyPatch) -> None:
        def freeze(labels: Any, why: str) -> None:
            self.hits += bool(flow.store.find(np.asarray(labels)).any())

        def unify(left: Any, right: Any, why: str) -> None:  # what meets something fixed is fixed, as ever
            with pytest.MonkeyPatch.context() as back:
                back.setattr(flow.store, "freeze", lambda labels, why: LabelStore.freeze(flow.store, labels, why))
                LabelStore.unify(flow.store, left, right, why)

        def follow(ref: Any, labels: Any, why: str) -> None:
            loose = {axis for axis, array in labels.items() if flow.shape(ref)[axis] > 1 and not array.any()}
            self.hits += ref.uid not in flow.axes and bool(loose)
            Flow.follow(flow, ref, {axis: array for axis, array in labels.items() if axis not in loose}, why)

        patch.setattr(flow.store, "freeze", freeze)
        patch.setattr(flow.store, "unify", unify)
        patch.setattr(flow, "follow", follow)

    def _untied(self, flow: Flow, patch: pytest.MonkeyPatch) -> None:
        def unify(left: Any, right: Any, why: str) -> None:
            self.hits += bool((flow.store.find(left) != flow.store.find(right)).any())

        def follow(ref: Any, labels: Any, why: str) -> None:
            own = flow.labels(ref)
            for axis, array in labels.items():
                unify(own[axis], array, why)

        patch.setattr(flow.store, "unify", unify)
        patch.setattr(flow, "follow", follow)

    def _unrequired(self, flow: Flow, patch: pytest.MonkeyPatch) -> None:
        def forget(labels: Any, *_: Any, **__: Any) -> None:
            self.hits += not isinstance(labels, np.ndarray) or bool(flow.store.find(labels).any())

        for name in ("require", "pin", "equal"):
            patch.setattr(flow, name, forget)


RULES = {function.__name__: function for function in table._RULES.values()}


@contextmanager
def broken(name: str, mutant: Mutant) -> Iterator[None]:
    """While this lasts, a rule is replaced by a mutant of it."""
    with pytest.MonkeyPatch.context() as patch:
        for operator, function in list(table._RULES.items()):
            if function.__name__ == name:
                patch.setitem(table._RULES, operator, mutant)
        if name == "pointwise":  # which is also the rule of every operator that torch calls so
            patch.setattr(apply, "pointwise", mutant)
        yield


def noticed(model: nn.Module, x: Any, mutant: Mutant | None = None) -> bool:
    """Whether any judge objects to removing a part of the channels."""
    for sparsity in (0.5, 0.34):
        dense, small = copy.deepcopy(model), copy.deepcopy(model)
        try:
            made = plan(small, [{"sparsity": sparsity, "structures": ["all"]}], x)
            if mutant is not None and not mutant.hits:
                return False
            report = ModelSpeedup.of_removal(small, x, made.removal)
        except (TorchpareError, AssertionError, IndexError, ValueError):
            return True
        result = bisimulate(dense, small, x, made.removal)
        if not report.changes and (result.mismatches or result.incomparable):
            return True
    return False


def outcome(name: str, how: str) -> str:
    hits = 0
    for build in NETS[name]:
        model, x = build()
        mutant = Mutant(RULES[name], how)
        with broken(name, mutant):
            if noticed(model, x, mutant) and mutant.hits:
                return "noticed"
        hits += mutant.hits
    return "missed" if hits else "nothing to break"


@pytest.mark.parametrize("name", sorted(RULES.keys() - NEVER_MET.keys()))
def test_a_broken_rule_is_noticed(name):
    for build in NETS[name]:
        assert not noticed(*build()), "the net fails although nothing is broken"
    found = {how: outcome(name, how) for how in MUTATIONS}
    missed = {how for how in found if found[how] == "missed"}
    assert missed == {how for rule, how in HARMLESS if rule == name}
    assert "noticed" in found.values(), f"no net breaks with it: {found}"


def test_rules_that_are_never_met_are_those_that_are_listed():
    """A rule without a net is one that no net can reach: none of the others' nets does."""
    assert NEVER_MET.keys() | NETS.keys() == RULES.keys()
    for builds in NETS.values():
        for build in builds:
            model, x = build()
            mutant = Mutant(RULES["linear"], "unlinked")
            with broken("linear", mutant):
                plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x)
            assert mutant.hits == 0
