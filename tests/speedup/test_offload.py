"""With the dense weights on disk: the same small model, the same way back, and the memory free in between."""

from __future__ import annotations

import copy
import resource
import weakref
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from tests.networks.strategies import MASKS, masks_for, recipes
from torchpare import ModelSpeedup, plan
from torchpare.errors import ShrinkError
from torchpare.graph import analyse
from torchpare.speedup import model_speedup, offload
from torchpare.speedup.offload import Offload

HALF = [{"sparsity": 0.5, "structures": ["all"]}]


@pytest.fixture(autouse=True)
def _even_small_tensors(monkeypatch):
    monkeypatch.setattr(offload, "_SMALL", 1)


class Tied(nn.Module):
    """A tied weight, a strided one, one with a gradient and a note on it, a frozen one, a recurrence, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 12)
        self.conv = nn.Conv2d(3, 12, 3).to(memory_format=torch.channels_last)  # type: ignore[reportCallIssue]
        self.norm = nn.BatchNorm2d(12)
        self.lstm = nn.LSTM(12, 8, batch_first=True)
        self.out = nn.Linear(8, 12)
        self.head = nn.Linear(12, 16, bias=False)
        self.head.weight = self.embed.weight
        self.out.bias.requires_grad_(False)

    def forward(self, ids: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        seen = torch.relu(self.norm(self.conv(image))).mean((2, 3))
        return self.head(self.out(self.lstm(self.embed(ids) + seen[:, None])[0]))


INPUTS = (torch.arange(10).view(2, 5), torch.ones(2, 3, 6, 6))


def tied(*, grads: bool = True) -> Tied:
    torch.manual_seed(0)
    model = Tied().eval()
    if grads:
        model(*INPUTS).square().sum().backward()
    model.conv.weight.note = "the user's"  # type: ignore[attr-defined]
    return model


def state(model: nn.Module) -> dict[str, object]:
    """All that is to be seen of every tensor, and which are one."""
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    first = {id(tensor): name for name, tensor in reversed(tensors.items())}
    return {
        name: (
            first[id(tensor)],
            type(tensor),
            tensor.dtype,
            tensor.stride(),
            tensor.requires_grad,
            vars(tensor),
            tensor.tolist(),
            None if tensor.grad is None else tensor.grad.tolist(),
        )
        for name, tensor in tensors.items()
    }


def broken(self: ModelSpeedup, clock: object) -> None:
    message = "broken on purpose, when all is cut"
    raise RuntimeError(message)


@contextmanager
def files_of_at_most(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_small_model_is_the_same(tmp_path):
    one, other = tied(), tied()
    plan(one, HALF, INPUTS).apply()
    plan(other, HALF, INPUTS).apply(offload_folder=tmp_path / "new" / "folder")
    assert other.head.weight is other.embed.weight
    assert state(other) == state(one)
    assert not list((tmp_path / "new" / "folder").iterdir())


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recipes(), st.sampled_from(MASKS), st.integers(0, 999))
def test_any_small_model_is_the_same(tmp_path, recipe, kind, seed):
    model, x = recipe.build(), recipe.input()
    masks = masks_for(analyse(model, x), model, kind, seed)
    assume(masks)
    other = copy.deepcopy(model)
    ModelSpeedup(model, x, masks).speedup_model()
    ModelSpeedup(other, x, masks, offload_folder=tmp_path).speedup_model()
    assert state(other) == state(model)


def test_a_module_that_is_registered_twice_is_written_once(tmp_path, monkeypatch):
    written: list[int] = []
    monkeypatch.setattr(ModelSpeedup, "_use", lambda *_: written.append(len(list(tmp_path.glob("*/*.bin")))))
    for twice in (False, True):
        model = tied(grads=False)
        if twice:
            model.again = model.out
        plan(model, HALF, INPUTS).apply(offload_folder=tmp_path)
    assert written[0] == written[1] > 0


def test_a_failure_brings_everything_back(tmp_path, monkeypatch):
    model = tied()
    before, output = copy.deepcopy(state(model)), model(*INPUTS).detach()
    held = model.out.weight  # as an optimizer would
    seen: dict[str, bool] = {}

    def gone(self, clock):
        seen["cut"] = model.out.weight is not held and len(list(tmp_path.iterdir())) == 1
        broken(self, clock)

    monkeypatch.setattr(ModelSpeedup, "_use", gone)
    with pytest.raises(ShrinkError, match="broken on purpose"):
        plan(model, HALF, INPUTS).apply(offload_folder=tmp_path)
    assert seen["cut"]
    assert state(model) == before
    assert model.out.weight is held
    assert model.head.weight is model.embed.weight
    assert torch.equal(model(*INPUTS), output)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert plan(model, HALF, INPUTS).apply(offload_folder=tmp_path).parameters_after < 2000


def test_what_shares_memory_still_does_after_a_failure(tmp_path, monkeypatch):
    model = tied(grads=False)
    model.again = nn.Parameter(model.out.weight.data)
    users = model.state_dict()
    monkeypatch.setattr(ModelSpeedup, "_use", broken)
    with pytest.raises(ShrinkError, match="broken on purpose"):
        plan(model, HALF, INPUTS).apply(offload_folder=tmp_path)
    assert model.again.data_ptr() == model.out.weight.data_ptr()
    assert all(tensor.data_ptr() == users[name].data_ptr() for name, tensor in model.state_dict().items())


def test_a_weight_that_only_a_graph_holds_is_the_models_own_again(tmp_path, monkeypatch):
    model = tied(grads=False)
    loss = model(*INPUTS).sum()
    before = copy.deepcopy(state(model))
    monkeypatch.setattr(ModelSpeedup, "_use", broken)
    with pytest.raises(ShrinkError, match="broken on purpose"):
        plan(model, HALF, INPUTS).apply(offload_folder=tmp_path)
    loss.backward()
    assert model.out.bias.grad is None
    assert model.out.weight.grad is not None
    del loss
    model.zero_grad()
    assert state(model) == before


def test_the_memory_is_free_before_the_small_model_runs(tmp_path, monkeypatch):
    model = tied(grads=False)
    dense = {name: weakref.ref(parameter) for name, parameter in model.named_parameters()}
    alive: list[str] = []
    use = model_speedup.run_as_it_is

    def look(*args):
        alive.extend(name for name, known in dense.items() if known() is not None)
        return use(*args)

    monkeypatch.setattr(model_speedup, "run_as_it_is", look)
    planned = plan(model, HALF, INPUTS)
    planned.apply(offload_folder=tmp_path)
    # What is not cut is still the model's own; a recurrent layer's second list holds its weights until the end.
    own = {name for name, parameter in model.named_parameters() if dense[name]() is parameter}
    assert not {name for name in alive if not name.startswith("lstm.")} - own
    assert {"conv.weight", "embed.weight", "out.weight"} <= dense.keys() - set(alive)


def test_a_folder_that_cannot_be_used_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    model = tied()
    before = state(model)
    with pytest.raises(ShrinkError, match="offload_folder="):
        plan(model, HALF, INPUTS).apply(offload_folder=tmp_path / "file")
    assert state(model) == before


def test_a_full_disk_is_told_and_changes_nothing(tmp_path):
    model = tied()
    before = copy.deepcopy(state(model))
    with files_of_at_most(300), pytest.raises(ShrinkError, match=r"cannot be written to the offload_folder.*room"):
        plan(model, HALF, INPUTS).apply(offload_folder=tmp_path)
    assert state(model) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.int64, torch.bool])
def test_a_tensor_comes_back_as_it_was(tmp_path, dtype):
    tensor = torch.arange(24).reshape(2, 3, 4).to(dtype).permute(2, 0, 1).clone()
    expected, shape = tensor.tolist(), tensor.stride()
    with Offload(tmp_path) as room:
        back = room.remember(tensor)
        assert back() is tensor
        where = list(Path(tmp_path).glob("*/*.bin"))
        assert len(where) == 1
        gone = weakref.ref(tensor)
        del tensor
        assert gone() is None
        again = back()
        assert (again.tolist(), again.stride(), again.dtype) == (expected, shape, dtype)
        assert back() is again


def hooked() -> nn.Parameter:
    parameter = nn.Parameter(torch.ones(4, 4))
    parameter.register_hook(lambda grad: grad)
    return parameter


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(8, 8)[:2],  # more lies in its storage
        lambda: torch.ones(1).expand(4, 4),
        lambda: torch.ones(4, 4).t(),  # somebody may have the one that it shows
        lambda: torch.ones(4, 4).to_sparse(),
        lambda: torch.ones(4, 4).share_memory_(),
        lambda: torch.ones(4, 4, dtype=torch.complex64).conj(),
        hooked,
    ],
)
def test_what_bytes_do_not_tell_stays_in_memory(tmp_path, make):
    tensor = make()
    with Offload(tmp_path) as room:
        back = room.remember(tensor)
        assert not list(Path(tmp_path).glob("*/*.bin"))
        kept = weakref.ref(tensor)
        del tensor
        assert kept() is not None
        assert back() is kept()
