"""The program against the quantized model: the same numbers, in operators of their own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.contract.test_every_quantizer import EVERY_QUANTIZER, X
from tests.quantization.flows import Net, batch
from torchpare.attach import quantizers_of
from torchpare.errors import ConfigError, ExportError, QuantizationError
from torchpare.files.onnx import export_onnx
from torchpare.pruning import L1FilterPruner
from torchpare.quantization import BNNQuantizer, ObserverQuantizer, QAT_Quantizer
from torchpare.runtimes import ModelSpeedupONNXRuntime, ModelSpeedupOpenVINO, build_program, verify, write_qdq
from torchpare.runtimes.onnxruntime import onnx_session, session_runner

every_quantizer = pytest.mark.parametrize("case", EVERY_QUANTIZER, ids=str)
BATCHES = [batch(seed)[0] for seed in range(3)]


def run(model, x=X):
    with torch.no_grad():
        return model(x)


def sites_of(program, added=False):
    return {site.name for site in program.sites if site.added == added}


@every_quantizer
def test_the_program_computes_what_the_quantized_model_computes_and_leaves_it_alone(case):
    model, _ = case.ready()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    want = run(model)
    program = build_program(model, X)
    torch.testing.assert_close(program(X), want, rtol=1e-6, atol=1e-6 * float(want.abs().max()))
    torch.testing.assert_close(program(X[:3]), want[:3], rtol=1e-6, atol=1e-6 * float(want.abs().max()))
    assert torch.equal(run(model), want)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


@every_quantizer
def test_every_quantizer_is_a_site_or_an_int8_weight_or_has_a_reason(case):
    model, _ = case.ready()
    program = build_program(model, X)
    told = " ".join(str(place) for place in program.floats)
    buffers = dict(program.module.named_buffers())
    for path, _, kind, _ in quantizers_of(model):
        name = f"{path}.{kind}"
        held = [value for key, value in buffers.items() if key.startswith(f"{path}.weight") and "codes" in key]
        if kind == "weight":
            assert name in told or [value.dtype for value in held] == [torch.int8]
        else:
            assert name in told or name in sites_of(program)


@every_quantizer
def test_from_the_files_of_a_quantizer_comes_the_same_program(case, tmp_path):
    model, quantizer = case.ready()
    quantizer.export_model(tmp_path / "model.pth", tmp_path / "calibration.pth")
    plain = Net.of(torch.load(tmp_path / "model.pth", weights_only=True))
    again = build_program(plain, X, config=tmp_path / "calibration.pth")
    if case.quantizer is BNNQuantizer:  # a calibration knows grids, and signs are none
        assert any(place.name == "conv1.output" and "signs" in place.reason for place in again.floats)
        return
    assert torch.equal(again(X), build_program(model, X)(X))


def test_norms_go_into_scales_whether_the_quantizer_knew_of_them_or_not():
    entry = [{"quant_types": ["weight", "input"], "quant_bits": 8, "op_types": ["Conv2d"]}]
    for dummy in (X, None):
        torch.manual_seed(3)
        model = Net()
        model.bn1.weight.data.uniform_(-1, 1)  # a negative factor turns the signs of a channel
        model.bn1.weight.data[2] = 0
        model.bn1.running_var.uniform_(0.2, 3)
        ObserverQuantizer(model, entry, dummy_input=dummy).calibrate(BATCHES)
        program = build_program(model.eval(), X)
        assert not any(n.target is torch.ops.aten._native_batch_norm_legit_no_training.default
                       for n in program.module.graph.nodes)  # fmt: skip
        torch.testing.assert_close(program(X), run(model), rtol=1e-5, atol=1e-5)
        codes = next(v for k, v in program.module.named_buffers() if k.startswith("conv1.weight") and "codes" in k)
        assert not bool(codes[2].any())


class ReadTwice(nn.Module):
    """What the convolution returns is read before the norm too, so that the norm cannot be folded."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


