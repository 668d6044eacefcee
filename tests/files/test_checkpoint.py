from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from tests.support.nets import KEPT, Net, TiedNet, shrunk_net
from tests.support.vision import randomise
from torchpare import load, save
from torchpare.errors import CheckpointError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small(tmp_path, generator):
    """A shrunk net and the file it was saved to."""
    net = shrunk_net(generator)
    save(net, tmp_path / "small.safetensors")
    return net, tmp_path / "small.safetensors"


def state_of(model):
    tensors = [(name, id(tensor)) for name, tensor in [*model.named_parameters(), *model.named_buffers()]]
    numbers = {path: dict(vars(module)) for path, module in model.named_modules()}
    own = {path: {k: v for k, v in held.items() if not k.startswith("_")} for path, held in numbers.items()}
    return tensors, own, {name: value.clone() for name, value in model.state_dict().items()}


def assert_untouched(model, before):
    tensors, numbers, values = state_of(model)
    assert (tensors, numbers) == before[:2]
    assert all(torch.equal(values[name], value) for name, value in before[2].items())


def test_a_fresh_model_becomes_the_small_one(small):
    net, path = small
    loaded = load(Net(), path).eval()
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(loaded(x), net(x))
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in net.parameters())
    assert (loaded.conv1.out_channels, loaded.depthwise.in_channels, loaded.depthwise.groups) == (4, 4, 4)
    assert (loaded.norm1.num_features, loaded.norm2.num_channels, loaded.head.in_features) == (4, 4, 4)
    assert (loaded.width, loaded.shape_after_pool) == (4, (-1, 4))
    assert loaded.torchpare_structure == net.torchpare_structure


def test_it_loads_in_a_new_process_with_identical_outputs(small, tmp_path):
    net, path = small
    x = torch.randn(2, 3, 6, 6)
    torch.save(x, tmp_path / "x.pt")
    script = (
        "import sys, torch, torchpare\n"
        "from tests.support.nets import Net\n"
        "net = torchpare.load(Net(), sys.argv[1]).eval()\n"
        "torch.save(net(torch.load(sys.argv[2], weights_only=True)).detach(), sys.argv[3])\n"
    )
    arguments = [str(path), str(tmp_path / "x.pt"), str(tmp_path / "y.pt")]
    subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, check=True, timeout=120)
    assert torch.equal(torch.load(tmp_path / "y.pt", weights_only=True), net(x))


def test_what_was_loaded_can_be_saved_trained_and_loaded_again(small, tmp_path):
    _, path = small
    loaded = load(Net(), path)
    optimizer = torch.optim.SGD(loaded.parameters(), lr=0.1)
    loaded(torch.randn(2, 3, 6, 6)).square().sum().backward()
    optimizer.step()
    save(loaded, tmp_path / "again.safetensors")
    again = load(Net(), tmp_path / "again.safetensors")
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(again.eval()(x), loaded.eval()(x))


def test_an_unshrunk_model_goes_the_same_way(tmp_path, generator):
    net = randomise(Net(), generator).eval()
    save(net, tmp_path / "net.safetensors")
    loaded = load(Net(), tmp_path / "net.safetensors").eval()
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(loaded(x), net(x))
    assert not hasattr(loaded, "torchpare_structure")


def test_the_file_is_one_that_any_safetensors_reader_opens(small):
    net, path = small
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(net.state_dict()) | {"table"}
        assert torch.equal(file.get_tensor("conv1.weight"), net.conv1.weight)
    assert metadata["format"] == "torchpare"
    assert json.loads(metadata["record"])["structure"]["kept"]["conv1.weight"] == {"0": list(KEPT)}


def test_shared_tensors_are_written_once_and_shared_again(tmp_path, generator):
    net = randomise(TiedNet(), generator)
    save(net, tmp_path / "tied.safetensors")
    with safe_open(tmp_path / "tied.safetensors", framework="pt") as file:
        assert set(file.keys()) == {"embed.weight", "mix.weight", "mix.bias"}
    loaded = load(TiedNet(), tmp_path / "tied.safetensors")
    assert loaded.decode.weight is loaded.embed.weight
    assert torch.equal(loaded(torch.arange(7)), net(torch.arange(7)))


def test_views_of_one_memory_are_written_apart(tmp_path):
    memory = torch.randn(12)
    net = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False))
    net[0].weight = nn.Parameter(memory[:6].view(2, 3))
    net[1].weight = nn.Parameter(memory[6:].view(3, 2))
    save(net, tmp_path / "net.safetensors")
    loaded = load(copy.deepcopy(net), tmp_path / "net.safetensors")
    assert torch.equal(loaded[0].weight, memory[:6].view(2, 3))
    assert torch.equal(loaded[1].weight, memory[6:].view(3, 2))


def test_dtype_comes_from_the_file_the_rest_from_the_fresh_model(tmp_path, generator):
    net = shrunk_net(generator).double()
    save(net, tmp_path / "net.safetensors")
    fresh = Net()
    fresh.conv1.requires_grad_(False)
    loaded = load(fresh, tmp_path / "net.safetensors")
    assert loaded.conv1.weight.dtype is torch.float64
    assert not loaded.conv1.weight.requires_grad
    assert loaded.head.weight.requires_grad
    assert loaded.depthwise.bias.requires_grad


