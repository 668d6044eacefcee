"""Training under fake quantization: when it begins, what ranges it learns, and in whose company it works."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import distributed, nn
from torch.utils.checkpoint import checkpoint

from tests.quantization.flows import Net, batch, train
from torchpare.attach import quantizers_of
from torchpare.attach.quantizer import DECAY
from torchpare.errors import ConfigError
from torchpare.quantization import (
    BNNQuantizer,
    DoReFaQuantizer,
    LsqPlusQuantizer,
    LsqQuantizer,
    PACTQuantizer,
    QAT_Quantizer,
)

EVERYTHING = [{"quant_types": ["weight", "input", "output"], "quant_bits": 8, "op_types": ["Conv2d", "Linear"]}]


def test_the_range_of_activations_is_the_corrected_moving_average_of_the_batches():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2))
    QAT_Quantizer(model, [{"quant_types": ["input"], "quant_bits": 8, "op_types": ["Linear"]}]).compress()
    batches = [torch.randn(4, 3) * (1 + at) for at in range(5)]
    lows, highs, weights = [], [], []
    for x in batches:
        model(x)
        lows.append(float(x.min()))
        highs.append(float(x.max()))
        weights = [weight * DECAY for weight in weights] + [1.0]
        low, high = (sum(w * v for w, v in zip(weights, own, strict=True)) / sum(weights) for own in (lows, highs))
        assert float(model[0].scale) == pytest.approx((high - low) / 255, rel=1e-4)
        assert int(model[0].zero_point) == round(-low / ((high - low) / 255))
    model.eval()
    before = model[0].scale.clone()
    model(1000 * batches[0])
    assert torch.equal(model[0].scale, before)  # evaluation leaves ranges alone


@pytest.mark.parametrize("with_optimizer", [True, False])
@pytest.mark.parametrize("quantizer", [QAT_Quantizer, LsqQuantizer, PACTQuantizer, DoReFaQuantizer])
def test_rounding_begins_after_as_many_steps_as_were_asked_for(quantizer, with_optimizer):
    torch.manual_seed(0)
    model = Net()
    types = ["weight"] if quantizer is DoReFaQuantizer else ["weight", "output"]
    asked = [{"quant_types": types, "quant_bits": 4, "quant_start_step": 3, "op_types": ["Linear"]}]
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    method = quantizer(model, asked, optimizer if with_optimizer else None)
    model = method.compress()
    rounded = []
    for at in range(5):
        x, y = batch(at)
        optimizer.zero_grad()
        F.cross_entropy(model.train()(x), y).backward()
        optimizer.step()
        rounded.append(not torch.equal(model.fc.weight, model.fc.old_weight))
    # Three steps lie behind once the optimizer has taken the third; passes are counted as they begin.
    assert rounded == [False, False, with_optimizer, True, True]
    state = model.state_dict()
    again = quantizer(Net(), asked).compress()
    again.load_state_dict(state)
    assert torch.equal(again.eval()(batch()[0]), model.eval()(batch()[0]))  # steps are part of the state


def test_ranges_are_observed_before_rounding_begins():
    model = Net()
    asked = [{"quant_types": ["output"], "quant_bits": 8, "quant_start_step": 100, "op_types": ["Linear"]}]
    QAT_Quantizer(model, asked).compress()
    train(model, steps=2)
    assert int(model.fc.output_quantizer.seen) == 2
    assert float(model.fc.output_quantizer.high) > 0
    assert "waiting" in repr(model.fc.output_quantizer)


def test_weights_before_a_norm_are_rounded_as_they_will_be_folded():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.5, -2.0, 3.0, 0.1]))
        model[1].running_var.copy_(torch.tensor([0.1, 4.0, 1.0, 9.0]))
        model[1].running_mean.normal_()
        model[1].bias.normal_()
    x = torch.randn(2, 3, 6, 6)
    asked = [{"quant_types": ["weight"], "quant_bits": 4, "granularity": "channel", "op_types": ["Conv2d"]}]
    QAT_Quantizer(model, asked, dummy_input=x).compress().eval()
    factor = (model[1].weight / (model[1].running_var + model[1].eps).sqrt()).reshape(-1, 1, 1, 1)
    folded = model[0].old_weight * factor
    scale = folded.abs().amax((1, 2, 3), keepdim=True) / 7
    rounded = (folded / scale).round() * scale
    torch.testing.assert_close(model[0].scale, scale.detach())
    bias = model[1].bias - model[1].running_mean * factor.flatten()
    torch.testing.assert_close(model(x), F.relu(F.conv2d(x, rounded, bias)), rtol=1e-4, atol=1e-5)


def test_learnt_grids_join_the_optimizer_once_and_take_no_weight_decay():
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1)
    LsqQuantizer(model, EVERYTHING, optimizer).compress()
    own = {id(p) for _, _, _, quantizer in quantizers_of(model) for p in quantizer.parameters()}
    (added,) = optimizer.param_groups[1:]
    assert {id(p) for p in added["params"]} == own
    assert added["weight_decay"] == 0.0
    before = model.conv2.weight_quantizer.scale.detach().clone()
    train(model, optimizer)
    assert not torch.equal(model.conv2.weight_quantizer.scale, before)


def test_the_bound_of_pact_takes_the_optimizers_weight_decay():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, weight_decay=0.1)
    PACTQuantizer(model, [{"quant_types": ["output"], "quant_bits": 4, "op_types": ["ReLU"]}], optimizer).compress()
    assert optimizer.param_groups[1]["weight_decay"] == 0.1


def test_signs_of_what_is_never_below_zero_are_warned_of_once():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    BNNQuantizer(model, [{"quant_types": ["input"], "quant_bits": 1, "op_names": ["0", "2"]}]).compress()
    x = torch.randn(5, 4)
    with pytest.warns(UserWarning, match=r"2\.input is never below zero"):
        model(x)
    model(x)  # warnings are errors here


@pytest.mark.parametrize("quantizer", [QAT_Quantizer, LsqQuantizer])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_observes_each_batch_once_and_learns_the_same(quantizer, reentrant):
    class Saving(nn.Module):
        def __init__(self, *, saves: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second, self.saves = nn.Linear(4, 8), nn.Linear(8, 4), saves

        def forward(self, x):
            x = self.first(x)
            return checkpoint(self.second, x, use_reentrant=reentrant) if self.saves else self.second(x)

    states = []
    for saves in (True, False):
        model = Saving(saves=saves)
        quantizer(model, [{**EVERYTHING[0], "op_types": ["Linear"]}]).compress()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for at in range(3):
            optimizer.zero_grad()
            model(torch.randn(5, 4, generator=torch.Generator().manual_seed(at))).square().sum().backward()
            optimizer.step()
        states.append(model.state_dict())
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key])
    if quantizer is QAT_Quantizer:
        assert int(states[0]["second.input_quantizer.seen"]) == 3


def test_gradients_add_up_over_small_batches():
    grads = []
    for parts in (1, 4):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3))
        QAT_Quantizer(model, [{"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Linear"]}]).compress()
        for part in torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).chunk(parts):
            model(part).square().sum().backward()
        grads.append(model[0].old_weight.grad)
    torch.testing.assert_close(*grads)


def test_an_average_of_models_is_quantized_as_the_model_is():
    model = Net()
    QAT_Quantizer(model, EVERYTHING).compress()
    averaged = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    for at in range(3):
        train(model, steps=1 + at)
        averaged.update_parameters(model)
    average = averaged.module.eval()
    assert bool(average(batch()[0]).isfinite().all())
    steps = average.fc.weight / average.fc.scale
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", [QAT_Quantizer, LsqQuantizer])
def test_a_compiled_step_learns_what_an_eager_one_does(quantizer):
    torch._dynamo.reset()
    torch.manual_seed(0)
    eager = Net()
    quantizer(eager, EVERYTHING, dummy_input=batch()[0]).compress()
    train(eager, steps=1)  # where learnt grids start
    fast = copy.deepcopy(eager)
    compiled = torch.compile(fast)
    for own, call in ((eager, eager), (fast, compiled)):
        optimizer = torch.optim.SGD(own.parameters(), 0.01)
        own.train()
        for at in range(3):
            x, y = batch(at)
            optimizer.zero_grad()
            F.cross_entropy(call(x), y).backward()
            optimizer.step()
    ours, theirs = eager.state_dict(), fast.state_dict()
    assert int(ours["fc.input_quantizer.seen"]) == int(theirs["fc.input_quantizer.seen"])
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, rtol=2e-2, atol=2e-3)


def _train_in_parallel(rank, folder, name, wait):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = Net()
    kind = {"QAT": QAT_Quantizer, "LSQ": LsqQuantizer, "PACT": PACTQuantizer}[name]
    types = ["output"] if name == "PACT" else ["weight", "input", "output"]
    kind(model, [{**EVERYTHING[0], "quant_types": types, "quant_start_step": wait}]).compress()
    parallel = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.05)
    for at in range(3):
        x, y = batch(10 * at + rank)
        optimizer.zero_grad()
        F.cross_entropy(parallel(x * (1 + rank)), y).backward()
        optimizer.step()
    torch.save([own.qparams(torch.empty(0)) for _, _, kind, own in quantizers_of(model) if kind != "weight"] +
               [model.fc.old_weight.detach()], f"{folder}/{rank}.pt")  # fmt: skip
    distributed.barrier()
    del parallel
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wait"), [("QAT", 0), ("LSQ", 0), ("LSQ", 2), ("PACT", 0), ("PACT", 2)])
def test_two_processes_that_train_together_have_the_same_scales(name, wait, tmp_path):
    torch.multiprocessing.spawn(_train_in_parallel, args=(str(tmp_path), name, wait), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(one.pop(), other.pop())
    assert len(one) >= 3
    for (scale, zero_point), (scale_too, zero_point_too) in zip(one, other, strict=True):
        assert torch.equal(scale, scale_too)
        assert torch.equal(zero_point, zero_point_too)
    assert len({float(scale) for scale, _ in one}) > 2


@pytest.mark.parametrize(
    ("kind", "tensor", "remedy"),
    [(LsqQuantizer, "output", True), (LsqQuantizer, "weight", False), (LsqPlusQuantizer, "weight", False)],
)
def test_lsq_refuses_an_offset_and_names_lsq_plus_only_where_that_learns_one(kind, tensor, remedy):
    asked = [{"quant_types": [tensor], "quant_bits": 8, "op_types": ["Linear"], "quant_scheme": {tensor: "affine"}}]
    with pytest.raises(ConfigError, match="leave 'quant_scheme' out") as error:
        kind(nn.Sequential(nn.Linear(3, 2)), asked)
    assert ("use LsqPlusQuantizer" in str(error.value)) is remedy