def test_a_norm_that_cannot_be_folded_stays_with_a_reason():
    model = ReadTwice().eval()
    model.norm.weight.data.uniform_(0.5, 2)
    program = build_program(model, X, calibration=BATCHES)
    assert any(place.name == "norm" and "read before the norm" in place.reason for place in program.floats)
    assert float((program(X) - run(model)).abs().max()) < 0.02 * float(run(model).abs().max())


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Linear(5, 8), nn.BatchNorm1d(8), (4, 8, 5)),  # as many tokens as outputs: nothing but the numbers tells
        (nn.Linear(5, 6), nn.BatchNorm1d(8), (4, 8, 5)),
        (nn.Linear(5, 7), nn.BatchNorm2d(3), (4, 3, 6, 5)),
        (nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), (3, 10)),  # without a batch
    ],
    ids=["tokens, as many", "tokens", "maps", "no batch"],
)
def test_a_norm_of_another_axis_than_the_outputs_of_the_layer_stays(layer, norm, shape):
    model = nn.Sequential(layer, norm).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.2, 3)
    x = torch.randn(shape)
    program = build_program(model, x)
    torch.testing.assert_close(program(x), run(model, x))
    assert any(place.name == "1" and "another axis" in place.reason for place in program.floats)


def test_a_plain_model_with_batches_becomes_eight_bits_throughout():
    model = Net().eval()
    program = build_program(model, X, calibration=BATCHES)
    assert program.integers == ("conv1", "conv2", "fc")
    assert [place.name for place in program.floats] == ["up"]
    want = run(model)
    assert 0 < float((program(X) - want).abs().max()) < 0.02 * float(want.abs().max())
    assert sites_of(program, added=True) == {site.name for site in program.sites}


@pytest.mark.parametrize("observer", ["moving_average", "percentile", "kl", "mse"])
def test_observers_choose_the_ranges_of_added_places(observer):
    usual, other = (build_program(Net.of(Net().state_dict()), X, calibration=BATCHES, observer=name)
                    for name in ("min_max", observer))  # fmt: skip
    assert [a.step.scale for a in usual.sites] != [b.step.scale for b in other.sites]


def test_excluded_layers_stay_float():
    program = build_program(Net().eval(), X, calibration=BATCHES, exclude=["fc"])
    assert "fc" not in program.integers
    assert any(str(place) == "fc: excluded" for place in program.floats)
    assert program.module.fc.weight.is_floating_point()


def test_without_batches_a_layer_whose_result_has_no_grid_stays_float_and_with_them_it_does_not():
    entry = [{"quant_types": ["weight", "input"], "quant_bits": 8, "op_types": ["Conv2d", "Linear"]}]
    model = Net()
    ObserverQuantizer(model, entry).calibrate(BATCHES)
    program = build_program(model.eval(), X)
    assert "conv2" not in program.integers
    assert any(place.name == "conv2" and "calibration batches" in place.reason for place in program.floats)
    full = build_program(model, X, calibration=BATCHES)
    assert set(full.integers) == {"conv1", "conv2", "fc"}
    assert sites_of(full) == sites_of(program)
    assert sites_of(full, added=True)


def test_a_pruned_model_keeps_its_zeros():
    model = Net()
    L1FilterPruner(model, [{"sparsity": 0.5, "op_names": ["conv1"]}]).compress()
    QAT_Quantizer(model, [{"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Conv2d"]}]).compress()
    program = build_program(model.eval(), X)
    codes = next(v for k, v in program.module.named_buffers() if k.startswith("conv1.weight") and "codes" in k)
    gone = ~model.conv1.weight_mask.expand_as(model.conv1.weight)
    assert bool(gone.any())
    assert not bool(codes[gone].any())


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids, scale=None):
        return {"logits": self.head(self.table(ids)) * scale, "none": None}


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_tables_are_looked_up_as_integers_and_tied_weights_stay_one(granularity):
    model = Table()
    entry = {
        "quant_types": ["weight"],
        "quant_bits": 4,
        "op_types": ["Embedding", "Linear"],
        "granularity": granularity,
    }
    QAT_Quantizer(model, [entry]).compress()
    given = {"scale": torch.tensor([[2.0]]), "ids": torch.tensor([[0, 3, 8]])}
    program = build_program(model.eval(), given)
    made = program(**given)
    assert made.keys() == {"logits", "none"}
    torch.testing.assert_close(made["logits"], model(**given)["logits"])
    looked_up = [n for n in program.module.graph.nodes if n.target is torch.ops.aten.embedding.default]
    first = program.module.get_buffer(str(looked_up[0].args[0].target))
    assert first.dtype == torch.int8
    assert program.rebuilt([made["logits"]])["none"] is None


