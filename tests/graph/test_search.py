"""The search for whole numbers, held against trying all of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from torchpare.graph.equations import Equality, Polynomial
from torchpare.graph.search import search
from torchpare.graph.sizes import Attribute, BinaryOp, Const

HEADS, WIDTH = Attribute("net", "heads"), Attribute("net", "width")
some = settings(max_examples=60)


@dataclass
class System:
    """Variables 0, 1, ... with their sizes, what they should keep, and equations that hold while all is kept."""

    size: dict[int, int]
    wanted: dict[int, int]
    lowest: dict[int, int]
    equations: list[Equality]
    originals: dict[Attribute, int]

    def solve(self, **options):
        return search(self.size, self.wanted, self.lowest, self.equations, self.originals, **options)

    def holds(self, kept, attributes):
        return all(equation.holds({**self.originals, **attributes, **kept}) for equation in self.equations)

    def feasible(self):
        """All numbers of kept atoms that some values of the attributes allow; one must be asked for to change."""
        asked = {attribute for equation in self.equations if equation.equal for attribute in equation.attributes}
        names = [name for name in self.originals if name in asked]
        for numbers in itertools.product(*(range(self.lowest[v], self.size[v] + 1) for v in self.size)):
            kept = dict(zip(self.size, numbers, strict=True))
            for values in itertools.product(*(range(1, self.originals[name] + 1) for name in names)):
                if self.holds(kept, dict(zip(names, values, strict=True))):
                    yield kept
                    break


@st.composite
def systems(draw, *, attributes=(HEADS, WIDTH), symbols="+-*/%", most=4, largest=8):
    count = draw(st.integers(2, most))
    size = {v: draw(st.integers(1, largest)) for v in range(count)}
    lowest = {v: draw(st.integers(1, n)) if draw(st.integers(0, 3)) == 0 else 1 for v, n in size.items()}
    wanted = {v: draw(st.integers(lowest[v], n)) for v, n in size.items()}
    originals = {attribute: draw(st.integers(1, 6)) for attribute in attributes}
    full = {**size, **originals}
    equations = []
    for number in range(draw(st.integers(0, 3))):
        left, right = (draw(sides(count, attributes, symbols)) for _ in range(2))
        gap = Equality(left, right, "", "").gap(full)
        assume(gap is not None)
        equal = draw(st.integers(0, 5)) > 0
        if equal:  # shifted by what is missing, so that keeping everything is an answer
            right = BinaryOp("+", right, Const(gap))
        else:
            assume(gap != 0)
        equation = Equality(left, right, f"equation {number}", "", equal=equal)
        assume(equation.unknowns)
        equations.append(equation)
    return System(size, wanted, lowest, equations, originals)


def sides(count, attributes, symbols):
    products = st.lists(st.integers(0, count - 1), max_size=2, unique=True).map(lambda key: tuple(sorted(key)))
    polynomials = st.dictionaries(products, st.integers(1, 3), min_size=1, max_size=2).map(Polynomial)
    leaves = polynomials | st.integers(1, 4).map(Const)
    if attributes:
        leaves |= st.sampled_from(attributes)
    names = [{"/": "//"}.get(symbol, symbol) for symbol in symbols]
    return leaves | st.builds(BinaryOp, st.sampled_from(names), leaves, leaves) if names else leaves


def attributes_of(system, solution):
    assert solution.attributes.keys() <= system.originals.keys()
    return {**system.originals, **solution.attributes}


@some
@given(systems())
def test_whatever_is_found_satisfies_every_equation(system):
    solution = system.solve()
    assert solution.kept.keys() == system.size.keys()
    assert system.holds(solution.kept, attributes_of(system, solution))


@some
@given(systems())
def test_nothing_goes_below_its_lowest_or_above_its_size(system):
    for v, kept in system.solve().kept.items():
        assert system.lowest[v] <= kept <= system.size[v]


@some
@given(systems(attributes=(), most=3))
def test_wanted_numbers_that_are_possible_are_found(system):
    if system.wanted in list(system.feasible()):
        solution = system.solve()
        assert solution.kept == system.wanted
        assert solution.stuck == solution.bound == {}


@some
@given(systems(attributes=(HEADS,), symbols="", most=3))
def test_an_attribute_follows_wherever_it_can(system):
    """A product of two attributes is left alone, so here is one; and one that no division makes ambiguous."""
    if system.wanted in list(system.feasible()):
        assert system.solve().kept == system.wanted


@some
@given(systems(attributes=(), most=3, largest=6), st.data())
def test_the_first_variable_comes_as_near_as_any_answer_does(system, data):
    first = data.draw(st.sampled_from(sorted(system.size)))
    nearest = min(abs(kept[first] - system.wanted[first]) for kept in system.feasible())
    assert abs(system.solve(first=[first]).kept[first] - system.wanted[first]) == nearest


@some
@given(systems(attributes=(), most=3, largest=6))
def test_where_only_everything_is_possible_everything_is_kept_with_the_equation_that_says_so(system):
    pinned = Equality(Polynomial({(v,): 1 for v in system.size}), Const(sum(system.size.values())), "all", "net.py:3")
    system.equations = [*system.equations, pinned]
    solution = system.solve()
    assert solution.kept == system.size
    for v, wanted in system.wanted.items():
        assert (v in solution.bound or v in solution.stuck) == (wanted < system.size[v])


@some
@given(systems(attributes=(), most=3), st.sampled_from([2, 3, 4]))
def test_multiples_are_preferred_to_what_was_wanted(system, multiple):
    """As far as the equations go: what is kept is a multiple, or everything, wherever any answer has that."""
    first = min(system.size, key=lambda v: (system.size[v], v))
    kept = system.solve(first=[first], multiple=dict.fromkeys(system.size, multiple)).kept
    assert system.holds(kept, {})
    if system.size[first] >= multiple:
        fine = {numbers[first] for numbers in system.feasible() if numbers[first] % multiple == 0}
        fine.add(system.size[first])
        distance = abs(kept[first] - system.wanted[first])
        assert kept[first] in fine
        assert distance == min(abs(number - system.wanted[first]) for number in fine)


def free(wanted, size, multiple, lowest=1):
    return search({0: size}, {0: wanted}, {0: lowest}, [], {}, multiple={0: multiple}).kept[0]


def test_multiples_of_a_variable_on_its_own():
    assert [free(wanted, 20, 8) for wanted in (1, 5, 11, 12, 13, 19)] == [8, 8, 8, 16, 16, 20]
    assert free(3, 5, 8) == 3  # a group smaller than the multiple keeps what was wanted
    assert free(3, 20, 1) == 3
    assert free(9, 20, 8, lowest=9) == 16


def test_variables_without_equations_keep_what_was_wanted():
    solution = search({0: 5, 1: 3}, {0: 2, 1: 3}, {0: 1, 1: 1}, [], {})
    assert (solution.kept, solution.attributes) == ({0: 2, 1: 3}, {})
    assert solution.stuck == solution.bound == {}


def test_a_width_that_is_heads_times_a_head_follows_the_heads():
    """``view(b, n, self.heads, c // self.heads)`` of a residual of 8, with 4 heads of 2."""
    width = Equality(Polynomial({(1, 2): 1}), Polynomial({(0,): 1}), "heads times width", "")
    heads = Equality(Polynomial({(1,): 1}), HEADS, "heads", "")
    head = Equality(Polynomial({(2,): 1}), BinaryOp("//", Polynomial({(0,): 1}), HEADS), "width", "")
    solution = search(
        {0: 8, 1: 4, 2: 2}, {0: 8, 1: 2, 2: 2}, dict.fromkeys(range(3), 1), [width, heads, head], {HEADS: 4}, first=[1]
    )
    assert solution.kept == {0: 4, 1: 2, 2: 2}
    assert solution.attributes == {HEADS: 2}


def test_an_equation_that_always_holds_does_not_hold_an_attribute_back():
    trivial = Equality(HEADS, BinaryOp("+", HEADS, Const(0)), "nothing", "")
    follows = Equality(Polynomial({(0,): 1}), HEADS, "heads", "")
    for equations in ([trivial, follows], [follows, trivial]):
        solution = search({0: 2}, {0: 1}, {0: 1}, equations, {HEADS: 2})
        assert (solution.kept, solution.attributes) == ({0: 1}, {HEADS: 1})


def test_of_several_attributes_that_fit_the_first_is_what_it_was():
    half = Equality(Polynomial({(0,): 1}), BinaryOp("//", HEADS, Const(2)), "half", "")
    found = [search({0: 4}, {0: wanted}, {0: 1}, [half], {HEADS: 9}).attributes[HEADS] for wanted in (4, 2)]
    assert found == [9, 4]


def test_no_attribute_changes_to_keep_something_unequal():
    unequal = Equality(Polynomial({(0,): 1}), HEADS, "a branch", "net.py:7", equal=False)
    solution = search({0: 6}, {0: 3}, {0: 1}, [unequal], {HEADS: 3})
    assert (solution.kept, solution.attributes) == ({0: 4}, {HEADS: 3})


def test_sizes_that_must_not_become_equal_stay_apart():
    unequal = Equality(Polynomial({(0,): 1}), Const(3), "a branch", "net.py:7", equal=False)
    for wanted in range(1, 7):
        kept = search({0: 6}, {0: wanted}, {0: 1}, [unequal], {}).kept[0]
        assert kept == (4 if wanted == 3 else wanted)


def test_components_do_not_hold_each_other_back():
    stuck = Equality(Polynomial({(0,): 1}), Const(6), "a number", "net.py:7")
    solution = search({0: 6, 1: 6}, {0: 2, 1: 2}, {0: 1, 1: 1}, [stuck], {})
    assert solution.kept == {0: 6, 1: 2}
    assert solution.bound == {0: stuck}


def test_what_takes_too_long_keeps_everything_and_says_which_equation():
    """Only everything satisfies this, and nothing tells so before the last of all combinations."""
    size = dict.fromkeys(range(5), 30)
    squares = Equality(Polynomial({(v, v): 1 for v in size}), Const(5 * 900), "a riddle", "net.py:9")
    solution = search(size, dict.fromkeys(size, 3), dict.fromkeys(size, 1), [squares], {})
    assert solution.kept == size
    assert solution.stuck == dict.fromkeys(size, squares)
