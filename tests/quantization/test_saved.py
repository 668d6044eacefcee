"""`torchpare.save` and `load` of models with quantizers: all of it comes back, in a new process, from one file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torchpare
from tests.contract.test_every_quantizer import EVERY_QUANTIZER, Net, X
from torchpare import ModelSpeedup
from torchpare.attach import quantizers_of
from torchpare.errors import CheckpointError
from torchpare.files.archive import Archive, read_archive, write_archive
from torchpare.pruning import L1FilterPruner
from torchpare.quantization import LsqQuantizer, ObserverQuantizer, QAT_Quantizer

ROOT = Path(__file__).parents[2]
EVERYTHING = [{"quant_types": ["weight", "output"], "quant_bits": 8, "op_types": ["Conv2d", "Linear"]}]


class Small(nn.Module):
    """Two convolutions with norms whose outputs meet, and a weight that two layers share."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.side = nn.Conv2d(3, 8, 3)
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
        self.two.weight = self.one.weight

    def forward(self, x):
        y = torch.cat([self.norm(self.conv(x)).relu(), self.side(x)], 1).mean((2, 3))
        return self.two(self.one(y).relu())


IMAGES = torch.randn(4, 3, 8, 8)


def quantized(kind: Any = QAT_Quantizer, **more: Any) -> Any:
    model = Small()
    kind(model, EVERYTHING, **more).compress()
    model.train()
    model(IMAGES).sum().backward()
    return model.eval()


def words_of(model):
    words = []
    for path, _, of, own in quantizers_of(model):
        observes = own.observing and own.kind != "signs of data"  # which look at the first batch after loading again
        words.append((path, of, type(own), own.spec, own.axis, own.follows, own.active, observes))
    return words


def assert_same(loaded, model, x=IMAGES):
    assert words_of(loaded) == words_of(model)
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert torch.equal(loaded.eval()(x), model.eval()(x))


@pytest.mark.parametrize("case", EVERY_QUANTIZER, ids=str)
def test_every_quantizer_comes_back(case, tmp_path):
    model, _ = case.ready()
    torchpare.save(model, tmp_path / "model.safetensors")
    assert_same(torchpare.load(Net(), tmp_path / "model.safetensors"), model, X)


def test_folded_norms_shared_weights_and_joined_grids_come_back(tmp_path):
    model = quantized(dummy_input=IMAGES)
    torchpare.save(model, tmp_path / "model.safetensors")
    loaded: Any = torchpare.load(Small(), tmp_path / "model.safetensors")
    assert_same(loaded, model)
    assert loaded.conv.torchpare_fold == (loaded.norm,)
    assert loaded.one.weight_quantizer is loaded.two.weight_quantizer
    assert loaded.one.old_weight is loaded.two.old_weight
    one = model.side.output_quantizer
    assert len(one.joined) == len(loaded.side.output_quantizer.joined) == 0  # the relu makes other values of the norm's


def test_joined_grids_come_back(tmp_path):
    class Meeting(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return torch.cat([self.one(x), self.two(x)], 1)

    model, x = Meeting(), torch.randn(5, 3)
    QAT_Quantizer(model, [{**EVERYTHING[0], "op_types": ["Linear"]}], dummy_input=x).compress()
    model(x)
    torchpare.save(model, tmp_path / "model.safetensors")
    loaded: Any = torchpare.load(Meeting(), tmp_path / "model.safetensors")
    assert_same(loaded, model, x)
    assert loaded.one.output_quantizer.joined == (loaded.two.output_quantizer,)
    loaded.train()(10 * x)
    assert torch.equal(loaded.one.output_quantizer.scale, loaded.two.output_quantizer.scale)


def test_pruned_shrunk_quantized_and_saved_it_all_comes_back_in_a_new_process(tmp_path):
    torch.manual_seed(0)
    model = Net()
    L1FilterPruner(model, [{"sparsity": 0.5, "op_types": ["Conv2d"]}], dependency_aware=True, dummy_input=X).compress()
    ModelSpeedup(model.eval(), X[:1]).speedup_model()
    QAT_Quantizer(model, EVERYTHING, dummy_input=X).compress()
    model.train()(X)
    model.eval()
    torchpare.save(model, tmp_path / "small.safetensors")
    torch.save(X, tmp_path / "x.pt")
    script = (
        "import sys, torch, torchpare\n"
        "from tests.contract.test_every_quantizer import Net\n"
        "net = torchpare.load(Net(), sys.argv[1]).eval()\n"
        "torch.save([net(torch.load(sys.argv[2], weights_only=True)).detach(), net.state_dict()], sys.argv[3])\n"
    )
    arguments = [str(tmp_path / name) for name in ("small.safetensors", "x.pt", "y.pt")]
    subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, check=True, timeout=300)
    returned, state = torch.load(tmp_path / "y.pt", weights_only=True)
    assert torch.equal(returned, model(X))
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_what_was_loaded_trains_on_and_is_saved_again(tmp_path):
    model = quantized(LsqQuantizer)
    torchpare.save(model, tmp_path / "model.safetensors")
    loaded: Any = torchpare.load(Small(), tmp_path / "model.safetensors").train()
    names = dict(loaded.named_parameters())
    assert "conv.weight_quantizer.scale" in names
    before = names["conv.weight_quantizer.scale"].clone()
    optimizer = torch.optim.SGD(loaded.parameters(), 1.0)
    loaded(IMAGES).square().sum().backward()
    optimizer.step()
    assert not torch.equal(loaded.conv.weight_quantizer.scale, before)
    torchpare.save(loaded, tmp_path / "again.safetensors")
    assert_same(torchpare.load(Small(), tmp_path / "again.safetensors"), loaded)