def test_tables_of_a_plain_model_get_a_scale_for_each_row():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3)).eval()
    model[0].weight.data *= torch.logspace(-3, 3, 9).unsqueeze(1)
    ids = torch.arange(9).reshape(1, 9)
    program = build_program(model[:1], ids, calibration=[ids])
    held = {name: tensor for name, tensor in program.module.named_buffers() if "codes" in name}
    assert [tensor.dtype for tensor in held.values()] == [torch.int8]
    assert not list(program.module.parameters())
    error = (program(ids) - run(model[:1], ids)).abs().amax(2)[0] / model[0].weight.detach().abs().amax(1)
    assert float(error.max()) <= 0.5 / 127 * 1.001


def test_wrong_arguments_are_told(tmp_path):
    model = Net().eval()
    with pytest.raises(ConfigError, match="exclude names 'nothing'"):
        build_program(model, X, exclude=["nothing"])
    with pytest.raises(QuantizationError, match="calibration holds no batch"):
        build_program(model, X, calibration=[])
    with pytest.raises(ConfigError, match="observer is 'best'; it is one of 'min_max'"):
        build_program(model, X, calibration=[X], observer="best")
    with pytest.raises(QuantizationError, match="config speaks of 'conv9'"):
        build_program(model, X, config={"conv9": {"weight_bits": 8}})
    broken = copy.deepcopy(model)
    broken.conv1.weight.data[0, 0] = torch.nan
    with pytest.raises(QuantizationError, match=r"conv1\.weight holds NaN"):
        build_program(broken, X, calibration=[X])


class Branching(nn.Module):
    def forward(self, x):
        return x + 1 if float(x.sum()) > 0 else x


def test_a_model_without_one_program_is_told_in_a_sentence():
    with pytest.raises(ExportError, match="Branching cannot be recorded as one program"):
        build_program(Branching(), X)


class Mixture(nn.Module):
    """Weights that neither a convolution nor a linear layer multiplies by."""

    def __init__(self):
        super().__init__()
        self.layer, self.recurrent = nn.Linear(8, 8), nn.LSTM(8, 8, batch_first=True)
        self.pair, self.matrix = nn.Bilinear(8, 8, 4), nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        y, _ = self.recurrent(self.layer(x) @ self.matrix)
        scores = torch.softmax(y @ x.transpose(1, 2), -1)  # of no weight, and so of no layer
        return self.pair(y, scores @ x)


def test_layers_that_no_integer_kernel_knows_are_told_to_be_float():
    x = torch.randn(2, 5, 8)
    program = build_program(Mixture().eval(), x, calibration=[x])
    assert program.integers == ("layer",)
    told = {place.name: place.reason for place in program.floats}
    assert told == {
        "recurrent": "computed by lstm, which has no integer kernel here",
        "matmul": "computed by matmul, which has no integer kernel here",
        "pair": "computed by bilinear, which has no integer kernel here",
    }


def test_a_layer_that_was_left_out_is_told_once():
    x = torch.randn(2, 8)
    program = build_program(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)), x, calibration=[x], exclude=["1"])
    assert [str(place) for place in program.floats] == ["1: excluded"]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [3, 4])
def test_convolutions_that_pad_by_a_word_are_computed_in_integers_too(padding, size):
    model = nn.Sequential(nn.Conv2d(3, 8, (size, 3), padding=padding, dilation=(1, 2)), nn.BatchNorm2d(8), nn.ReLU())
    x = torch.randn(2, 3, 9, 9)
    program = build_program(model.eval(), x, calibration=[x])
    assert program.integers == ("0",)
    assert program.floats == ()
    torch.testing.assert_close(program(x), model(x).detach(), rtol=0, atol=0.1)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("layer", "axes"), [(nn.Conv1d, 1), (nn.Conv2d, 2)])
