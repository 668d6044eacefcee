"""One table, many laws: what holds for every quantizer, whatever its algorithm."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from tests.quantization.flows import Net, batch, train
from torchpare.attach import quantizers_of
from torchpare.errors import ConfigError, QuantizationError
from torchpare.pruning import LevelPruner
from torchpare.quantization import (
    BNNQuantizer,
    DoReFaQuantizer,
    LsqPlusQuantizer,
    LsqQuantizer,
    NaiveQuantizer,
    ObserverQuantizer,
    PACTQuantizer,
    QAT_Quantizer,
    Quantizer,
)


@dataclass(frozen=True)
class Case:
    """A quantizer, and what it is asked for."""

    quantizer: type[Quantizer]
    types: tuple[str, ...] = ("weight", "input", "output")
    bits: int = 8
    more: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    even: bool = True
    """Whether values lie on whole multiples of a scale; not so for DoReFa's and for signs."""

    def __str__(self) -> str:
        extra = "-".join(str(value) for value in self.more.values())
        return "-".join(filter(None, [self.quantizer.__name__, str(self.bits), extra, *self.options]))

    @property
    def config_list(self) -> list[dict[str, Any]]:
        weighted = {"quant_types": list(self.types), "quant_bits": self.bits, "op_types": ["Conv2d", "Linear"]}
        return [{**weighted, **self.more}]

    def on(self, model: nn.Module, config_list: Any = None, **more: Any) -> Quantizer:
        options = dict(self.options)
        if "dummy_input" in options:
            options["dummy_input"] = options["dummy_input"].to(next(model.parameters()).dtype)
        return self.quantizer(model, self.config_list if config_list is None else config_list, **options, **more)

    def ready(self, steps: int = 3, prepare: Any = None) -> tuple[nn.Module, Quantizer]:
        """A net that has been quantized and trained a little."""
        torch.manual_seed(0)
        model = Net()
        if prepare is not None:
            prepare(model)
        quantizer = self.on(model)
        model = compressed(quantizer)
        train(model, quantizer=quantizer, steps=steps)
        return model.eval(), quantizer


def compressed(quantizer):
    """The model, quantized; with data, where that is wanted first."""
    if isinstance(quantizer, ObserverQuantizer):
        dtype = next(quantizer.bound_model.parameters()).dtype
        quantizer.calibrate(batch(seed)[0].to(dtype) for seed in range(3))
    return quantizer.compress()


X = batch()[0]
EVERY_QUANTIZER = [
    Case(NaiveQuantizer, ("weight",)),
    Case(QAT_Quantizer),
    Case(QAT_Quantizer, options={"dummy_input": X}),
    Case(QAT_Quantizer, bits=4, more={"quant_scheme": "symmetric", "granularity": {"weight": "tensor"}}),
    Case(QAT_Quantizer, ("weight",), bits=4, more={"granularity": "group", "group_size": 3}),
    Case(DoReFaQuantizer, ("weight",), bits=2, even=False),
    Case(BNNQuantizer, ("weight", "output"), bits=1, even=False),
    Case(LsqQuantizer, bits=4),
    Case(LsqPlusQuantizer, bits=4),
    Case(PACTQuantizer, ("weight", "output"), bits=4),
    Case(ObserverQuantizer),
    *(Case(ObserverQuantizer, more={"observer": {"input": name, "output": name}})
      for name in ("moving_average", "percentile", "kl", "mse")),
]  # fmt: skip
every_quantizer = pytest.mark.parametrize("case", EVERY_QUANTIZER, ids=str)
LAYERS = ("conv1", "conv2", "fc")


