"""Bits for each layer: what is found is above the floor, could not be lower, and is told as it is."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from torchpare.errors import ConfigError, FileError, MissingExtraError, QuantizationError, SearchError
from torchpare.quantization import ObserverQuantizer
from torchpare.runtimes import RUNTIMES
from torchpare.search import MixedPrecisionSearch

ROOT = Path(__file__).resolve().parents[2]
_left = [0]


class NoRuntime:
    """In place of a runtime: takes any program at once, and runs nothing."""

    def __init__(self, *_, **__) -> None:
        pass

    def compress(self) -> None:
        pass

    def runner(self, _):
        return lambda: None


@pytest.fixture
def no_runtime(monkeypatch):
    monkeypatch.setitem(RUNTIMES, "onnxruntime", NoRuntime)


quick = pytest.mark.usefixtures("no_runtime")


def net() -> nn.Module:
    """A net whose second layer bears few bits badly: its channels are of very different size."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 8))
    with torch.no_grad():
        model[0].weight *= torch.logspace(-2, 1, 24)[:, None]
        model[2].weight *= torch.logspace(1, -2, 24)
    return model.eval()


def batches() -> list[torch.Tensor]:
    return list(torch.randn(4, 64, 12, generator=torch.Generator().manual_seed(1)))


def likeness(model: nn.Module) -> float:
    """How near outputs are to the float net's, at most 1; and the end of this process, when its time has come."""
    _left[0] -= 1
    if _left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    x = batches()[0]
    with torch.no_grad():
        wanted = net()(x)
        return 1 - float((model(x) - wanted).norm() / wanted.norm())


def search(folder=None, **more):
    options = {"floor": 0.98, "bits": (3, 5, 8, 32), "runs": 2, **more}
    return MixedPrecisionSearch(net(), batches()[0], batches(), likeness, folder=folder, **options)


def scored(assigned) -> float:
    """The score of an assignment, by a quantizer of one's own."""
    model = copy.deepcopy(net())
    asked = [
        {"quant_types": ["weight", "input"], "quant_bits": bits, "op_names": [name]}
        for name, bits in assigned.items()
        if bits != 32
    ]
    if asked:
        ObserverQuantizer(model, asked, dummy_input=batches()[0]).calibrate(batches())
    return likeness(model)


def test_what_is_found_is_above_the_floor_and_no_layer_could_have_less():
    found = search().run()
    assert found.dense == 1.0
    for point in found.points:
        assert point.score == scored(point.bits)
        assert point.enough == (point.score >= 0.98)
    assert found.best.score >= 0.98
    assert found.best.latency == min(point.latency for point in found.points if point.enough)
    low, *_, high = found.points
    assert not low.enough
    assert set(low.bits.values()) == {3}
    assert set(high.bits.values()) == {32}
    # The one with the fewest bits that is enough: nothing in it can be taken back.
    least = min((point for point in found.points if point.enough), key=lambda point: sum(point.bits.values()))
    levels = (3, 5, 8, 32)
    for name, bits in least.bits.items():
        if bits != 3:
            assert scored({**least.bits, name: levels[levels.index(bits) - 1]}) < 0.98


@quick
def test_each_layer_alone_is_told_and_the_sensitive_one_gets_more_bits():
    found = search(bits=(4, 32), floor=0.93).run()
    for name, row in found.alone.items():
        assert row == {4: scored({"0": 32, "2": 32, "4": 32, name: 4})}
    worst = min(found.alone, key=lambda name: found.alone[name][4])
    least = min((point for point in found.points if point.enough), key=lambda point: sum(point.bits.values()))
    assert least.bits[worst] == 32
    assert min(least.bits.values()) == 4


@quick
def test_its_config_list_makes_the_model_that_was_scored():
    found = search().run()
    model = net()
    if found.config_list:
        ObserverQuantizer(model, found.config_list, dummy_input=batches()[0]).calibrate(batches())
    assert likeness(model) == found.best.score
    assert {entry["quant_bits"] for entry in found.config_list} == set(found.best.bits.values()) - {32}


@quick
def test_without_an_evaluator_it_is_the_signal_over_the_noise():
    found = MixedPrecisionSearch(net(), batches()[0], batches(), floor=25.0, bits=(4, 8, 32), runs=2).run()
    assert found.dense == math.inf
    for point in found.points:
        if point.score == math.inf:
            assert set(point.bits.values()) == {32}
            continue
        model = copy.deepcopy(net())
        asked = [{"quant_types": ["weight", "input"], "quant_bits": b, "op_names": [n]}
                 for n, b in point.bits.items() if b != 32]  # fmt: skip
        ObserverQuantizer(model, asked, dummy_input=batches()[0]).calibrate(batches())
        with torch.no_grad():
            pairs = [(net()(x).double(), model(x).double()) for x in batches()]
        wanted, noise = torch.cat([a for a, _ in pairs]), torch.cat([a - b for a, b in pairs])
        assert point.score == pytest.approx(10 * math.log10(float((wanted**2).sum() / (noise**2).sum())), abs=1e-6)


