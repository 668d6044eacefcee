"""Selection against an oracle that reads the rules one layer at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from torchpare.config import select
from torchpare.errors import ConfigError

SUPPORTED = (nn.Conv2d, nn.Linear)
KINDS = {"Conv2d": lambda: nn.Conv2d(1, 1, 1), "Linear": lambda: nn.Linear(1, 1), "ReLU": nn.ReLU}


@st.composite
def models(draw):
    """A model two levels deep, as nested Sequentials; some layers appear under a second name."""
    model = nn.Sequential()
    made = []
    for at in range(draw(st.integers(1, 3))):
        block = nn.Sequential()
        for inner in range(draw(st.integers(1, 3))):
            if made and draw(st.booleans()) and draw(st.booleans()):
                layer = draw(st.sampled_from(made))
            else:
                layer = KINDS[draw(st.sampled_from(sorted(KINDS)))]()
                made.append(layer)
            block.add_module(f"l{inner}", layer)
        model.add_module(f"b{at}", block)
    return model


@st.composite
def questions(draw):
    model = draw(models())
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    names_lists = st.lists(st.sampled_from([*names, "nowhere"]), min_size=1, max_size=3)
    types_lists = st.lists(
        st.sampled_from(["default", "Conv2d", "Linear", "ReLU", "Sequential"]), min_size=1, max_size=2
    )
    entries = []
    for _ in range(draw(st.integers(1, 4))):
        reach = draw(st.sampled_from(["names", "types", "both"]))
        entry = {} if reach == "names" else {"op_types": draw(types_lists)}
        entry |= {} if reach == "types" else {"op_names": draw(names_lists)}
        if draw(st.booleans()):
            entry["sparsity"] = draw(st.sampled_from([0, 0.25, 0.5]))
        if "sparsity" not in entry or draw(st.booleans()):
            entry["exclude"] = draw(st.booleans()) if "sparsity" in entry else True
        entries.append(entry)
    return model, entries


def oracle(model, config_list):
    """The rules as a person would follow them; None where an entry must be refused."""
    known = list(model.named_modules(remove_duplicate=False))
    present = {type(module).__name__ for name, module in known if name}
    handled = {"Conv2d", "Linear"}
    for entry in config_list:
        if any(name not in dict(known) for name in entry.get("op_names", [])):
            return None
        for kind in entry.get("op_types", []):
            if kind == "default" and not handled & present:
                return None
            if kind != "default" and kind not in present:
                return None
        hit = [module for name, module in known if name and matches(module, entry, known)]
        if not hit or (not entry.get("exclude") and any(type(module).__name__ not in handled for module in hit)):
            return None
    answer = {}
    for name, module in model.named_modules():
        winner = None
        for entry in config_list:
            if name and matches(module, entry, known):
                winner = entry
        if winner is not None and not winner.get("exclude"):
            answer[name] = winner["sparsity"]
    return answer


def matches(module, entry, known):
    names = [name for name, other in known if other is module]
    kind = type(module).__name__
    if "op_names" in entry and not set(names) & set(entry["op_names"]):
        return False
    if "op_types" not in entry:
        return True
    return kind in entry["op_types"] or ("default" in entry["op_types"] and kind in ("Conv2d", "Linear"))


@given(questions())
def test_selection_is_what_the_rules_say(question):
    model, config_list = question
    expected = oracle(model, config_list)
    if expected is None:
        with pytest.raises(ConfigError):
            select(model, config_list, supported=SUPPORTED)
    else:
        found = select(model, config_list, supported=SUPPORTED)
        assert list(found) == list(expected)
        assert {name: target.sparsity for name, target in found.items()} == expected
        assert all(target.module is model.get_submodule(name) for name, target in found.items())
