"""Weights of linear layers in few bits by group: held exactly, written as int4, computed by the four-bit kernel."""

from __future__ import annotations

import math

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from torchpare.errors import ExportError
from torchpare.files.onnx import export_onnx
from torchpare.quantization import QAT_Quantizer
from torchpare.runtimes import (
    ModelSpeedupExecuTorch,
    ModelSpeedupONNXRuntime,
    ModelSpeedupOpenVINO,
    build_program,
    verify,
    write_qdq,
)
from torchpare.runtimes.grouped import Grouped, group, grouped_from
from torchpare.runtimes.integers import Stored, store
from torchpare.runtimes.obstacles import obstacles
from torchpare.runtimes.onnxruntime import onnx_session, session_runner
from torchpare.runtimes.openvino import openvino_runner
from torchpare.runtimes.unpacking import unpacked
from torchpare.runtimes.verify import snr


def quantized(model, bits=4, granularity="group", group_size=16, **more):
    entry = {"quant_types": ["weight"], "quant_bits": bits, "op_types": ["Linear"], "granularity": granularity, **more}
    QAT_Quantizer(model, [entry | ({"group_size": group_size} if granularity == "group" else {})]).compress()
    return model.eval()


def mlp(width=64, bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 48, bias=bias), nn.ReLU(), nn.Linear(48, 32, bias=bias))


def run(model, x):
    with torch.no_grad():
        return model(x)


def kernels(path):
    """What ONNX Runtime makes of a file: its nodes, and the bits of those that have a number of them."""
    optimized = path.with_name("optimized.onnx")
    onnx_session(path, optimized=optimized)
    return [(node.op_type, {one.name: one.i for one in node.attribute}.get("bits"))
            for node in onnx.load(optimized).graph.node]  # fmt: skip


def dtypes(path):
    """The kinds of number of all weights: whatever else a small network has is smaller."""
    return {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in onnx.load(path).graph.initializer
            if math.prod(tensor.dims) > 1000}  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_levels_in_groups_are_held_exactly_in_as_few_bits_as_hold_them(data):
    rows, groups, size = (
        data.draw(st.integers(1, 5)),
        data.draw(st.integers(1, 4)),
        data.draw(st.sampled_from([16, 32])),
    )
    bits, symmetric = data.draw(st.integers(2, 8)), data.draw(st.booleans())
    made = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    low = torch.full((rows, groups, 1), -(2 ** (bits - 1)))
    if not symmetric:  # zero stays among the levels, as every grid has it
        low = -torch.randint(0, 2**bits, (rows, groups, 1), generator=made)
    levels = low + torch.randint(0, 2**bits, (rows, groups, size), generator=made)
    scale = torch.rand(rows, groups, generator=made) + 0.01
    value = (levels * scale.unsqueeze(2)).flatten(1)
    held = group(value, scale)
    assert isinstance(held, Grouped)
    assert torch.equal(held.value, value)
    assert held.bits == 4 or bits > 4
    assert held.codes.dtype == torch.int8
    assert int(held.codes.min()) >= -(2 ** (held.bits - 1))
    assert int(held.codes.max()) < 2 ** (held.bits - 1)
    assert not (symmetric and bool(held.zero_point.any()))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 70), st.integers(2, 8), st.booleans(), st.integers(0, 1000))
def test_rows_in_eight_bits_are_the_same_values_in_four_where_they_fit(rows, width, bits, by_row, seed):
    made = torch.Generator().manual_seed(seed)
    levels = torch.randint(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1), (rows, width), generator=made)
    scale = torch.rand((rows, 1) if by_row else (), generator=made) + 0.01
    stored = store(levels * scale, scale, 0)
    assert isinstance(stored, Stored)
    held = grouped_from(stored)
    assert isinstance(held, Grouped)
    assert torch.equal(held.value, stored.value)
    assert held.scale.shape == (rows, 1)
    assert held.bits == 4 or bits > 4


