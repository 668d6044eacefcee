"""Integers that remember where they came from still are the integers they were."""

from __future__ import annotations

import copy
import operator
import pickle

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from torchpare.graph.sizes import Attribute, BinaryOp, Const, Dim, Size, attributes, evaluate, expression, solve

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
    assert evaluate(expression(sized), value, value) == plain


@given(arithmetic)
def test_an_expression_knows_the_attributes_it_reads(tree):
    names = [leaf for leaf in str(tree).split() if "net." in leaf]
    found = list(attributes(expression(compute(tree, plain=False))))
    assert {WIDTH, GROUPS} >= set(found)
    assert bool(found) == any(isinstance(expression(leaf), Attribute) for leaf in _leaves(tree)), names


def _leaves(tree):
    if isinstance(tree, tuple):
        return [*_leaves(tree[1]), *_leaves(tree[2])]
    return [tree]


chains = st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(1, 9), st.booleans()), max_size=4)


@given(chains, st.integers(1, 30))
def test_solving_for_an_attribute_and_evaluating_gives_it_back(chain, target):
    expr = WIDTH
    for symbol, number, swapped in chain:
        expr = BinaryOp(symbol, Const(number), expr) if swapped else BinaryOp(symbol, expr, Const(number))
    try:
        answer = solve(expr, target, WIDTH, lambda part: evaluate(part, value, value))
        again = None if answer is None else evaluate(expr, value, lambda _: answer)
    except ZeroDivisionError:
        return
    assert again in (None, target)
    if all(symbol in "+-" for symbol, *_ in chain):
        assert again == target, "a sum can always be solved"


@pytest.mark.parametrize(
    ("expr", "target", "answer"),
    [
        (WIDTH, 5, 5),
        (BinaryOp("*", WIDTH, Const(9)), 27, 3),
        (BinaryOp("*", Const(9), WIDTH), 28, None),
        (BinaryOp("+", WIDTH, Const(1)), 5, 4),
        (BinaryOp("-", WIDTH, Const(1)), 5, 6),
        (BinaryOp("-", Const(12), WIDTH), 5, 7),
        (BinaryOp("//", WIDTH, Const(2)), 3, 6),
        (BinaryOp("//", Const(12), WIDTH), 4, 3),
        (BinaryOp("%", WIDTH, Const(5)), 3, None),
        (BinaryOp("*", BinaryOp("-", WIDTH, Const(1)), Const(2)), 6, 4),
    ],
)
def test_an_attribute_is_solved_for_where_there_is_one_whole_answer(expr, target, answer):
    assert solve(expr, target, WIDTH, lambda part: evaluate(part, value, value)) == answer


def test_sizes_that_outlive_the_recording_are_plain_integers():
    size = Size(5, WIDTH)
    assert type(pickle.loads(pickle.dumps(size))) is int
    assert type(copy.copy(size)) is int
    assert copy.deepcopy({"size": size})["size"] is size  # inside the recording they stay what they are


def test_numbers_that_lost_their_origin_are_constants():
    assert expression(int(Size(5, WIDTH))) == Const(5)
    assert expression(Size(5, WIDTH) * 1.0) == Const(5)
    assert str(expression(Size(5, WIDTH) * 2 + Size(12, Dim(3, 1)))) == "((net.width * 2) + size(1))"