def test_what_was_calibrated_stays_fixed(tmp_path):
    model = Small().eval()
    asked = [{**EVERYTHING[0], "observer": {"output": "percentile"}}]
    ObserverQuantizer(model, asked, dummy_input=IMAGES).calibrate([IMAGES])
    torchpare.save(model, tmp_path / "model.safetensors")
    loaded: Any = torchpare.load(Small(), tmp_path / "model.safetensors")
    assert_same(loaded, model)
    loaded(100 * IMAGES)
    assert_same(loaded, model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda words: words.update(version=2), r"at 'quantizers\.version'"),
        (lambda words: words["hung"][0].update(kind="os.system"), "of the kind 'os.system'; known are 'observed'"),
        (lambda words: words["hung"][0].update(bits=40), "bits is 40"),
        (lambda words: words["hung"][0].update(bits=4), "saved of"),
        (lambda words: words["hung"][0].update(layer="nowhere"), "'nowhere', a layer that this model lacks"),
        (lambda words: words["hung"][0].update(of="gain"), "conv.gain, a parameter that this model lacks"),
        (lambda words: words["hung"][0].update(fold="side"), "no batch norm in this model"),
        (lambda words: words["hung"][0].update(joined_with=[99]), "shares its grid with places that are none"),
        (lambda words: words["hung"][0].update(same_as=3), "none before it"),
        (lambda words: words["hung"][0].update(granularity="group", group_size=0), "no scales by group"),
        (lambda words: words["hung"][0].update(granularity="group", group_size=5), "no scales by group"),
        (lambda words: words["hung"][1].update(granularity="group", group_size=2), "no scales by group"),
        (lambda words: words["hung"][0].update(colour="red"), "colour"),
        (lambda words: words["hung"].pop(), "does not fit this Small: it has"),
    ],
)
def test_a_file_that_says_something_else_leaves_the_model_as_it_was(change, message, tmp_path):
    torchpare.save(quantized(dummy_input=IMAGES), tmp_path / "model.safetensors")
    archive = read_archive(tmp_path / "model.safetensors")
    record = json.loads(json.dumps(archive.record))
    change(record["quantizers"])
    write_archive(tmp_path / "changed.safetensors", Archive(archive.tensors, record))
    model = Small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        torchpare.load(model, tmp_path / "changed.safetensors")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(True for _ in quantizers_of(model))


@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (8,)])
def test_a_scale_of_a_shape_that_the_weight_has_not_is_refused(shape, tmp_path):
    torchpare.save(quantized(dummy_input=IMAGES), tmp_path / "model.safetensors")
    archive = read_archive(tmp_path / "model.safetensors")
    archive.tensors["conv.weight_quantizer.scale"] = torch.ones(shape)
    write_archive(tmp_path / "changed.safetensors", archive)
    with pytest.raises(CheckpointError, match=r"conv\.weight .*scale"):
        torchpare.load(Small(), tmp_path / "changed.safetensors")


