"""What calibration keeps stays under a cap, and what comes of it does not depend on the cap."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from torchpare.errors import ConfigError
from torchpare.quantization import ObserverQuantizer, correct_biases, round_adaptively
from torchpare.quantization.held import Batches, Memory, Samples, Spilled

ROOT = Path(__file__).parents[2]
MIB = 2**20
STREAM = 96 * MIB
"""What the script's batches hold together."""


@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    cap=st.sampled_from([None, 0, 40, 100, 10**6]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]),
    data=st.data(),
)
def test_rows_come_back_as_they_went_in_whatever_the_cap(sizes, cap, dtype, data):
    chunks = [torch.randn(size, 2, 3).to(dtype) for size in sizes]
    rows = torch.cat(chunks)
    with Memory(cap) as memory:
        before = Samples(memory)
        before.add(torch.ones(2, 2))  # what lies in the file in front of them
        samples = Samples(memory)
        for chunk in chunks:
            samples.add(chunk)
        assert len(samples) == len(rows)
        assert cap is None or memory.used <= cap
        for count in (1, 2, 100):
            parts = list(samples.parts(count))
            assert all(len(part) <= count for part in parts)
            assert torch.equal(torch.cat([rows[:0], *parts]), rows)
        if len(rows):
            numbers = torch.tensor(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=9)))
            assert torch.equal(samples[numbers], rows[numbers])
        samples.release()
        samples.add(torch.full((3, 2, 3), 7.0))  # in the place of what was let go
        assert torch.equal(samples[torch.tensor([2, 0])], torch.full((2, 2, 3), 7.0))
        assert torch.equal(before[torch.arange(2)], torch.ones(2, 2))
        assert cap is None or memory.used <= cap


def test_batches_of_any_form_come_back_again_and_again():
    batches = [
        {"x": torch.randn(2, 3), "ids": torch.arange(4), "flag": True, "nothing": None},
        (torch.randn(()), [torch.zeros(0, 2)], torch.randn(2, 2, dtype=torch.complex64)),
        torch.randn(4, 6)[:, ::2],
    ]
    with Memory(0) as memory:
        held = Batches((batch for batch in batches), memory)
        assert memory.spilled
        assert memory.used == 0
        for _ in range(2):
            torch.testing.assert_close(list(held), batches, rtol=0, atol=0)


def test_without_a_cap_nothing_is_copied_and_no_file_is_made():
    x = torch.randn(3, 2)
    with Memory(None) as memory:
        assert memory.keep(x).data_ptr() == x.data_ptr()
        assert memory.spilled == 0
    with Memory(100) as memory:  # of a part of something large only the part is kept
        kept = memory.keep(torch.zeros(1000)[:4])
        assert not isinstance(kept, Spilled)
        assert kept.untyped_storage().nbytes() == 16


def network(*, inplace=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(inplace=inplace), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.LazyLinear(3)
    )


def calibrated(batches, **more):
    model = network(**more)
    model(batches[0])
    entry = {"quant_types": ["weight", "output"], "quant_bits": 4, "op_types": ["Conv2d", "Linear"]}
    return ObserverQuantizer(model, [entry]).calibrate(batches)


def data():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 1, 8, 8, generator=generator) for size in (8, 3, 8)]


def learn(model, batches, **more):
    return round_adaptively(model, batches, iterations=40, generator=torch.Generator().manual_seed(0), **more)


@pytest.mark.parametrize("mend", [learn, correct_biases])
@pytest.mark.parametrize("cap", [0, 3000, 10**9])
def test_what_is_learnt_under_a_cap_is_what_is_learnt_without(mend, cap):
    free, capped = calibrated(data()), calibrated(data())
    without, within = mend(free, data()), mend(capped, (x for x in data()), memory_cap=cap)
    assert without == within
    assert mend is correct_biases or any(own.moved for own in without.values())
    for key, value in free.state_dict().items():
        assert torch.equal(value, capped.state_dict()[key]), key


def test_a_relu_in_place_behind_a_layer_does_not_spoil_what_the_layer_should_return():
    reports = [learn(calibrated(data(), inplace=inplace), data()) for inplace in (False, True)]
    assert reports[0] == reports[1]


@pytest.mark.parametrize("mend", [learn, correct_biases])
@pytest.mark.parametrize("cap", [-1, 1.5, True, "2GiB"])
def test_a_cap_that_is_none_is_refused_and_the_model_left_alone(mend, cap):
    model = calibrated(data())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match="whole number of bytes"):
        mend(model, data(), memory_cap=cap)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def run(*arguments: str) -> dict:
    """What the script prints, in a process of its own: the most memory that one has had never falls."""
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("memory_script.py")
    made = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=True, timeout=200,
                          env={**os.environ, **own})  # fmt: skip
    return json.loads(made.stdout)


@pytest.mark.slow
def test_calibrating_on_a_stream_takes_no_memory_for_it():
    assert run("calibrate", "percentile")["grew"] < STREAM / 3  # of which nothing but what a batch makes on its way


@pytest.mark.slow
@pytest.mark.parametrize(("way", "held"), [("round", 2 * STREAM), ("bias", 0.7 * STREAM)])
def test_rounding_and_bias_correction_on_a_stream_keep_to_their_cap(way, held):
    capped, free = run(way, "min_max", str(16 * MIB)), run(way, "min_max")
    assert capped["grew"] < 16 * MIB + 48 * MIB  # the rest is what a batch makes on its way
    assert free["grew"] > held
    assert capped["found"] == free["found"]
    assert capped["state"] == free["state"]
