"""Queries and keys that are rounded for their product: which, on what grids, and whether the numbers are right."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.errors import ConfigError
from torchpare.quantization import ObserverQuantizer
from torchpare.runtimes import (
    ModelSpeedupExecuTorch,
    ModelSpeedupONNXRuntime,
    ModelSpeedupOpenVINO,
    build_program,
    verify,
)
from torchpare.runtimes.record import record
from torchpare.runtimes.scores import scores
from torchpare.runtimes.verify import snr

HEADS, WIDTH = 2, 16


def operator(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q * WIDTH**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v


def with_a_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weighed = q @ k.permute(0, 1, 3, 2) / math.sqrt(WIDTH) + torch.linspace(-1, 1, k.shape[2])
    hidden = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(1)
    return torch.softmax(weighed.masked_fill(hidden, -1e9), -1) @ v


def in_batches(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    flat = [each.flatten(0, 1) for each in (q, k, v)]
    return torch.bmm(torch.bmm(flat[0], flat[1].transpose(1, 2)).softmax(-1), flat[2]).view(q.shape)


def grouped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)


WAYS = [operator, by_hand, with_a_mask, in_batches, grouped]
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


class Attends(nn.Module):
    """Attention between linear layers, written in one of the ways in which models write it."""

    def __init__(self, way: Any, heads: int = HEADS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way, self.heads = way, heads
        self.q, self.k, self.v, self.out = (nn.Linear(heads * WIDTH, heads * WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(x.shape[0], -1, self.heads, WIDTH).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        return self.out(self.way(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, way: Any = operator) -> None:
        super().__init__()
        self.attention, self.after = Attends(way), nn.Linear(HEADS * WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x + self.attention(x))


BATCHES = list(torch.randn(4, 2, 40, HEADS * WIDTH, generator=torch.Generator().manual_seed(0)))
X = BATCHES[0]
ADDED = {"attention.query", "attention.key"}


def names(program: Any) -> set[str]:
    return {site.name for site in program.sites}


@every_way
def test_queries_and_keys_are_rounded_when_asked_with_zero_in_the_middle(way):
    model = Block(way).eval()
    without = build_program(model, X, calibration=BATCHES)
    program = build_program(model, X, calibration=BATCHES, attention=True)
    assert names(program) - names(without) == ADDED
    assert names(without) <= names(program)
    for site in program.sites:
        if site.name in ADDED:
            assert (site.step.dtype, site.step.zero_point, site.added) == (torch.int8, 0, True)
    with torch.no_grad():
        want = model(X)
    assert snr(want, without(X)) - 6 < snr(want, program(X)) < 60


def test_each_grid_spans_what_calibration_saw():
    model = Attends(operator).eval()
    program = build_program(model, X, calibration=BATCHES, attention=True)
    steps = {site.name: site.step for site in program.sites}
    with torch.no_grad():
        for kind, layer in (("query", model.q), ("key", model.k)):
            # the linear layer's input and weight are rounded too, so that the range is almost the float model's
            largest = max(float(layer(batch).abs().max()) for batch in BATCHES)
            assert steps[kind].scale * 127 == pytest.approx(largest, rel=0.02)


@every_way
def test_runtimes_compute_the_same_numbers(way):
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    for kind in (ModelSpeedupOpenVINO, ModelSpeedupONNXRuntime):
        made = kind(Block(way).eval(), dummy_input=X, calib_data_loader=BATCHES, threads=1, attention=True)
        made.compress()
        assert names(made.program) >= ADDED
        proof = verify(made, X)
        assert proof.ok, proof.to_dict()
        assert {layer.name for layer in proof.layers} >= ADDED
        assert snr(made.made()(X), made.inference(X)[0]) > 40


def test_executorch_takes_what_attention_of_rounded_queries_returns():
    """Attention returns what lies in memory as its queries do, and rounded ones lie otherwise."""
    pytest.importorskip("executorch")

    class Layer(nn.MultiheadAttention):
        def __init__(self) -> None:
            super().__init__(16, 2, batch_first=True)
            self.before = nn.Conv2d(3, 16, 1)

        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override] - with itself
            x = self.before(x).relu().flatten(2).transpose(1, 2)
            return super().forward(x, x, x, need_weights=False)[0]

    x = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    made = ModelSpeedupExecuTorch(Layer().eval(), dummy_input=x, calib_data_loader=[x], attention=True)
    made.compress()
    assert names(made.made()) >= {"query", "key"}
    assert verify(made, x).ok  # of parts of the program, each by itself


def test_openvino_rounds_plain_models_so_by_itself_and_others_when_asked():
    pytest.importorskip("openvino")
    options: dict[str, Any] = {"dummy_input": X, "calib_data_loader": BATCHES, "threads": 1}

    def sites(kind: Any, model: nn.Module, **more: Any) -> set[str]:
        made = kind(model, **options, **more)
        made.compress()
        return names(made.program)

    assert sites(ModelSpeedupOpenVINO, Block().eval()) >= ADDED
    assert ADDED.isdisjoint(sites(ModelSpeedupOpenVINO, Block().eval(), attention=False))
    assert ADDED.isdisjoint(sites(ModelSpeedupONNXRuntime, Block().eval()))
    quantized = Block().eval()
    entry = {"quant_types": ["input", "weight"], "quant_bits": 8, "op_types": ["Linear"]}
    ObserverQuantizer(quantized, [entry], dummy_input=X).calibrate(BATCHES)
    assert ADDED.isdisjoint(sites(ModelSpeedupOpenVINO, quantized))
    assert sites(ModelSpeedupOpenVINO, quantized, attention=True) >= ADDED


def test_excluded_attention_stays_float():
    program = build_program(Block().eval(), X, calibration=BATCHES, attention=True, exclude=["attention"])
    assert ADDED.isdisjoint(names(program))
    within = build_program(Block().eval(), X, calibration=BATCHES, attention=True, exclude=["attention.q", "after"])
    assert names(within) >= ADDED


def test_two_products_of_one_layer_have_names_of_their_own():
    class Twice(Attends):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(super().forward(x))

    program = build_program(Twice(operator).eval(), X, calibration=BATCHES, attention=True)
    kinds = [site.name for site in program.sites if site.name.startswith(("query", "key"))]
    assert sorted(kinds) == ["key", "key (2)", "query", "query (2)"]


def test_what_is_multiplied_with_itself_is_rounded_once():
    class Alike(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x @ x.transpose(1, 2)).softmax(-1) @ x

    program = build_program(Alike().eval(), X, calibration=BATCHES, attention=True)
    assert names(program) == {"query"}
    with torch.no_grad():
        assert 30 < snr(Alike()(X), program(X)) < 100


def test_what_is_on_a_grid_is_not_rounded_again():
    model = Block().eval()
    entry = {"quant_types": ["output"], "quant_bits": 8, "op_names": ["attention.q", "attention.k"]}
    ObserverQuantizer(model, [entry], dummy_input=X).calibrate(BATCHES)
    program = build_program(model, X, calibration=BATCHES, attention=True)
    assert names(program) == {"attention.q.output", "attention.k.output"}


def test_other_products_are_none_of_queries_and_keys():
    class Others(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(40, HEADS * WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            alike = x @ x.transpose(1, 2)  # no softmax follows
            shares = (x @ self.table.T).softmax(-1)  # with a weight
            return alike @ shares

    assert list(scores(record(Others().eval(), X))) == []


def test_wrong_wishes_are_told():
    with pytest.raises(ConfigError, match="attention=True rounds queries and keys on grids that calibration"):
        build_program(Block().eval(), X, attention=True)
    with pytest.raises(ConfigError, match="attention is 'yes'; it is True or False"):
        build_program(Block().eval(), X, calibration=BATCHES, attention="yes")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="attention is 1; it is True or False"):
        ModelSpeedupONNXRuntime(Block().eval(), dummy_input=X, attention=1)  # type: ignore[arg-type]