def test_a_file_without_quantizers_is_loaded_as_ever_and_a_quantized_model_takes_none(tmp_path):
    plain = Small()
    torchpare.save(plain, tmp_path / "plain.safetensors")
    assert "quantizers" not in read_archive(tmp_path / "plain.safetensors").record
    assert not any(True for _ in quantizers_of(torchpare.load(Small(), tmp_path / "plain.safetensors")))
    with pytest.raises(CheckpointError, match="wants a freshly built model"):
        torchpare.load(quantized(), tmp_path / "plain.safetensors")


@pytest.mark.parametrize("kind", [QAT_Quantizer, LsqQuantizer])
def test_a_model_in_float64_comes_back_whose_scales_are_float64_too(kind, tmp_path):
    model: Any = Small().double()
    kind(model, EVERYTHING).compress()
    model(IMAGES.double())
    assert kind is LsqQuantizer or model.conv.scale.dtype == torch.float64
    torchpare.save(model, tmp_path / "model.safetensors")
    assert_same(torchpare.load(Small().double(), tmp_path / "model.safetensors"), model, IMAGES.double())


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_what_was_saved_when_rounding_had_just_begun_computes_the_same(with_optimizer, tmp_path):
    model: Any = Small()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    asked = [{**EVERYTHING[0], "quant_bits": 4, "quant_start_step": 2}]
    QAT_Quantizer(model, asked, optimizer if with_optimizer else None).compress()
    for _ in range(2):
        model(IMAGES).sum().backward()
        optimizer.step()
    model.eval()
    torchpare.save(model, tmp_path / "model.safetensors")
    assert_same(torchpare.load(Small().eval(), tmp_path / "model.safetensors"), model)
    again = Small().eval()
    QAT_Quantizer(again, asked).compress()  # as the tutorial has it, where no optimizer counts
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert len(model.conv.weight.unique()) <= 15 * 8 < model.conv.old_weight.numel()  # two steps lie behind


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("low", torch.tensor(torch.nan)),
        ("scale", torch.tensor(torch.inf)),
        ("scale", torch.tensor(0.0)),
        ("zero_point", torch.tensor(999, dtype=torch.int32)),
    ],
)
def test_numbers_that_make_no_grid_are_neither_saved_nor_loaded(name, value, tmp_path):
    model = quantized()
    torchpare.save(model, tmp_path / "model.safetensors")
    archive = read_archive(tmp_path / "model.safetensors")
    archive.tensors[f"side.output_quantizer.{name}"] = value
    write_archive(tmp_path / "changed.safetensors", archive)
    fresh = Small().eval()
    before = {key: own.clone() for key, own in fresh.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"side\.output makes no grid: {name}"):
        torchpare.load(fresh, tmp_path / "changed.safetensors")
    assert list(before) == list(fresh.state_dict())
    assert all(torch.equal(before[key], own) for key, own in fresh.state_dict().items())
    setattr(model.side.output_quantizer, name, value)
    with pytest.raises(CheckpointError, match=rf"side\.output makes no grid: {name}"):
        torchpare.save(model, tmp_path / "again.safetensors")


def test_a_folded_norm_that_is_gone_is_told_when_saving(tmp_path):
    model = quantized(dummy_input=IMAGES)
    model.norm = nn.Identity()
    with pytest.raises(CheckpointError, match=r"conv\.weight is quantized as a batch norm leaves it"):
        torchpare.save(model, tmp_path / "model.safetensors")


class Twice(nn.Module):
    """A module under two names, and slopes, of which each is a channel of one number."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.again, self.slopes = self.one, nn.PReLU(4)

    def forward(self, x):
        return self.slopes(self.again(self.one(x)))


@pytest.mark.parametrize("kind", [QAT_Quantizer, LsqQuantizer, ObserverQuantizer])
def test_modules_under_two_names_and_weights_of_one_axis_come_back(kind, tmp_path):
    model, x = Twice(), torch.randn(5, 4)
    asked = [{**EVERYTHING[0], "op_types": ["Linear", "PReLU"]}]
    if kind is ObserverQuantizer:
        kind(model.eval(), asked).calibrate([x])
    else:
        kind(model, asked).compress()
        model(x)
    torchpare.save(model, tmp_path / "model.safetensors")
    loaded = torchpare.load(Twice(), tmp_path / "model.safetensors")
    assert_same(loaded, model, x)
    assert loaded.again is loaded.one
