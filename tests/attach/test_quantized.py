"""Quantizers on layers: written in, moved, replicated, taken off."""

from __future__ import annotations

import copy

import onnxruntime
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import torchpare
from torchpare.attach import FakeQuantize, detach_quantizers
from torchpare.errors import CheckpointError, ConfigError, QuantizationError
from torchpare.quantization import (
    DoReFaQuantizer,
    LsqPlusQuantizer,
    LsqQuantizer,
    NaiveQuantizer,
    ObserverQuantizer,
    QAT_Quantizer,
)

WEIGHTS = [{"quant_types": ["weight"], "quant_bits": 4, "op_types": ["Linear"]}]


@pytest.mark.parametrize("quantizer", [DoReFaQuantizer, QAT_Quantizer, LsqQuantizer])
def test_a_shared_weight_is_written_in_once(quantizer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 6), nn.Linear(6, 10, bias=False))
    model[1].weight = model[0].weight
    quantizer(model, WEIGHTS).compress()
    before = model[1].weight.detach().clone()
    detach_quantizers(model, bake=True)
    assert torch.equal(model[0].weight, before)
    assert model[0].weight is model[1].weight


def replica_of(module):
    """As ``torch.nn.DataParallel`` makes it on the first device, whose tensors are the original's."""
    replica = module._replicate_for_data_parallel()
    replica._buffers = dict(module._buffers)
    for name, child in module._modules.items():
        replica._modules[name] = replica_of(child)
    for name, parameter in module._parameters.items():
        setattr(replica, name, parameter.view_as(parameter))
    return replica


@pytest.mark.parametrize("quantizer", [QAT_Quantizer, LsqQuantizer])
def test_what_replicas_of_data_parallel_have_seen_counts_for_the_model(quantizer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4))
    quantizer(model, [{**WEIGHTS[0], "quant_types": ["input"], "quant_bits": 2}]).compress()
    replica_of(model)(torch.randn(8, 4))
    step = model[0].input_quantizer.scale.detach().clone()
    replica_of(model)(100 * torch.randn(8, 4))
    assert quantizer is QAT_Quantizer or torch.equal(model[0].input_quantizer.scale, step)
    x = torch.randn(8, 4)
    assert not torch.equal(model.eval()(x), nn.functional.linear(x, model[0].weight, model[0].bias))


@pytest.mark.parametrize("counted_by", ["optimizer", "passes"])
@pytest.mark.parametrize("kind", ["weight", "input", "output"])
def test_as_many_steps_pass_unrounded_as_were_asked_for(counted_by, kind):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4)), torch.randn(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    entry = {**WEIGHTS[0], "quant_types": [kind], "quant_bits": 2, "quant_start_step": 3}
    QAT_Quantizer(model, [entry], optimizer if counted_by == "optimizer" else None).compress()
    rounded = []
    for _ in range(5):
        dense = nn.functional.linear(x, model[0].old_weight, model[0].bias)
        output = model(x)
        rounded.append(not torch.equal(output, dense))
        optimizer.zero_grad()
        output.sum().backward()
        optimizer.step()
    assert rounded == [False] * 3 + [True] * 2


@pytest.mark.parametrize(
    ("other", "said"),
    [({"quant_bits": 8}, "an affine grid of the integers from 0 to 255, and here is an affine grid .* 0 to 15"),
     ({"quant_scheme": "symmetric"}, "a symmetric grid of the integers from -7 to 7, and"),
     ({"signed": True}, "an affine grid of the integers from -8 to 7, and")],
)  # fmt: skip
def test_a_checkpoint_of_another_grid_is_refused_by_name(other, said):
    entry = {**WEIGHTS[0], "quant_types": ["input"]}
    saved, model = (nn.Sequential(nn.Linear(4, 4)) for _ in range(2))
    QAT_Quantizer(saved, [{**entry, **other}]).compress()
    QAT_Quantizer(model, [entry]).compress()
    saved(torch.randn(8, 4))
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=rf"0\.input_quantizer\.grid: saved of {said}"):
            model.load_state_dict(saved.state_dict(), strict=strict)
    assert not model[0].input_quantizer.active


def test_what_is_learnt_stays_in_float32_with_its_gradient_and_counts_stay_counts():
    model = nn.Sequential(nn.Linear(4, 4))
    LsqQuantizer(model, [{**WEIGHTS[0], "quant_types": ["weight", "input"]}]).compress()
    model(torch.randn(8, 4)).sum().backward()
    step = model[0].weight_quantizer.scale
    before, slope = step.detach().clone(), step.grad.clone()
    model.bfloat16()
    assert model[0].weight_quantizer.scale is step
    assert (step.dtype, step.grad.dtype) == (torch.float32, torch.float32)
    assert torch.equal(step, before)
    torch.testing.assert_close(step.grad, slope, rtol=1e-2, atol=0)
    assert model[0].input_quantizer.low.dtype == torch.float32


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_weight_that_is_made_at_each_call_is_refused_by_name(norm):
    model = nn.Sequential(norm(nn.Linear(4, 4)))
    with pytest.raises(QuantizationError, match=r"0\.weight is made of 0\.weight_"):
        QAT_Quantizer(model, WEIGHTS)
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(ConfigError, match="take its parametrization off first"):
        QAT_Quantizer(model, [{"quant_types": ["weight"], "quant_bits": 8, "op_names": ["0"]}])