def test_what_convolutions_that_pad_by_a_word_leave_to_torch_is_written_for_each_axis(padding, layer, axes):
    program = build_program(layer(3, 8, 4, padding=padding).eval(), torch.randn(2, 3, 9, 9)[(..., 0)[: 3 - axes]])
    (made,) = [node for node in program.module.graph.nodes if str(node.target).startswith("aten.conv")]
    assert made.args[3] == made.args[5] == [1] * axes  # ONNX takes no single number for several


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (nn.AvgPool2d(2, divisor_override=3), (2, 3, 6, 6)),
        (nn.AvgPool2d((3, 2), 2, 1, count_include_pad=False, divisor_override=1), (2, 3, 7, 7)),
        (nn.AvgPool3d(3, 1, 1, divisor_override=5), (2, 3, 4, 4, 4)),
    ],
    ids=str,
)
def test_a_mean_that_divides_by_another_number_keeps_it_in_a_file(pool, shape, tmp_path):
    model, x = nn.Sequential(pool, nn.Identity()), torch.randn(shape)
    program = build_program(model, x)
    torch.testing.assert_close(program(x), run(model, x))
    write_qdq(program, tmp_path / "model.onnx")
    (made,) = session_runner(onnx_session(tmp_path / "model.onnx"))([x])
    torch.testing.assert_close(made, run(model, x))


def test_a_mean_of_windows_of_several_sizes_that_divides_by_one_number_is_refused():
    with pytest.raises(ExportError, match=r"divisor_override and ceil_mode.*leave one"):
        build_program(nn.AvgPool2d(2, ceil_mode=True, divisor_override=3), torch.randn(1, 1, 5, 5))


def test_a_norm_goes_into_a_grouped_transposed_convolution_too():
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)).eval()
    model[1].weight.data.uniform_(-1, 1)
    model[1].running_var.uniform_(0.2, 3)
    model[1].running_mean.normal_()
    x = torch.randn(2, 4, 5, 5)
    program = build_program(model, x)
    assert not any("batch_norm" in str(node.target) for node in program.module.graph.nodes)
    torch.testing.assert_close(program(x), run(model, x))


class Standardized(nn.Conv2d):
    """A kernel that is worked out anew each time, as in nets with weight standardization."""

    def forward(self, x):
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        return torch.nn.functional.conv2d(x, (self.weight - mean) / (self.weight - mean).norm(), self.bias)


