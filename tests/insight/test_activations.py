"""What layers return: against the whole of it in memory, and nets whose channels are known to be idle."""

from __future__ import annotations

import json
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.insight.nets import Idle
from tests.support.nets import Net
from torchpare.errors import CaptureError, ConfigError
from torchpare.insight import activations, rounding
from torchpare.insight.activation_ranges import _listed
from torchpare.insight.streams import ChannelEnds, Stream
from torchpare.report import Page, Section, render_page


def kept_outputs(model, batches):
    """Everything that each leaf returns, the slow way."""
    kept = {}
    handles = [m.register_forward_hook(lambda m, i, o, n=n: kept.setdefault(n, []).append(o.clone()))
               for n, m in model.named_modules() if not list(m.children())]  # fmt: skip
    with torch.no_grad():
        for x in batches:
            model(x)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts) for name, parts in kept.items()}


def test_statistics_are_those_of_all_that_was_returned():
    model = Net().eval()
    batches = [3 * torch.randn(4, 3, 8, 8) for _ in range(5)]
    found = {each.name: each for each in activations(model, batches[0], batches).ranges}
    for name, values in kept_outputs(model, batches).items():
        each, flat = found[name], values.double().flatten()
        width = float(flat.max() - flat.min()) / 1024  # two bins
        assert (each.values, each.low, each.high) == (flat.numel(), float(flat.min()), float(flat.max()))
        assert each.mean == pytest.approx(float(flat.mean()), abs=1e-9)
        assert each.deviation == pytest.approx(float(flat.std(correction=0)), rel=1e-6)
        assert each.zeros == pytest.approx(float((flat == 0).double().mean()))
        assert each.high_percentile == pytest.approx(float(flat.quantile(0.999)), abs=2 * width)
        assert each.low_percentile == pytest.approx(float(flat.quantile(0.001)), abs=2 * width)


def test_channels_that_say_nothing_are_found():
    found = {each.name: each for each in activations(Idle(), torch.rand(2, 1, 3, 3) + 0.1).channels}
    assert (found["conv"].dead, found["conv"].constant, found["conv"].negative) == ((0,), (1,), (2,))
    assert (found["relu"].dead, found["relu"].constant, found["relu"].negative) == ((0, 2), (1,), ())
    assert found["relu"].channels == 4
    assert found["relu"].idle == 3


def test_numbers_of_channels_are_told_as_ranges():
    assert _listed((7, 0, 1, 2, 9)) == "0 to 2, 7, 9"
    assert _listed(tuple(range(0, 40, 2))) == "0, 2, 4, 6, 8, 10, 12, 14, and 12 more"
    assert _listed(()) == ""


def test_a_channel_that_speaks_in_one_batch_only_is_alive():
    silent, speaks = -torch.ones(1, 1, 2, 2), torch.tensor([-1.0, 1.0]).expand(1, 1, 2, 2)
    relu = lambda data: {e.name: e for e in activations(Idle(), silent, data).channels}["relu"]  # noqa: E731
    assert 3 in relu([silent, silent]).dead
    assert 3 not in relu([silent, speaks]).dead
    assert 3 not in relu([speaks, silent]).dead


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30), min_size=1, max_size=6))
def test_a_stream_says_the_same_however_its_values_are_parted(parts):
    stream = Stream()
    for part in parts:
        stream.see(torch.tensor(part))
    flat = np.array([value for part in parts for value in part], dtype=np.float32).astype(np.float64)
    assert (stream.count, stream.low, stream.high) == (len(flat), flat.min(), flat.max())
    assert stream.zeros == int((flat == 0).sum())
    assert stream.mean == pytest.approx(flat.mean(), rel=1e-9, abs=1e-3)
    low, high = stream.percentiles(99.9)
    assert stream.low <= low <= high <= stream.high
    assert float(stream.histogram.counts.sum()) == len(flat)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**31 - 1))
def test_ends_of_channels_are_those_of_all_batches(batches, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(2, channels, 3, generator=generator) for _ in range(batches)]
    ends = ChannelEnds()
    for part in parts:
        ends.see(part, 1)
    rows = torch.cat(parts).movedim(1, 0).flatten(1)
    assert torch.equal(ends.low, rows.amin(1))
    assert torch.equal(ends.high, rows.amax(1))


def test_a_layer_that_is_called_twice_has_two_lines():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow, self.relu = nn.Conv2d(1, 6, 1), nn.Conv2d(6, 2, 1), nn.ReLU()

        def forward(self, x):
            return self.relu(self.narrow(self.relu(self.wide(x))))

    found = {each.name: each.channels for each in activations(Twice(), torch.rand(1, 1, 2, 2)).channels}
    assert found == {"wide": 6, "relu, call 1": 6, "narrow": 2, "relu, call 2": 2}


