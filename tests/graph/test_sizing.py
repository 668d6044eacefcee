"""Cells, variables and polynomials: the numbers that a removal is decided by are those that one can count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.graph.nets import image, net
from tests.networks.sequence_strategies import sequence_recipes
from torchpare.graph import analyse
from torchpare.graph.removal import spread

some = settings(max_examples=20)


def steps():
    return torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def plain():
    return net(lambda m, x: m.b(torch.relu(m.a(x))), a=nn.Conv2d(3, 5, 1), b=nn.Conv2d(5, 2, 1)), image()


def residual():
    model = net(
        lambda m, x: m.c(m.a(x) + m.b(torch.relu(m.a(x)))),
        a=nn.Conv2d(3, 5, 1),
        b=nn.Conv2d(5, 5, 1),
        c=nn.Conv2d(5, 2, 1),
    )
    return model, image()


def concat():
    model = net(
        lambda m, x: m.c(torch.cat([m.a(x), m.b(x), m.a(x)], 1)),
        a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 3, 1), c=nn.Conv2d(11, 2, 1),
    )  # fmt: skip
    return model, image()


def grouped():
    model = net(
        lambda m, x: m.c(torch.relu(m.b(torch.relu(m.a(x))))),
        a=nn.Conv2d(3, 12, 1), b=nn.Conv2d(12, 6, 1, groups=3), c=nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    return model, image()


def heads():
    def run(m, x):
        b, n, _ = x.shape
        q, k, v = m.qkv(x).view(b, n, 3, m.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return m.out(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))

    return net(run, qkv=nn.Linear(3, 24), out=nn.Linear(8, 3), attributes={"heads": 2}), steps()


def flat():
    return net(lambda m, x: m.b(torch.relu(m.a(x)).flatten(1)), a=nn.Conv2d(3, 4, 1), b=nn.Linear(4 * 36, 2)), image()


NETS = {function.__name__: function for function in (plain, residual, concat, grouped, heads, flat)}


def sizing_of(name):
    model, x = NETS[name]()
    return analyse(model, x).sizing


def kept_of(sizing, layer):
    """The polynomial of the channels that a layer makes."""
    labels = sizing.space.channels(layer).classes
    return sizing.polynomial(labels)


def size_of(sizing, polynomial):
    return sorted((count, sorted(sizing.size[v] for v in key)) for key, count in polynomial.terms.items())


@pytest.mark.parametrize(
    ("name", "layer", "terms"),
    [
        ("plain", "a", [(1, [5])]),
        ("plain", "b", [(2, [])]),  # outputs stay: a constant
        ("residual", "b", [(1, [5])]),
        ("grouped", "a", [(1, [3, 4])]),  # groups times slots
        ("grouped", "b", [(1, [2, 3])]),
        ("heads", "qkv", [(3, [2, 4])]),  # one view makes queries, keys and values equally wide
        ("flat", "a", [(1, [4])]),
    ],
)
def test_the_length_of_an_axis_is_a_polynomial_of_what_its_parts_keep(name, layer, terms):
    sizing = sizing_of(name)
    assert size_of(sizing, kept_of(sizing, layer)) == terms


def test_what_lies_there_several_times_counts_several_times():
    sizing = sizing_of("concat")
    columns = sizing.space.axes(sizing.space.values["c.weight"].uid)[1]
    assert size_of(sizing, sizing.polynomial(columns)) == [(1, [3]), (2, [4])]
    sizing = sizing_of("flat")
    columns = sizing.space.axes(sizing.space.values["b.weight"].uid)[1]
    assert size_of(sizing, sizing.polynomial(columns)) == [(36, [4])]


def test_groups_that_keep_equally_many_share_a_variable_and_choose_for_themselves():
    sizing = sizing_of("grouped")
    rows = {variable: len(sizing.members(variable)) for variable in sizing.size}
    assert sorted((sizing.size[v], rows[v]) for v in rows) == [(2, 3), (3, 1), (4, 3)]
    outer = next(v for v in rows if sizing.size[v] == 3)
    assert sizing.outer == {outer}
    assert sizing.inner == rows.keys() - {outer}


def test_a_residual_is_one_cell():
    sizing = sizing_of("residual")
    assert len(sizing.cells) == 1
    assert sizing.size[int(sizing.variable_of[0])] == 5
    assert sizing.equations == []


def dropped(sizing, seed):
    """Random atoms of every cell: of all cells of a variable equally many, at least one stays."""
    dice = np.random.default_rng(seed)
    kept = {v: n if v in sizing.fixed else int(dice.integers(1, n + 1)) for v, n in sizing.size.items()}
    gone = np.zeros(sizing.space.size, dtype=bool)
    for cell, atoms in enumerate(sizing.cells):
        gone[dice.permutation(atoms)[kept[int(sizing.variable_of[cell])] :]] = True
    return kept, spread(sizing.space, gone)


def check_counts(sizing, seed):
    """Every row of every parameter keeps as many entries as its polynomial says, whichever atoms go."""
    rows = [row for array in sizing.space.all_rows() for row in sizing.space.canonical(array)]
    polynomials = [sizing.polynomial(row) for row in rows]
    kept, gone = dropped(sizing, seed)
    for row, polynomial in zip(rows, polynomials, strict=True):
        expected = sum(count * int(np.prod([kept[v] for v in key])) for key, count in polynomial.terms.items())
        found = int((~gone[row]).sum())
        vanished = found == 0 and gone[row].all()  # the slots of a group that goes
        assert found == expected or vanished


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", range(5))
def test_a_polynomial_counts_what_is_kept_whichever_atoms_go(name, seed):
    check_counts(sizing_of(name), seed)


@some
@given(sequence_recipes(3), st.integers(0, 999))
def test_polynomials_of_random_networks_count_what_is_kept(recipe, seed):
    check_counts(analyse(recipe.build(), recipe.input()).sizing, seed)


@some
@given(sequence_recipes(3))
def test_cells_are_parts_of_all_atoms_and_equations_hold_as_the_model_is(recipe):
    sizing = analyse(recipe.build(), recipe.input()).sizing
    for cell, atoms in enumerate(sizing.cells):
        assert (sizing.cell_of[atoms] == cell).all()
        assert len(atoms) == sizing.size[int(sizing.variable_of[cell])]
        assert all(sizing.space.atoms(int(atom)) == {int(atom)} for atom in atoms)
    values = {**sizing.space.program.attributes, **sizing.size}
    assert all(equation.holds(values) for equation in sizing.equations)
    assert not sizing.outer & sizing.inner


def test_the_attributes_of_a_view_follow_its_axes():
    sizing = sizing_of("heads")
    heads = next(iter(sizing.outer))
    solution = sizing.solve({heads: 1}, first=[heads])
    assert solution.kept[heads] == 1
    assert {str(attribute): value for attribute, value in solution.attributes.items()} == {"heads": 1}


def test_solving_for_nothing_keeps_everything():
    for name in NETS:
        sizing = sizing_of(name)
        solution = sizing.solve({})
        assert solution.kept == sizing.size
        assert all(sizing.space.program.attributes[a] == value for a, value in solution.attributes.items())


def test_a_lowest_number_is_respected():
    sizing = sizing_of("plain")
    (variable,) = sizing.size
    assert sizing.solve({variable: 1}, {variable: 4}).kept == {variable: 4}
    assert sizing.solve({variable: 3}, multiple={variable: 2}).kept == {variable: 4}