def test_a_model_built_without_data_comes_to_the_cpu(small):
    net, path = small
    with torch.device("meta"):
        fresh = Net()
    x = torch.randn(1, 3, 6, 6)
    assert torch.equal(load(fresh, path).eval()(x), net(x))


@pytest.mark.gpu
def test_a_model_on_an_accelerator_stays_there(small):
    _, path = small
    loaded = load(Net().cuda(), path)
    assert {tensor.device.type for tensor in [*loaded.parameters(), *loaded.buffers()]} == {"cuda"}


class Other(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)


class ForgetfulNet(Net):
    """Says no to the last thing that loading sets."""

    def __setattr__(self, name, value):
        if name == "shape_after_pool" and hasattr(self, name):
            raise RuntimeError("no")
        super().__setattr__(name, value)


@pytest.mark.parametrize(
    ("fresh", "message"),
    [
        (
            Other,
            r"was saved from a Net and does not fit this Other: it lacks 'conv.bias', 'conv.weight'; it has 'conv1",
        ),
        (
            lambda: Net(width=2),
            r"table has shape \(4,\), in this model \(2.*shrinking leaves at least one",
        ),
        (
            lambda: Net(width=6),
            r"table has shape \(4,\), in this model \(6",
        ),  # channel 6 was kept, so there were seven or more
        (lambda: Net(classes=4), r"head.(weight|bias) has shape \(5.*\), in this model \(4"),
        (lambda: nn.Sequential(Net()), r"does not fit this Sequential: it lacks '0\.conv1\.bias'"),
    ],
)
def test_a_model_that_does_not_fit_is_left_as_it_was(small, fresh, message):
    model = fresh()
    before = state_of(model)
    with pytest.raises(CheckpointError, match=message):
        load(model, small[1])
    assert_untouched(model, before)


def test_a_failure_half_way_is_undone(small):
    model = ForgetfulNet()
    before = state_of(model)
    with pytest.raises(RuntimeError, match="no"):
        load(model, small[1])
    assert_untouched(model, before)


def test_an_unshrunk_file_needs_a_model_of_the_same_size(tmp_path):
    save(Net(width=4), tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"was not shrunk, so the two must be equal"):
        load(Net(), tmp_path / "net.safetensors")


def test_a_model_that_shares_what_the_file_keeps_apart_is_refused(tmp_path):
    apart = TiedNet()
    apart.decode.weight = nn.Parameter(torch.randn(7, 4))
    save(apart, tmp_path / "net.safetensors")
    with pytest.raises(
        CheckpointError, match=r"embed.weight and decode.weight are one shared tensor in this model, but two"
    ):
        load(TiedNet(), tmp_path / "net.safetensors")


def test_loading_twice_is_refused(small):
    _, path = small
    with pytest.raises(CheckpointError, match="is already shrunk; load into a freshly built one"):
        load(load(Net(), path), path)


class MaskedConv(nn.Conv2d):
    torchpare_masked = ("weight",)  # as the class of a layer with a mask has it


def test_masks_are_not_silently_left_behind(tmp_path):
    model = nn.Sequential(MaskedConv(3, 4, 1))
    with pytest.raises(
        CheckpointError, match=r"cannot be saved while masks are attached to '0': make the model smaller first"
    ):
        save(model, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_part_that_was_shrunk_on_its_own_is_named(tmp_path, generator):
    with pytest.raises(CheckpointError, match=r"only '0' was shrunk: save and load that on its own"):
        save(nn.Sequential(shrunk_net(generator)), tmp_path / "net.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_every_dtype_comes_back(tmp_path, dtype):
    net = nn.Module()
    net.register_buffer("held", torch.tensor([0, 1, 1]).to(dtype))
    net.register_buffer("empty", torch.zeros(0, dtype=dtype))
    save(net, tmp_path / "net.safetensors")
    loaded = load(copy.deepcopy(net), tmp_path / "net.safetensors")
    assert loaded.held.dtype is dtype
    assert torch.equal(loaded.held, net.held)


class Keeper(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


def test_state_that_is_no_tensor_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"keeps state that is no parameter or buffer, .* '_extra_state'"):
        save(Keeper(2, 2), tmp_path / "net.safetensors")


@pytest.mark.parametrize("device", ["meta"])
def test_tensors_without_data_are_named(tmp_path, device):
    with pytest.raises(CheckpointError, match=r"weight has no data yet"):
        save(nn.Linear(2, 2, device=device), tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"weight has no data yet"):
        save(nn.LazyLinear(2), tmp_path / "net.safetensors")


def test_a_sparse_buffer_is_named_with_the_way_out(tmp_path):
    model = nn.Linear(2, 2)
    model.register_buffer("adjacency", torch.eye(3).to_sparse())
    with pytest.raises(CheckpointError, match=r"adjacency is a sparse tensor.*persistent=False"):
        save(model, tmp_path / "net.safetensors")