def test_where_nobody_can_tell_channels_apart_none_are_named():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.conv, self.act, self.own = nn.Linear(4, 4), nn.Conv1d(4, 4, 1), nn.ReLU(), nn.Tanh()

        def forward(self, x):  # the same shape with channels along two axes, and a shape that no layer has made
            return self.own(self.act(self.conv(self.linear(x))).sum(0))

    found = activations(Turned(), torch.rand(3, 4, 4))
    assert [each.name for each in found.channels] == ["linear", "conv"]
    assert [each.name for each in found.ranges] == ["linear", "conv", "act", "own"]


@pytest.mark.parametrize(
    ("layer", "x", "channels"),
    [(nn.BatchNorm1d(5), torch.rand(3, 5), 5), (nn.LayerNorm(6), torch.rand(2, 3, 6), 6),
     (nn.GRU(3, 7), torch.rand(4, 2, 3), 7),
     (nn.AdaptiveAvgPool2d(1), torch.rand(2, 3, 4, 4), 3), (nn.Conv2d(3, 8, 1), torch.rand(3, 4, 4), 8),
     (nn.MultiheadAttention(8, 2, batch_first=True), (torch.rand(2, 3, 8),) * 3, 8)],
)  # fmt: skip
def test_kinds_of_layers_have_their_channels_where_they_are(layer, x, channels):
    assert [each.channels for each in activations(layer, x).channels] == [channels]


def test_values_that_are_not_finite_are_counted_and_left_out():
    class Log(nn.Module):
        def __init__(self):
            super().__init__()
            self.identity = nn.Identity()

        def forward(self, x):
            return self.identity(x.log())

    (found,) = activations(Log(), torch.tensor([[0.0, -1.0, 1.0, 2.0]])).ranges
    assert (found.not_finite, found.values, found.low) == (2, 2, 0.0)
    (nothing,) = activations(Log(), torch.tensor([[0.0, 0.0]])).ranges
    assert (nothing.not_finite, nothing.values) == (2, 0)
    json.dumps(activations(Log(), torch.tensor([[0.0, 0.0]])).to_dict(), allow_nan=False)


def test_the_ratio_of_outliers_is_the_largest_over_nearly_all():
    x = torch.full((1, 10_000), 1.0)
    x[0, 0] = 50.0
    (found,) = activations(nn.Identity(), x).ranges
    assert found.outliers == pytest.approx(50, rel=0.03)


def test_labels_behind_the_inputs_are_left_out_and_so_are_keys_that_the_example_has_not():
    x = torch.rand(2, 3)
    assert activations(nn.Linear(3, 2), x, [(x, torch.zeros(2)), [x, 1]]).batches == 2

    class Named(nn.Module):
        def forward(self, a, b=None):
            assert b is None
            return a + 1

    batches = [{"a": x, "b": x, "labels": 1}]
    assert activations(Named(), {"a": x}, batches).batches == 1
    with pytest.raises(ConfigError, match="batch 0 of the data has no a, which example_inputs has"):
        activations(Named(), {"a": x}, [{"b": x}])


@pytest.mark.parametrize(
    ("data", "message"),
    [((x for x in [1]), "gone through only once"), (torch.rand(2, 3), "data is a single Tensor"),
     ([], "has no batches"), (3, "data is a int"), ([{"a": 1}], "is a dict of 1")],
)  # fmt: skip
def test_data_that_cannot_be_used_are_refused(data, message):
    with pytest.raises(ConfigError, match=message):
        activations(nn.Linear(3, 2), torch.rand(2, 3), data)


def test_a_batch_that_the_model_does_not_take_is_named():
    with pytest.raises(CaptureError, match="does not run on batch 1 of the data"):
        activations(nn.Linear(3, 2), torch.rand(2, 3), [torch.rand(2, 3), torch.rand(2, 4)])


def test_only_so_many_batches_are_looked_at_as_are_asked_for():
    seen = []

    class Data:
        def __iter__(self):
            for number in range(10):
                seen.append(number)
                yield torch.rand(2, 3)

    assert activations(nn.Linear(3, 2), torch.rand(2, 3), Data(), max_batches=3).batches == 3
    assert max(seen) <= 3
    with pytest.raises(ConfigError, match="max_batches is 0"):
        activations(nn.Linear(3, 2), torch.rand(2, 3), Data(), max_batches=0)


def test_nothing_that_passes_is_kept():
    alive: list[weakref.ref] = []
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    for module in model:
        module.register_forward_hook(lambda module, inputs, output: alive.append(weakref.ref(output)))

    class Data:
        def __iter__(self):
            for _ in range(4):
                assert all(output() is None for output in alive)
                yield torch.rand(2, 3)

    activations(model, torch.rand(2, 3), Data())
    rounding(model, torch.rand(2, 3), Data())
    assert len(alive) == 3 * 4 * 3


def test_the_page_says_that_the_example_alone_was_looked_at():
    found = activations(Idle(), torch.rand(1, 1, 2, 2))
    sections = (Section("a", blocks=found.channel_blocks()), Section("b", blocks=found.range_blocks()))
    page = render_page(Page("x", sections=sections))
    assert "On the example input alone" in page
    assert "3 of 4" in page