def test_a_quantized_model_is_not_said_to_be_masked_where_it_cannot_be_loaded_into(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4))
    torchpare.save(model, tmp_path / "model.safetensors")
    QAT_Quantizer(model, WEIGHTS).compress()
    with pytest.raises(CheckpointError, match=r"while quantizers hang on '0': torchpare\.save writes them too"):
        torchpare.load(model, tmp_path / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", [NaiveQuantizer, QAT_Quantizer, DoReFaQuantizer, LsqQuantizer])
@pytest.mark.filterwarnings("ignore:`isinstance")  # of torch, to torch
def test_a_quantized_model_is_exported_to_onnx_as_it_stands(quantizer, tmp_path):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).eval(), torch.randn(2, 4)
    quantizer(model, WEIGHTS).compress()
    torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), model(x))


def test_a_model_that_averages_another_begins_when_that_has_begun():
    model = nn.Sequential(nn.Linear(4, 4))
    QAT_Quantizer(model, [{**WEIGHTS[0], "quant_types": ["input"], "quant_bits": 2}]).compress()
    average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    x = torch.randn(8, 4)
    for _ in range(2):
        model(x)
        average.update_parameters(model)
    assert torch.equal(average.eval()(x), model.eval()(x))


@pytest.mark.parametrize(
    ("layer", "error", "said"),
    [(nn.LazyLinear(4), QuantizationError, r"0\.weight has no shape yet"),
     (nn.Linear(4, 4, dtype=torch.complex64), ConfigError, "0, a Linear, has no weight to quantize")],
)  # fmt: skip
def test_weights_without_a_shape_and_complex_ones_are_refused_by_name(layer, error, said):
    with pytest.raises(error, match=said):
        QAT_Quantizer(nn.Sequential(layer), [{"quant_types": ["weight"], "quant_bits": 8, "op_names": ["0"]}])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_rounds_each_weight_once_in_a_pass(kind, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(kind(4, 5, num_layers=2))
    QAT_Quantizer(model, [{"quant_types": ["weight"], "quant_bits": 4, "op_names": ["0"]}]).compress()
    baked = copy.deepcopy(model)
    detach_quantizers(baked, bake=True)
    rounded = []
    whole = FakeQuantize.forward
    monkeypatch.setattr(FakeQuantize, "forward", lambda own, x: rounded.append(own.name) or whole(own, x))
    x = torch.randn(3, 2, 4)
    torch.testing.assert_close(model(x)[0], baked(x)[0])
    assert sorted(rounded) == sorted(f"0.weight_{at}_l{layer}" for at in ("ih", "hh") for layer in (0, 1))
    with torch.no_grad():
        model[0]._parameters["weight_ih_l0"].mul_(2)
    assert not torch.equal(model(x)[0], baked(x)[0])
    with pytest.raises(RuntimeError):
        model(torch.randn(3, 2, 7))
    assert "torchpare_flat_weights" not in vars(model[0])


@pytest.mark.parametrize("quantizer", [QAT_Quantizer, LsqQuantizer, ObserverQuantizer])
def test_what_is_hung_up_in_inference_mode_serves_training(quantizer):
    model, x = nn.Sequential(nn.Linear(4, 4)), torch.randn(8, 4)
    own = quantizer(model, [{**WEIGHTS[0], "quant_types": ["weight", "input"]}])
    with torch.inference_mode():
        own.compress()
    model(x).sum().backward()
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    assert model[0].old_weight.grad is not None


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("quantizer", [QAT_Quantizer, LsqQuantizer])
def test_what_a_checkpoint_runs_again_is_observed_and_counted_once(quantizer, reentrant):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    entry = {**WEIGHTS[0], "quant_types": ["weight", "input", "output"], "quant_start_step": 1}
    quantizer(model, [entry]).compress()
    twin = copy.deepcopy(model)
    for size in (1, 3, 2):
        x = size * torch.randn(8, 4)
        checkpoint(model, x.clone().requires_grad_(), use_reentrant=reentrant).square().sum().backward()
        twin(x).square().sum().backward()
    assert int(model[0].output_quantizer.steps) == 3
    for ours, theirs in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("signed", [True, False])
def test_the_zero_point_of_a_symmetric_grid_is_its_middle_whatever_is_learnt(signed):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4)), torch.randn(64, 4) + 1
    entry = {**WEIGHTS[0], "quant_types": ["output"], "quant_scheme": "symmetric", "signed": signed}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    LsqPlusQuantizer(model, [entry], optimizer).compress()
    for _ in range(10):
        optimizer.zero_grad()
        (model(x) - 5).square().mean().backward()
        optimizer.step()
    assert int(model[0].zero_point) == (0 if signed else 8)
    steps = model.eval()(x) / model[0].scale
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
