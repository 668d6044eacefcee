from __future__ import annotations

import json

import pytest

from torchpare.report import describe_machine, measure


class Clock:
    """A clock that only moves when somebody works."""

    def __init__(self):
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, *durations: float):
        left = list(durations)

        def run():
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_contenders_take_turns_and_every_second_round_goes_backwards():
    clock = Clock()
    measure({"dense": clock.work("d", 2.0), "small": clock.work("s", 1.0)}, runs=4, warmup=2, clock=clock)
    assert "".join(clock.log) == "dssd" + "dssddssd"


def test_the_warm_up_is_not_counted():
    clock = Clock()
    found = measure({"dense": clock.work("d", 100.0, 100.0, 1.0)}, runs=6, warmup=2, clock=clock)
    assert found["dense"].upper_quartile == 1.0
    assert found["dense"].runs == 6


def test_each_settles_untimed_right_before_it_is_timed():
    clock = Clock()
    contenders = {"dense": clock.work("d", 9.0, 1.0, 9.0, 1.0), "small": clock.work("s", 5.0, 2.0)}
    found = measure(contenders, runs=2, warmup=0, settle=1, clock=clock)
    assert "".join(clock.log) == "ddss" + "ssdd"
    assert (found["dense"].upper_quartile, found["small"].upper_quartile) == (1.0, 2.0)


def test_the_median_and_the_quartiles_are_those_of_the_runs():
    clock = Clock()
    found = measure({"dense": clock.work("d", 5.0, 1.0, 4.0, 2.0, 3.0)}, runs=5, warmup=0, clock=clock)["dense"]
    assert (found.lower_quartile, found.median, found.upper_quartile) == (2.0, 3.0, 4.0)


def test_a_disturbance_of_the_machine_falls_on_both_alike():
    clock = Clock()
    calls = 0

    def drifting(cost: float):
        def run():
            nonlocal calls
            calls += 1
            clock.now += cost * (1 + calls / 10)  # the machine gets slower and slower

        return run

    found = measure({"dense": drifting(2.0), "small": drifting(1.0)}, runs=40, warmup=0, clock=clock)
    assert found["dense"].median / found["small"].median == pytest.approx(2.0, rel=0.02)


def test_a_measurement_says_its_circumstances_in_json():
    found = measure({"dense": lambda: None}, runs=2, warmup=0, runtime="ONNX Runtime 1", threads=3)["dense"]
    told = json.loads(json.dumps(found.to_dict()))
    assert told["threads"] == 3
    assert told["runtime"] == "ONNX Runtime 1"
    assert told["environment"] == describe_machine()
    assert told["environment"].split(", ")[1].endswith(("core", "cores"))


def test_the_runtime_is_pytorch_unless_said_otherwise():
    assert measure({"dense": lambda: None}, runs=2)["dense"].runtime.startswith("PyTorch ")


@pytest.mark.parametrize(("contenders", "runs", "warmup"), [({}, 5, 1), ({"a": print}, 1, 1), ({"a": print}, 5, -1)])
def test_nothing_to_time_or_too_few_runs_is_refused_before_anything_runs(contenders, runs, warmup, capsys):
    with pytest.raises(ValueError, match=r"measure\(\) was given"):
        measure(contenders, runs=runs, warmup=warmup)
    assert capsys.readouterr().out == ""
