"""The label store against an oracle that knows nothing but which decisions remove what."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from torchpare.graph.labels import LabelStore


def many(*labels):
    return np.asarray(labels, dtype=np.int64)


def test_fresh_labels_are_all_different_and_none_is_zero():
    store = LabelStore()
    one, two = store.fresh(3), store.fresh((2, 700))
    together = np.concatenate([one, two.ravel()])
    assert len(np.unique(together)) == 3 + 1400
    assert 0 not in together
    assert len(store) == 1 + 3 + 1400


def test_label_zero_is_frozen_from_the_start():
    store = LabelStore()
    assert store.find(many(0)).tolist() == [0]
    assert store.atoms(0) == frozenset()


def test_united_labels_are_one_class():
    store = LabelStore()
    a, b, c, d = store.fresh(4)
    store.unify(many(a, b), many(b, c), "test")
    assert len(np.unique(store.find(many(a, b, c)))) == 1
    assert store.find(many(d)) != store.find(many(a))


def test_uniting_broadcasts():
    store = LabelStore()
    row, grid = store.fresh((1, 3)), store.fresh((2, 3))
    store.unify(row, grid, "test")
    found = store.canonical(grid)
    assert (found[0] == found[1]).all()
    assert len(np.unique(found)) == 3


def test_what_meets_a_frozen_label_is_frozen_and_each_keeps_its_own_reason():
    store = LabelStore()
    a, b, c = store.fresh(3)
    store.freeze(many(a), "first")
    store.freeze(many(a), "second")
    store.unify(many(b), many(0), "met zero")
    store.unify(many(c), many(a), "met a")
    assert store.find(many(a, b, c)).tolist() == [0, 0, 0]
    assert store.reasons([a]) == ["first"]
    assert store.reasons([b]) == ["met zero"]
    assert store.reasons([c]) == ["first"]
    assert store.reasons(many(a, b)) == ["first", "met zero"]


def test_a_composite_goes_with_any_of_its_parts():
    store = LabelStore()
    a, b = store.fresh(2)
    both = store.either(many(a), many(b))[0]
    assert store.atoms(both) == {a, b}
    assert store.either(many(b), many(a))[0] == both, "one label for one set of parts"
    assert store.either(many(a, 0, a), many(0, b, a)).tolist() == [a, b, a]
    whole, part = store.composites()
    assert set(zip(whole.tolist(), part.tolist(), strict=True)) == {(both, a), (both, b)}


def test_freezing_a_composite_freezes_its_parts_but_not_the_other_way_round():
    store = LabelStore()
    a, b, c, d = store.fresh(4)
    ab, cd = store.either(many(a, c), many(b, d))
    store.freeze(many(ab), "test")
    assert store.find(many(a, b, ab)).tolist() == [0, 0, 0]
    store.freeze(many(c), "test")
    assert store.atoms(cd) == {d}
    assert store.canonical(many(cd)) == store.canonical(many(d))


def test_a_composite_united_with_its_part_freezes_the_rest():
    store = LabelStore()
    a, b = store.fresh(2)
    both = store.either(many(a), many(b))
    store.unify(both, many(a), "test")
    assert store.find(many(b)).tolist() == [0]
    assert store.canonical(both) == store.canonical(many(a)) != 0


def test_a_defined_label_is_the_composite_of_its_parts():
    store = LabelStore()
    vector, rows, columns = store.fresh(4), store.fresh((2, 1)), store.fresh((1, 2))
    store.define(vector.reshape(2, 2), [rows, columns], "test")
    for label, (row, column) in zip(vector, itertools.product(rows.ravel(), columns.ravel()), strict=True):
        assert store.atoms(label) == {row, column}


def test_a_grid_defined_twice_has_one_set_of_rows_and_columns():
    store = LabelStore()
    vector = store.fresh(6).reshape(2, 3)
    for _ in range(2):
        store.define(vector, [store.fresh((2, 1)), store.fresh((1, 3))], "test")
    atoms = [store.atoms(label) for label in vector.ravel()]
    assert len(set(atoms)) == 6
    assert len(frozenset.union(*atoms)) == 5


steps = st.lists(
    st.tuples(st.sampled_from(["unify", "freeze", "either"]), st.integers(0, 7), st.integers(0, 7)), max_size=14
)


def consistent_worlds(atoms: int, done) -> list[dict[int, bool]]:
    """Every assignment of removed / stays to labels that obeys all statements made, by trying all."""
    worlds = []
    for choice in itertools.product([False, True], repeat=atoms):
        removed = {0: False} | dict(enumerate(choice, start=1))
        legal = True
        for name, x, y, result in done:
            if name == "either":
                removed[result] = removed[x] or removed[y]
            elif name == "unify":
                legal &= removed[x] == removed[y]
            else:
                legal &= not removed[x]
        if legal:
            worlds.append(removed)
    return worlds


@given(steps)
def test_whatever_is_said_the_store_allows_only_consistent_removals(script):
    """Drop any set of atoms that the store offers: every statement made to it still holds.

    The oracle tries all removals of five labels. Statements about composites may make the store more cautious than it
    had to be, never less.
    """
    store = LabelStore()
    labels = [0, *store.fresh(5).tolist()]
    done = []
    for name, i, j in script:
        x, y = labels[i % len(labels)], labels[j % len(labels)]
        result = 0
        if name == "unify":
            store.unify(many(x), many(y), "test")
        elif name == "freeze":
            store.freeze(many(x), "test")
        else:
            result = int(store.either(many(x), many(y))[0])
            labels.append(result)
        done.append((name, x, y, result))
    free = sorted(frozenset().union(*(store.atoms(label) for label in labels)))
    worlds = consistent_worlds(5, done)
    for dropped in itertools.chain.from_iterable(itertools.combinations(free, n) for n in range(len(free) + 1)):
        removed = {label: bool(store.atoms(label) & set(dropped)) for label in labels}
        assert any(all(world.get(label, False) == gone for label, gone in removed.items()) for world in worlds), (
            done,
            dropped,
            removed,
        )
    only_atoms = all(name != "either" for name, *_ in done)
    if only_atoms:  # then the store is not only safe but complete
        seen = {tuple(sorted(world.items())) for world in worlds}
        assert len(seen) == 2 ** len(free)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=60))
def test_many_unions_at_once_are_the_unions_one_by_one(pairs):
    at_once, one_by_one = LabelStore(), LabelStore()
    every = at_once.fresh(40)
    one_by_one.fresh(40)
    if pairs:
        left, right = (np.asarray(side) for side in zip(*pairs, strict=True))
        at_once.unify(left, right, "test")
        for x, y in pairs:
            one_by_one.unify(many(x), many(y), "test")
    parts = [
        {tuple(np.flatnonzero(store.find(every) == root)) for root in np.unique(store.find(every))}
        for store in (at_once, one_by_one)
    ]
    assert parts[0] == parts[1]
