"""Integers that remember where they came from still are the integers they were."""

from __future__ import annotations

import copy
import operator
import pickle

from hypothesis import assume, given
from hypothesis import strategies as st

from torchpare.graph.equations import Equality
from torchpare.graph.sizes import Attribute, Const, Dim, Size, dims, expression

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv, "%": operator.mod}
WIDTH, GROUPS = Attribute("net", "width"), Attribute("net", "groups")
VALUES = {Dim(3, 1): 12, WIDTH: 8, GROUPS: 2}


def value(leaf):
    return VALUES[leaf]


leaves = st.sampled_from([Size(VALUES[leaf], leaf) for leaf in VALUES]) | st.integers(1, 9)
arithmetic = st.recursive(
    leaves, lambda inner: st.tuples(st.sampled_from(sorted(OPERATIONS)), inner, inner), max_leaves=6
)


def compute(tree, plain):
    if isinstance(tree, tuple):
        symbol, left, right = tree
        left, right = compute(left, plain), compute(right, plain)
        assume(right != 0 or symbol not in ("//", "%"))
        return OPERATIONS[symbol](left, right)
    return int(tree) if plain else tree


@given(arithmetic)
def test_arithmetic_is_that_of_plain_integers_and_the_expression_says_the_same(tree):
    sized, plain = compute(tree, plain=False), compute(tree, plain=True)
    assert sized == plain
    equality = Equality(expression(sized), Const(plain), "", "")
    leaves_of = dims(expression(sized))
    assert equality.attributes | set(leaves_of) <= VALUES.keys()
    if not list(dims(expression(sized))):
        assert equality.gap(VALUES) == 0


@given(arithmetic)
def test_an_expression_knows_the_attributes_it_reads(tree):
    names = [leaf for leaf in str(tree).split() if "net." in leaf]
    found = Equality(expression(compute(tree, plain=False)), Const(0), "", "").attributes
    assert {WIDTH, GROUPS} >= set(found)
    assert bool(found) == any(isinstance(expression(leaf), Attribute) for leaf in _leaves(tree)), names


def _leaves(tree):
    if isinstance(tree, tuple):
        return [*_leaves(tree[1]), *_leaves(tree[2])]
    return [tree]


def test_sizes_that_outlive_the_recording_are_plain_integers():
    size = Size(5, WIDTH)
    assert type(pickle.loads(pickle.dumps(size))) is int
    assert type(copy.copy(size)) is int
    assert copy.deepcopy({"size": size})["size"] is size  # inside the recording they stay what they are


def test_numbers_that_lost_their_origin_are_constants():
    assert expression(int(Size(5, WIDTH))) == Const(5)
    assert expression(Size(5, WIDTH) * 1.0) == Const(5)
    assert str(expression(Size(5, WIDTH) * 2 + Size(12, Dim(3, 1)))) == "((net.width * 2) + size(1))"