@pytest.mark.parametrize(
    "wrap",
    [
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.parametrizations.spectral_norm,
        torch.nn.utils.weight_norm,
        torch.nn.utils.spectral_norm,
        lambda layer: layer,
    ],
    ids=["weight norm", "spectral norm", "older weight norm", "older spectral norm", "standardized"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_that_are_worked_out_of_others_are_in_eight_bits(wrap):
    torch.manual_seed(0)
    model = nn.Sequential(wrap(Standardized(3, 8, 3)), nn.BatchNorm2d(8), nn.ReLU()).eval()
    x = torch.randn(2, 3, 6, 6)
    program = build_program(model, x, calibration=[x])
    assert program.integers == ("0",)
    assert program.floats == ()
    assert [tensor.dtype for name, tensor in program.module.named_buffers() if "codes" in name] == [torch.int8]
    torch.testing.assert_close(program(x), run(model, x), rtol=0, atol=0.05)


class Placed(nn.Module):
    """Adds what two layers make of positions, which are no input."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv1d(2, 8, 1), nn.Conv1d(8, 4, 1)
        self.layer, self.head = nn.Conv1d(4, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        at = torch.arange(6.0) / 6
        places = self.second(self.first(torch.stack([at.sin(), at.cos()])[None]).relu())
        return self.head((self.layer(x) + places).mean(-1))


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("kind", [ModelSpeedupONNXRuntime, ModelSpeedupOpenVINO])
def test_layers_that_read_no_input_are_worked_out_once(kind, quantized):
    pytest.importorskip("openvino")
    batches = list(torch.randn(3, 2, 4, 6, generator=torch.Generator().manual_seed(0)))
    model, x = Placed().eval(), batches[0]
    if quantized:
        entry = {"quant_types": ["input", "weight", "output"], "quant_bits": 8, "op_types": ["Conv1d", "Linear"]}
        ObserverQuantizer(model, [entry], dummy_input=x).calibrate(batches)
    made = kind(model, dummy_input=x, calib_data_loader=batches, threads=1)
    made.compress()
    kinds = [node.target for node in made.made().module.graph.nodes]
    assert kinds.count(torch.ops.aten.conv1d.default) == 1
    assert made.made().integers == ("layer", "head")
    torch.testing.assert_close(made.made()(x), run(model, x), rtol=0, atol=0.05)
    assert verify(made, x).ok


@pytest.mark.parametrize("kind", [ModelSpeedupONNXRuntime, ModelSpeedupOpenVINO])
def test_what_layers_make_of_no_input_may_be_returned(kind):
    class Anchors(Placed):
        def forward(self, x):
            return super().forward(x), self.first(torch.ones(1, 2, 3))

    pytest.importorskip("openvino")
    model, x = Anchors().eval(), torch.randn(2, 4, 6)
    made = kind(model, dummy_input=x, calib_data_loader=[x], threads=1)
    made.compress()
    assert verify(made, x).ok
    torch.testing.assert_close(made.inference(x)[0][1], run(model, x)[1])


@pytest.mark.parametrize("kind", [ModelSpeedupONNXRuntime, ModelSpeedupOpenVINO])
def test_each_call_of_a_layer_has_a_site_of_its_own(kind):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Conv2d(3, 4, 3)

        def forward(self, x, y):
            return self.layer(x), self.layer(y)

    pytest.importorskip("openvino")
    x = torch.randn(2, 3, 6, 6), 3 * torch.randn(2, 3, 6, 6)
    made = kind(Twice().eval(), dummy_input=x, calib_data_loader=[x], threads=1)
    made.compress()
    names = [site.name for site in made.made().sites]
    assert sorted(names) == ["layer.output", "layer.output (2)", "x.input", "y.input"]
    proof = verify(made, x)
    assert proof.ok
    assert [layer.name for layer in proof.layers][:4] == names


class Random(nn.Module):
    def forward(self, x):
        return torch.nn.functional.linear(x, torch.randn(4, 8))


def test_a_weight_that_is_drawn_anew_each_time_is_left_alone():
    x = torch.randn(2, 8)
    program = build_program(Random().eval(), x, calibration=[x])
    assert program.integers == ()
    assert not torch.equal(program(x), program(x))


class Experts(nn.Module):
    """Each token multiplied by the matrix of one expert."""

    def __init__(self, grouped):
        super().__init__()
        torch.manual_seed(0)
        self.grouped, self.matrices, self.head = grouped, nn.Parameter(torch.randn(2, 16, 16)), nn.Linear(16, 4)

    def forward(self, x):
        chosen = (x.sum(1) > 0).long()
        if self.grouped:
            ends = torch.bincount(chosen, minlength=2)[:2].cumsum(0).int()
            return self.head(torch._grouped_mm(x[chosen.argsort()], self.matrices, offs=ends))
        return self.head(torch.bmm(x.unsqueeze(1), self.matrices[chosen]).squeeze(1))


def test_matrices_that_the_input_picks_are_told_to_be_float():
    x = torch.randn(8, 16)
    program = build_program(Experts(grouped=False).eval(), x, calibration=[x])
    assert program.integers == ("head",)
    assert [str(place) for place in program.floats] == ["bmm: computed by bmm, which has no integer kernel here"]


@pytest.mark.skipif(not hasattr(torch, "_grouped_mm"), reason="older releases have none")
def test_products_in_groups_are_told_with_what_to_do(tmp_path):
    with pytest.raises(ExportError, match=r"computed in groups \(grouped_mm\).*experts_implementation='batched_mm'"):
        build_program(Experts(grouped=True).eval(), torch.randn(8, 16))
    with pytest.raises(ExportError, match=r"computed in groups \(grouped_mm\)"):
        export_onnx(Experts(grouped=True).eval(), tmp_path / "model.onnx", torch.randn(8, 16))