def snapshot(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(model, before):
    state = model.state_dict()
    return state.keys() == before.keys() and all(torch.equal(state[key], before[key]) for key in before)


@every_quantizer
def test_the_constructor_changes_no_value_and_no_output(case):
    model = Net().eval()
    before, output = snapshot(model), model(X)
    parameters = list(model.parameters())
    case.on(model)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert torch.equal(model(X), output)
    assert all(now is then for now, then in zip(model.parameters(), parameters, strict=False))


@every_quantizer
def test_compress_returns_the_same_object_with_the_same_parameters_and_twice_is_once(case):
    model = Net()
    parameters = dict(model.named_parameters())
    quantizer = case.on(model)
    assert quantizer.compress() is model
    kept = dict(model.named_parameters())
    assert all(kept[name] is parameter for name, parameter in parameters.items())
    before = snapshot(model)
    assert quantizer.compress() is model
    assert same(model, before)


@every_quantizer
def test_a_quantized_model_learns_and_its_outputs_differ_from_the_float_models(case):
    model, _ = case.ready()
    torch.manual_seed(0)
    dense = Net()
    train(dense)
    assert bool(model(X).isfinite().all())
    assert not torch.equal(model(X), dense.eval()(X))
    for name in LAYERS:
        assert not torch.equal(model.get_submodule(name).old_weight, dense.get_submodule(name).weight)


@every_quantizer
def test_reading_is_pure(case):
    model, quantizer = case.ready()
    model.train()
    before = snapshot(model)
    for name in LAYERS:
        layer = model.get_submodule(name)
        assert torch.equal(layer.weight, layer.weight)
        _ = layer.scale, layer.zero_point, layer.module.scale
    _ = str(model), model.state_dict(), copy.deepcopy(model), quantizer.get_modules_to_compress()
    assert same(model, before)
    model.eval()
    first = model(X)
    assert torch.equal(model(X), first)
    assert same(model, before)


@every_quantizer
def test_scales_are_above_zero_and_zero_points_whole_numbers_of_the_grid(case):
    model, _ = case.ready()
    found = list(quantizers_of(model))
    assert {path for path, *_ in found} >= {"conv2", "fc"}
    for _, layer, kind, quantizer in found:
        x = layer.old_weight if kind == "weight" else torch.empty(0)
        scale, zero_point = (layer.scale, layer.zero_point) if kind == "weight" else quantizer.qparams(x)
        assert bool((scale > 0).all())
        assert torch.equal(zero_point, zero_point.round())
        grid = quantizer.spec.grid
        if case.even:
            assert bool(((zero_point >= grid.qmin) & (zero_point <= grid.qmax)).all())


@every_quantizer
def test_weights_take_no_more_values_than_their_bits_have(case):
    model, _ = case.ready()
    for name in ("conv2", "fc"):
        layer = model.get_submodule(name)
        rows = layer.weight.detach().flatten(1)
        groups = rows.reshape(-1, case.more.get("group_size", rows.shape[1]))
        assert max(len(group.unique()) for group in groups) <= 2**case.bits
        if case.even and case.more.get("granularity") != "group":
            steps = (layer.weight / layer.scale).detach()
            torch.testing.assert_close(steps, steps.round(), atol=2e-3, rtol=0)


@every_quantizer
def test_saved_and_loaded_into_a_new_model_it_computes_the_same_bit_by_bit(case, tmp_path):
    model, _ = case.ready()
    torch.save(model.state_dict(), tmp_path / "state.pth")
    again = case.on(Net()).compress()
    again.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    assert torch.equal(again.eval()(X), model(X))
    for name in LAYERS:
        ours, theirs = model.get_submodule(name), again.get_submodule(name)
        for key in ("scale", "zero_point", "weight"):
            assert torch.equal(getattr(ours, key), getattr(theirs, key))


@every_quantizer
def test_copies_and_pickles_compute_the_same_and_are_apart(case):
    model, _ = case.ready()
    output = model(X)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(X), output)
        before = snapshot(model)
        train(again, steps=1)
        assert same(model, before)


@every_quantizer
def test_a_dense_checkpoint_of_the_plain_class_loads(case):
    torch.manual_seed(1)
    dense = Net().state_dict()
    model, _ = case.ready()
    model.load_state_dict(dense)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in dense.items())


@every_quantizer
def test_what_is_exported_loads_into_the_plain_class_and_training_goes_on(case, tmp_path):
    model, quantizer = case.ready()
    output = model(X)
    calibration = quantizer.export_model(tmp_path / "model.pth", tmp_path / "calibration.pth")
    plain = Net()
    plain.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    for name in LAYERS:
        assert torch.equal(plain.get_submodule(name).weight, model.get_submodule(name).weight)
    assert torch.equal(model(X), output)
    assert set(calibration) >= {"conv2", "fc"}
    on_disk = torch.load(tmp_path / "calibration.pth", weights_only=True)
    assert on_disk.keys() == calibration.keys()
    train(model)


@every_quantizer
def test_pruned_weights_stay_exactly_zero(case):
    def prune(model):
        LevelPruner(model, [{"sparsity": 0.5, "op_types": ["Conv2d", "Linear"]}]).compress()

    model, _ = case.ready(prepare=prune)
    for name in LAYERS:
        layer = model.get_submodule(name)
        gone = ~layer.weight_mask.expand_as(layer.weight)
        assert int(gone.sum()) >= layer.weight.numel() // 2 - 1
        assert not bool(layer.weight[gone].any())


@every_quantizer
def test_step_and_update_epoch_do_no_harm_at_any_time(case):
    quiet = case.ready(steps=2)[0](X)
    torch.manual_seed(0)
    model = Net()
    quantizer = case.on(model)
    quantizer.update_epoch(0)
    quantizer.step()
    compressed(quantizer)
    for epoch in range(2):
        quantizer.update_epoch(epoch)
        quantizer.step()
    train(model, quantizer=quantizer, steps=2)
    quantizer.update_epoch(7)
    assert torch.equal(model.eval()(X), quiet)