@quick
def test_it_says_what_it_found_in_words_and_in_a_picture(tmp_path):
    found = search().run()
    assert found.best.described in str(found)
    found.plot(tmp_path / "frontier.svg")
    assert "above the floor" in (tmp_path / "frontier.svg").read_text()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"floor": None}, "either floor"),
        ({"drop": 0.1}, "either floor"),
        ({"bits": (8,)}, "two or more"),
        ({"bits": (8, 20)}, "1 to 16, and 32"),
        ({"runtime": "abacus"}, "'onnxruntime'"),
        ({"op_types": ("Conv9d",)}, "no layer of them"),
        ({"runs": 1}, "at least 2"),
        ({"floor": math.nan}, "floor is nan; it is a number"),
        ({"floor": "high"}, "floor is 'high'; it is a number"),
        ({"floor": True}, "floor is True; it is a number"),
        ({"bits": 8}, "bits is 8; it is a list"),
        ({"bits": (True, 32)}, "two or more"),
        ({"op_types": "Linear"}, "op_types is 'Linear'; it is a list"),
        ({"runtime": ["onnxruntime"]}, "'onnxruntime'"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(more, said):
    with pytest.raises(ConfigError, match=said):
        search(**more)


@quick
def test_what_cannot_be_met_or_measured_is_an_error():
    with pytest.raises(SearchError, match="cannot be met: with 8 bits everywhere"):
        search(bits=(4, 8), floor=1.0).run()
    with pytest.raises(ConfigError, match=r"model is a str, not a torch.nn.Module"):
        MixedPrecisionSearch("net.pth", batches()[0], batches(), likeness, floor=0.5)
    with pytest.raises(ConfigError, match="evaluator is 3; it is a function"):
        MixedPrecisionSearch(net(), batches()[0], batches(), 3, floor=0.5)
    with pytest.raises(ConfigError, match="calibration is a int"):
        MixedPrecisionSearch(net(), batches()[0], 5, likeness, floor=0.5)
    with pytest.raises(QuantizationError, match="does not run on a calibration batch: RuntimeError: mat1"):
        MixedPrecisionSearch(net(), batches()[0], [torch.randn(4, 9)], likeness, floor=0.5)
    with pytest.raises(QuantizationError, match="no batch"):
        MixedPrecisionSearch(net(), batches()[0], [], likeness, floor=0.5)
    with pytest.raises(SearchError, match="the evaluator said nan"):
        MixedPrecisionSearch(net(), batches()[0], batches(), lambda _: math.nan, floor=0.5).run()


class Unused(nn.Module):
    """Layers that nothing goes through beside one that is called."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.auxiliary = nn.Linear(12, 8), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(x)


@quick
def test_layers_that_are_never_called_stay_out_of_it():
    found = MixedPrecisionSearch(Unused().eval(), batches()[0], batches(), floor=10.0, runs=2).run()
    assert found.alone.keys() == {"head"}
    with pytest.raises(ConfigError, match="the model calls no layer of them"):
        MixedPrecisionSearch(Idle(), batches()[0], batches(), floor=1.0)


class Idle(Unused):
    def forward(self, x):
        return 2 * x


def test_a_runtime_that_is_missing_is_told_before_anything_is_scored(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "openvino", None)
    scored_so_far = []
    with pytest.raises(MissingExtraError, match="openvino is not installed"):
        MixedPrecisionSearch(
            net(),
            batches()[0],
            batches(),
            scored_so_far.append,
            floor=0.5,
            runtime="openvino",
            folder=tmp_path / "found",
        ).run()
    assert scored_so_far == []


@quick
@pytest.mark.parametrize("spoilt", ["word", None, True])
@pytest.mark.parametrize("name", ["score", "ratio"])
def test_a_journal_whose_numbers_are_none_is_told(tmp_path, name, spoilt):
    search(tmp_path / "journal", bits=(8, 32), floor=0.5).run()
    path = tmp_path / "journal" / "journal.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, name: spoilt} if name in line else line) + "\n" for line in lines))
    with pytest.raises(FileError, match=f"is spoilt: under '.*' there is no number '{name}'; pass resume=False"):
        search(tmp_path / "journal", bits=(8, 32), floor=0.5).run()


def test_times_of_another_size_of_input_are_not_taken_over(tmp_path):
    search(tmp_path / "journal", bits=(8, 32), floor=0.5).run()
    larger = torch.cat([batches()[0]] * 2)
    with pytest.raises(FileError, match="not the journal of this search"):
        MixedPrecisionSearch(
            net(), larger, batches(), likeness, folder=tmp_path / "journal", bits=(8, 32), floor=0.5, runs=2
        ).run()


KILLED = """
import json, sys
from tests.search import test_mixed_precision as test
test._left[0] = int(sys.argv[2])
test.RUNTIMES["onnxruntime"] = test.NoRuntime
found = test.search(sys.argv[1]).run()
least = min((p for p in found.points if p.enough), key=lambda p: sum(p.bits.values()))
print(json.dumps({"points": [[p.bits, p.score] for p in found.points], "least": least.bits, "left": test._left[0]}))
"""


def run_and_kill(folder: Path, evaluations: int) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{KILLED}"
    return subprocess.run(
        [sys.executable, "-c", code, str(folder), str(evaluations)], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_killed_it_goes_on_where_it_stopped(tmp_path):
    whole = json.loads(run_and_kill(tmp_path / "whole", 0).stdout)
    evaluated = -whole["left"]
    for _ in range(2):
        assert run_and_kill(tmp_path / "killed", evaluated // 3).returncode == -signal.SIGKILL
    last = run_and_kill(tmp_path / "killed", 0)
    found = json.loads(last.stdout)
    assert found["points"] == whole["points"]
    assert -found["left"] < 0.6 * evaluated
    with pytest.raises(FileError, match="not the journal of this search"):
        search(tmp_path / "killed", floor=0.5).run()
