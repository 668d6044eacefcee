"""Times against each other, and the guard: a compressed model that is no faster fails, and is told why."""

from __future__ import annotations

import itertools
import json
import sys

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from torchpare.cli import app
from torchpare.errors import ConfigError
from torchpare.quantization import ObserverQuantizer
from torchpare.runtimes import ModelSpeedupONNXRuntime, bench
from torchpare.runtimes.bench import benchmark
from torchpare.runtimes.obstacles import not_fused, obstacles

X = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
BATCHES = [torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


def net(width=16):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)).eval()


def quantized(types=("weight", "input"), bits=8):
    model = net()
    entry = {"quant_types": list(types), "quant_bits": bits, "op_types": ["Conv2d", "Linear"]}
    ObserverQuantizer(model, [entry]).calibrate(BATCHES)
    return model


def batches():
    return BATCHES


@pytest.fixture
def clock_of(monkeypatch):
    """A clock by which each contender takes the seconds that the test says, in the order of the contenders."""

    def use(**seconds):
        def measured(contenders, **options):
            order = list(contenders)
            ticks = iter(())
            now = 0.0
            plan = []
            for turn in range(-options["warmup"], options["runs"]):
                for name in order if turn % 2 == 0 else reversed(order):
                    plan += [now, now + seconds[name]]
                    now += seconds[name]
            ticks = iter(plan)
            return real(contenders, clock=lambda: next(ticks), **options)

        real = bench.measure
        monkeypatch.setattr(bench, "measure", measured)

    return use


def test_models_take_turns_in_every_runtime_at_every_batch_size(clock_of):
    clock_of(dense=0.004, int8=0.002, small=0.001)
    found = benchmark(
        net(), {"int8": quantized(), "small": net(8)}, X, runtimes=["onnxruntime", "openvino"], batch_sizes=[1, 3],
        calibration=BATCHES, runs=3, warmup=1, threads=1,
    )  # fmt: skip
    cells = list(itertools.product(["ONNX Runtime", "OpenVINO"], [1, 3], ["dense", "int8", "small"]))
    assert [(row.runtime, row.batch, row.name) for row in found.rows] == cells
    assert found.ok
    by_name = {row.name: row for row in found.rows}
    assert by_name["int8"].speedup == pytest.approx(2)
    assert by_name["small"].speedup == pytest.approx(4)
    assert by_name["int8"].file_bytes < by_name["dense"].file_bytes
    assert by_name["dense"].output_snr > 100
    assert by_name["int8"].output_snr < 100
    assert all(row.taken.threads == 1 and row.taken.runs == 3 for row in found.rows)
    told = json.loads(json.dumps(found.to_dict()))
    assert len(told["rows"]) == 12
    assert told["rows"][1]["seconds_median"] == pytest.approx(0.002)


def test_a_model_that_is_not_faster_fails_with_the_reason_of_each_layer(clock_of):
    clock_of(dense=0.002, weights_only=0.002, odd=0.003)
    found = benchmark(
        net(), {"weights_only": quantized(("weight",)), "odd": net(13)}, X, runs=3, warmup=0, threads=1
    )  # fmt: skip
    assert not found.ok
    reasons = {each.row.name: "\n".join(each.reasons) for each in found.slower}
    assert "0: its input lies on no grid" in reasons["weights_only"]
    assert "2: its input lies on no grid" in reasons["weights_only"]
    assert "2: 13 channels, no multiple of 8" in reasons["odd"]
    assert "the whole model: " in reasons["odd"]
    assert str(found.slower[1]).startswith("odd is 0.67 times as fast as dense in ONNX Runtime at batch 1:")
    assert {each["name"] for each in found.to_dict()["slower"]} == {"weights_only", "odd"}


def test_layers_that_onnx_runtime_did_not_fuse_are_found_in_what_it_made_of_the_file():
    fused = ModelSpeedupONNXRuntime(net(), dummy_input=X, calib_data_loader=BATCHES, threads=1)
    fused.compress()
    assert not_fused(fused.file, fused.folder()) == []
    entry = {"quant_types": ["weight", "input"], "quant_bits": 8, "op_types": ["Conv2d"], "quant_scheme": "symmetric"}
    model = net()
    ObserverQuantizer(model, [entry]).calibrate(BATCHES)
    loose = ModelSpeedupONNXRuntime(model, dummy_input=X, calib_data_loader=BATCHES, threads=1)
    loose.compress()
    assert loose.program.integers[:2] == ("0", "2")
    # A grid with as many integers below zero as above does not cut off what a ReLU does: the ReLU stays in between.
    assert "0" in not_fused(loose.file, loose.folder())
    assert any(reason.startswith("0: not fused") for reason in obstacles(loose))


def test_what_cannot_be_compared_is_told():
    with pytest.raises(ConfigError, match="runtimes names 'abacus'; known are 'onnxruntime'"):
        benchmark(net(), net(), X, runtimes=["abacus"])
    with pytest.raises(ConfigError, match="under other names than 'dense'"):
        benchmark(net(), {"dense": net()}, X)
    with pytest.raises(ConfigError, match="a batch size is 0; it is a whole number, 1 or more"):
        benchmark(net(), net(), X, batch_sizes=[0])