def test_what_cannot_be_held_in_groups_says_why():
    scale = torch.ones(2, 4)
    assert "groups of 6 weights: kernels take 16, 32, 64, 128, 256" in str(group(torch.zeros(2, 24), scale))
    assert "no whole multiples" in str(group(torch.full((2, 64), 0.5), scale))
    assert "span 301 levels" in str(group(torch.full((2, 64), 300.0), scale))


@pytest.mark.parametrize("shape", [(3, 64), (2, 5, 64)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
def test_four_bits_by_group_are_the_numbers_of_pytorch_in_the_four_bit_kernel(tmp_path, shape, bias, scheme):
    bits = 4 if bias else 2  # fewer are held in four
    model, x = quantized(mlp(bias=bias), bits, quant_scheme=scheme), torch.randn(shape)
    program = build_program(model, x)
    write_qdq(program, tmp_path / "model.onnx")
    want = run(model, x)
    torch.testing.assert_close(program(x), want)
    found = kernels(tmp_path / "model.onnx")
    assert [bits for name, bits in found if name == "MatMulNBits"] == [4, 4], found
    assert {name for name, _ in found} <= {"MatMulNBits", "Relu", "Add"}
    assert dtypes(tmp_path / "model.onnx") == {"UINT4" if scheme == "affine" and bits == 4 else "INT4"}
    for made in (session_runner(onnx_session(tmp_path / "model.onnx")), openvino_runner(tmp_path / "model.onnx")):
        for batch in (x, torch.cat([x, x + 1])):
            torch.testing.assert_close(made([batch])[0], run(model, batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("shape", [(3, 50), (2, 5, 50)])
def test_rows_of_any_width_are_in_four_bits_too(tmp_path, granularity, shape):
    model, x = quantized(mlp(50), 3, granularity), torch.randn(shape)
    write_qdq(build_program(model, x), tmp_path / "model.onnx")
    assert [bits for name, bits in kernels(tmp_path / "model.onnx") if name == "MatMulNBits"] == [4, 4]
    for made in (session_runner(onnx_session(tmp_path / "model.onnx")), openvino_runner(tmp_path / "model.onnx")):
        torch.testing.assert_close(made([x])[0], run(model, x), rtol=1e-4, atol=1e-5)


def test_inputs_are_rounded_where_that_is_asked_for_and_nowhere_else():
    torch.manual_seed(1)
    model, x = quantized(nn.Sequential(nn.Linear(256, 64)), group_size=32), torch.randn(4, 256)
    exact, rounded = (ModelSpeedupONNXRuntime(model, dummy_input=x, round_inputs=rounds) for rounds in (False, True))
    for engine in (exact, rounded):
        engine.compress()
    want = run(model, x)
    assert snr(want, exact.inference(x)[0]) > 100
    assert 20 < snr(want, rounded.inference(x)[0]) < 60
    for kind in (ModelSpeedupOpenVINO, ModelSpeedupExecuTorch):
        with pytest.raises(ExportError, match=f"{kind.runtime} rounds no inputs"):
            kind(model, dummy_input=x, round_inputs=True)


def loaded_as(path):
    """The kinds of number of all weights once they are in ONNX Runtime's memory."""
    made = unpacked(path)
    if made is not None:
        path = path.with_name("unpacked.onnx")
        path.write_bytes(made)
    return dtypes(path)


class Several(nn.Module):
    """Layers that no kernel computes from integers beside one that has such a kernel."""

    def __init__(self):
        super().__init__()
        self.conv, self.up, self.head = nn.Conv2d(3, 64, 5), nn.ConvTranspose2d(64, 8, 4), nn.Linear(8 * 11 * 11, 4)

    def forward(self, x):
        return self.head(torch.relu(self.up(torch.relu(self.conv(x)))).flatten(1))


def test_weights_that_no_kernel_takes_as_integers_are_given_their_values_once(tmp_path):
    path = tmp_path / "model.onnx"
    for granularity in ("channel", "group"):
        model, x = quantized(mlp(), 8, granularity, quant_scheme="affine"), torch.randn(3, 64)
        write_qdq(build_program(model, x), path)
        assert dtypes(path) == {"INT8"}
        assert loaded_as(path) == {"FLOAT"}
    write_qdq(build_program(quantized(mlp()), x), path)
    assert loaded_as(path) == {"INT4"}
    x = torch.randn(2, 3, 12, 12)
    program = build_program(Several().eval(), x, calibration=[x])
    write_qdq(program, path)
    assert unpacked(path) is not None
    left = {one.name: one.data_type for one in onnx.load_from_string(unpacked(path)).graph.initializer
            if math.prod(one.dims) > 1000}  # fmt: skip
    kinds = {name.partition(".")[0]: kind for name, kind in left.items()}
    assert set(kinds.values()) == {onnx.TensorProto.INT8, onnx.TensorProto.FLOAT}
    assert (kinds["conv"], kinds["head"]) == (onnx.TensorProto.INT8, onnx.TensorProto.INT8)
    assert not any(name.startswith("up") and kind == onnx.TensorProto.INT8 for name, kind in left.items())
    made = session_runner(onnx_session(path))([x])[0]
    assert snr(program(x), made) > 40


@pytest.mark.parametrize("granularity", ["group", "channel"])
@pytest.mark.parametrize("shape", [(3, 64), (2, 5, 64)])
def test_eight_bits_are_given_their_values_and_computed_in_float(tmp_path, granularity, shape):
    model, x = quantized(mlp(), 8, granularity, quant_scheme="affine"), torch.randn(shape)
    write_qdq(build_program(model, x), tmp_path / "model.onnx")
    assert dtypes(tmp_path / "model.onnx") == {"INT8"}
    assert "MatMulNBits" not in {name for name, _ in kernels(tmp_path / "model.onnx")}
    for made in (session_runner(onnx_session(tmp_path / "model.onnx")), openvino_runner(tmp_path / "model.onnx")):
        torch.testing.assert_close(made([x])[0], run(model, x), rtol=1e-4, atol=1e-5)


def test_the_file_is_about_an_eighth_of_the_float_one(tmp_path):
    model, x = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)), torch.randn(2, 512)
    export_onnx(model, tmp_path / "float.onnx", x)
    write_qdq(build_program(quantized(model, group_size=128), x), tmp_path / "int4.onnx")
    assert (tmp_path / "int4.onnx").stat().st_size < 0.14 * (tmp_path / "float.onnx").stat().st_size


class Shared(nn.Module):
    """One weight in two layers, and then in a third."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(32, 32), nn.Linear(32, 32, bias=False)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(torch.relu(self.one(self.one(x))))


def test_a_weight_that_several_layers_share_is_in_the_file_once(tmp_path):
    model, x = quantized(Shared()), torch.randn(3, 32)
    write_qdq(build_program(model, x), tmp_path / "model.onnx")
    held = [one for one in onnx.load(tmp_path / "model.onnx").graph.initializer if list(one.dims) == [32, 32]]
    assert [one.data_type for one in held] == [onnx.TensorProto.INT4]
    made = session_runner(onnx_session(tmp_path / "model.onnx"))([x])[0]
    torch.testing.assert_close(made, run(model, x), rtol=1e-4, atol=1e-5)
    # Three layers read it, and for that ONNX Runtime has no four-bit kernel.
    assert "MatMulNBits" not in {name for name, _ in kernels(tmp_path / "model.onnx")}
    engine = ModelSpeedupONNXRuntime(model, dummy_input=x)
    engine.compress()
    assert any("two: several layers share its four-bit weight" in reason for reason in obstacles(engine))


def test_a_plain_model_and_a_calibration_make_the_same_file(tmp_path):
    torch.manual_seed(0)
    model, x = mlp(), torch.randn(3, 64)
    entry = {"quant_types": ["weight"], "quant_bits": 4, "op_types": ["Linear"], "granularity": "group",
             "group_size": 16}  # fmt: skip
    quantizer = QAT_Quantizer(model, [entry])
    quantizer.compress()
    want = build_program(model.eval(), x)
    quantizer.export_model(tmp_path / "model.pth", tmp_path / "calibration.pth")
    rounded = mlp()
    rounded.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    for plain in (rounded.eval(), mlp().eval()):  # of its own weights, which are on no grid yet, too
        program = build_program(plain, x, config=tmp_path / "calibration.pth")
        assert program.grouped.keys() == want.grouped.keys() == {"0.weight", "2.weight"}
        assert all(torch.equal(program.grouped[name].codes, held.codes) for name, held in want.grouped.items())
        torch.testing.assert_close(program(x), want(x))


def test_without_blocks_and_in_older_operator_sets_groups_are_floats(tmp_path):
    model, x = quantized(mlp()), torch.randn(3, 64)
    program = build_program(model, x)
    for blocks, opset in ((False, None), (True, 20)):
        write_qdq(program, tmp_path / "model.onnx", blocks=blocks, opset_version=opset)
        assert dtypes(tmp_path / "model.onnx") == {"FLOAT"}
        made = session_runner(onnx_session(tmp_path / "model.onnx"))([x])[0]
        torch.testing.assert_close(made, run(model, x), rtol=1e-4, atol=1e-5)


def test_the_program_stays_as_it_is_when_a_file_is_written(tmp_path):
    program = build_program(quantized(mlp()), torch.randn(3, 64))
    before = {name: value.clone() for name, value in program.module.state_dict().items()}, str(program.module.graph)
    write_qdq(program, tmp_path / "model.onnx")
    assert program.module.state_dict().keys() == before[0].keys()
    assert str(program.module.graph) == before[1]


def test_what_became_of_the_layers_is_told_and_proved():
    x = torch.randn(3, 64)
    engine = ModelSpeedupONNXRuntime(quantized(mlp(), group_size=16), dummy_input=x)
    engine.compress()
    told = {place.name: place.reason for place in engine.made().floats}
    assert told["0"] == "int4 weights, float arithmetic"
    assert told["0.weight"] == "4-bit integers in groups of 16 in ONNX files, and a float in other runtimes"
    assert "2: int4 weights, float arithmetic" in obstacles(engine)
    assert not any("not fused" in reason for reason in obstacles(engine))
    proof = verify(engine, x)
    assert proof.ok
    assert proof.model_snr > 100


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(32, 8), nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(self.fc(x))


class Tied(nn.Module):
    """A table and a linear layer with one weight."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(9, 32), nn.Linear(32, 9, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(self.table(ids))


@pytest.mark.parametrize(("model", "x", "name", "why"), [
    (Normed(), torch.randn(4, 32), "fc.weight", "a norm is folded into it: a float"),
    (Tied(), torch.tensor([[0, 3, 8]]), "head.weight", "not only linear layers read it: a float"),
])  # fmt: skip
def test_groups_that_stay_floats_say_why(tmp_path, model, x, name, why):
    program = build_program(quantized(model), x)
    assert program.grouped == {}
    assert any(why in place.reason for place in program.floats if place.name in (name, "table.weight"))
    write_qdq(program, tmp_path / "model.onnx")
    made = session_runner(onnx_session(tmp_path / "model.onnx"))([x])[0]
    torch.testing.assert_close(made, run(model, x), rtol=1e-4, atol=1e-5)


def test_weights_that_would_come_to_two_gigabytes_as_floats_stay_as_they_are(tmp_path, monkeypatch):
    model = nn.Sequential(nn.Linear(64, 32))
    entry = {"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Linear"]}
    QAT_Quantizer(model, [entry]).compress()
    path = tmp_path / "model.onnx"
    write_qdq(build_program(model.eval(), torch.randn(1, 64)), path)
    assert unpacked(path) is not None
    monkeypatch.setattr("torchpare.runtimes.unpacking._LARGEST", path.stat().st_size + 4 * 64 * 32 - 1)
    assert unpacked(path) is None