@every_quantizer
def test_what_is_excluded_stays_as_it_was_and_later_entries_win(case):
    model = Net()
    quantizer = case.on(model, [*case.config_list, {"exclude": True, "op_names": ["conv2"]}])
    quantizer.compress()
    assert {target.name for target, _ in quantizer.get_modules_to_compress()} == {"conv1", "fc"}
    assert type(model.conv2) is nn.Conv2d

    one = {**case.config_list[0], "op_names": ["fc"], "quant_bits": 1 if case.bits == 1 else 2}
    model = Net()
    case.on(model, [*case.config_list, one]).compress()
    bits = {path: quantizer.spec.grid.bits for path, _, kind, quantizer in quantizers_of(model) if kind == "weight"}
    assert bits == {"conv1": case.bits, "conv2": case.bits, "fc": one["quant_bits"]}


@every_quantizer
def test_an_error_leaves_the_model_as_it_was(case):
    model = Net()
    before = snapshot(model)
    with pytest.raises(ConfigError, match=r"config_list\[0\]"):
        case.on(model, [{**case.config_list[0], "op_names": ["conv9"]}])
    assert same(model, before)
    quantizer = case.on(model)
    model.fc.weight.data[0, 0] = torch.nan
    with pytest.raises(QuantizationError, match=r"fc\.weight"):
        quantizer.compress()
    assert not any(kind == "weight" for _, _, kind, _ in quantizers_of(model))
    model.fc.weight.data.copy_(before["fc.weight"])
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in before.items())
    assert torch.equal(model.eval()(X), Net.of(before)(X))


@every_quantizer
def test_nan_in_the_data_is_an_error_that_names_the_layer_where_ranges_are_watched(case):
    bad = X.clone()
    bad[0, 0, 0, 0] = torch.nan
    if case.quantizer is ObserverQuantizer:
        quantizer = case.on(Net())
        with pytest.raises(QuantizationError, match=r"conv1\.input holds NaN"):
            quantizer.calibrate([bad])
        return
    model = case.on(Net()).compress().train()
    if "input" not in case.types and case.quantizer is not PACTQuantizer:
        assert bool(model(bad).isfinite().all()) == (case.quantizer is BNNQuantizer)
        return
    before = snapshot(model)
    with pytest.raises(QuantizationError, match=r"conv1\.(input|output) holds NaN"):
        model(bad)
    assert same(model, before)


@every_quantizer
def test_half_precision_and_double_train(case):
    for dtype in (torch.bfloat16, torch.float64):
        torch.manual_seed(0)
        model = Net().to(dtype)
        case.on(model).compress()
        train(model)
        assert model.eval()(X.to(dtype)).dtype == dtype
        assert bool(model(X.to(dtype)).isfinite().all())


@every_quantizer
def test_autocast_trains(case):
    torch.manual_seed(0)
    model = case.on(Net()).compress()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for seed in range(2):
        x, y = batch(seed)
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@every_quantizer
@pytest.mark.slow
def test_compiled_it_computes_the_same_and_trains(case):
    model, _ = case.ready()
    torch._dynamo.reset()
    run = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(run(X), model(X), rtol=1e-5, atol=1e-5)
    twin = copy.deepcopy(model)
    for own, call in ((model.train(), torch.compile(model, backend="aot_eager")), (twin.train(), twin)):
        own.zero_grad()
        nn.functional.cross_entropy(call(X), batch()[1]).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)


FRESH = """
import sys, torch
from tests.contract.test_every_quantizer import EVERY_QUANTIZER, Net, X
for at, case in enumerate(EVERY_QUANTIZER):
    model = case.on(Net()).compress()
    model.load_state_dict(torch.load(f"{sys.argv[1]}/{at}.pth", weights_only=True))
    torch.save(model.eval()(X), f"{sys.argv[1]}/{at}.out")
"""


@pytest.mark.slow
def test_a_new_process_computes_the_same_bit_by_bit(tmp_path):
    expected = []
    for at, case in enumerate(EVERY_QUANTIZER):
        model, _ = case.ready()
        torch.save(model.state_dict(), tmp_path / f"{at}.pth")
        expected.append(model(X))
    subprocess.run([sys.executable, "-c", FRESH, str(tmp_path)], check=True)
    for at, output in enumerate(expected):
        assert torch.equal(torch.load(tmp_path / f"{at}.out", weights_only=True), output), EVERY_QUANTIZER[at]