MODELS = """
from tests.runtimes.test_bench import batches, net, quantized

def slow():
    return net(64)

def wrong():
    raise RuntimeError("no batches today")
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    (tmp_path / "deployed_models.py").write_text(MODELS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("deployed_models", None)


def test_the_command_bench_ends_with_1_where_compressed_is_not_faster(models, clock_of, tmp_path):
    clock_of(dense=0.002, wide=0.004, int8=0.001)
    words = ["bench", "deployed_models:net", "int8=deployed_models:quantized", "wide=deployed_models:slow", "--input",
             "1x3x12x12", "--runs", "2", "--json", str(tmp_path / "bench.json")]  # fmt: skip
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 1, told.output
    assert "wide is 0.50 times as fast as dense" in told.output
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [each["name"] for each in written["slower"]] == ["wide"]
    told = CliRunner().invoke(app, [word for word in words if not word.startswith("wide=")])
    assert told.exit_code == 0, told.output


def test_the_command_verify_tells_layer_by_layer(models, tmp_path):
    words = ["verify", "deployed_models:quantized", "--input", "1x3x12x12", "--json", str(tmp_path / "proof.json")]
    told = CliRunner().invoke(app, [*words, "--calibration", "deployed_models:batches"])
    assert told.exit_code == 0, told.output
    assert "all layers are the same numbers" in told.output
    assert json.loads((tmp_path / "proof.json").read_text())["ok"] is True


def test_the_command_verify_ends_with_1_where_numbers_differ(models, monkeypatch):
    from torchpare.commands import deploy

    monkeypatch.setattr(deploy, "verify", lambda *_: _Differs())
    told = CliRunner().invoke(app, ["verify", "deployed_models:quantized", "--input", "1x3x12x12"])
    assert told.exit_code == 1


class _Differs:
    ok = False


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--runtime", "abacus"], "--runtime is 'abacus'"),
        (["--calibration", "deployed_models:wrong"], "deployed_models:wrong() failed: RuntimeError: no batches today"),
        (["--calibration", "nothing"], "package.module:callable"),
        (["--json", "nowhere/proof.json"], "there is no folder"),
    ],
)
def test_words_that_make_no_sense_are_told(models, words, told):
    found = CliRunner().invoke(app, ["verify", "deployed_models:quantized", "--input", "1x3x12x12", *words])
    assert found.exit_code == 2
    assert told in " ".join(found.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"runs": 1}, "runs is 1; it is a whole number, 2 or more"),
        ({"runs": "30"}, "runs is '30'"),
        ({"warmup": -1}, "warmup is -1; it is a whole number, 0 or more"),
        ({"threads": 0}, "threads is 0"),
        ({"runtimes": "onnxruntime"}, "runtimes is 'onnxruntime'; it is a list"),
        ({"runtimes": []}, r"runtimes is \[\]; it is a list"),
        ({"batch_sizes": 8}, r"batch_sizes is 8; it is a list, such as \[1, 8\]"),
        ({"batch_sizes": [True]}, "a batch size is True"),
        ({"batch_sizes": [10**12]}, "an input of batch 1000000000000 does not fit into memory"),
        ({"calibration": 5}, "calibration is a int"),
        ({"dense": None}, "dense is a NoneType, not a torch.nn.Module"),
        ({"compressed": None}, "compressed is a NoneType"),
        ({"compressed": {"small": "nets:small"}}, "small is a str"),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_is(options, told):
    given = {"dense": net(), "compressed": net(), "dummy_input": X, **options}
    with pytest.raises(ConfigError, match=told):
        benchmark(**given)


def test_what_is_named_twice_is_measured_once(clock_of):
    clock_of(dense=0.002, compressed=0.001)
    found = benchmark(net(), net(), X, runtimes=["onnxruntime"] * 2, batch_sizes=[2, 1, 2], runs=2, warmup=0)
    assert [(row.batch, row.name) for row in found.rows] == list(itertools.product([2, 1], ["dense", "compressed"]))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a=deployed_models:net", "a=deployed_models:slow"], "'a=deployed_models:slow' has the name of another"),
        (["=deployed_models:net"], "'=deployed_models:net' has no name; give each model one of its own"),
        (["deployed_models:slow", "--json", "nowhere/bench.json"], "there is no folder"),
        (["deployed_models:slow", "--html", "nowhere/bench.html"], "there is no folder"),
        (["deployed_models:slow", "--batch", "\u00b3"], "--batch is"),
    ],
)
def test_the_command_bench_tells_what_makes_no_sense_before_it_measures(models, monkeypatch, words, told):
    monkeypatch.setattr(bench, "measure", None)
    found = CliRunner().invoke(app, ["bench", "deployed_models:net", *words, "--input", "1x3x12x12"])
    assert found.exit_code == 2, found.output
    assert told in " ".join(found.output.replace("│", " ").split())


def test_an_output_that_is_only_wrong_when_nobody_looks_inside_is_wrong():
    from torchpare.runtimes import LayerProof

    seen = {"name": "output 0", "elements": 4, "within": None, "worst": None, "snr": 130.0}
    assert LayerProof(**seen, snr_in_whole=28.0, watched_snr=31.0).ok
    assert not LayerProof(**seen, snr_in_whole=8.0, watched_snr=130.0).ok
    assert not LayerProof(**seen, snr_in_whole=8.0, watched_snr=31.0).ok
    assert LayerProof(**seen, snr_in_whole=31.0, watched_snr=130.0).ok
    assert not LayerProof(**{**seen, "snr": 20.0}, snr_in_whole=130.0, watched_snr=130.0).ok
