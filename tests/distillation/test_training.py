"""A distiller in real training loops: other types, recomputing, compiled students, copies, several processes."""

from __future__ import annotations

import copy
import io
import socket

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.distillation.nets import pictures_net, pruned_copy
from torchpare import ModelSpeedup
from torchpare.distillation import AttentionMaps, Distiller, HiddenStates, Relations, SoftTargets, dense_teacher
from torchpare.errors import ConfigError
from torchpare.quantization import QATQuantizer

TERMS = [SoftTargets(), HiddenStates(["stem", "relu"]), AttentionMaps(["inner"]), Relations(["relu"])]


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_student_learns_to_be_its_teacher():
    teacher, x = pictures_net()
    student, _ = pruned_copy(teacher, x)
    ModelSpeedup(student, x).speedup_model()
    distiller = Distiller(student, teacher, [SoftTargets(), HiddenStates(["relu"])])
    optimizer = torch.optim.Adam(student.parameters(), 0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(distiller(student(x), x))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 4
    assert sum(distiller.losses.values()) == losses[-1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_loss_is_in_float32_and_zero_for_an_unpruned_copy(dtype):
    model, x = pictures_net()
    with torch.autocast("cpu", dtype):
        distiller = Distiller(model, dense_teacher(model), TERMS)
        loss = distiller(model(x), x)
        assert loss.dtype == torch.float32
        assert loss == 0.0
    student, _ = pruned_copy(model, x)
    distiller = Distiller(student, model, TERMS)
    exact = distiller(student(x), x)
    with torch.autocast("cpu", dtype):
        loss = distiller(student(x), x)
    loss.backward()
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0.01)
    assert all(grad.isfinite().all() for grad in gradients(student).values())


class Recomputed(nn.Module):
    """Two blocks, the activations inside of which are not kept."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.second = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.reentrant = reentrant

    def forward(self, x):
        for block in (self.first, self.second):
            x = checkpoint(block, x, use_reentrant=self.reentrant) if self.training else block(x)
        return x


def test_recomputing_activations_changes_neither_loss_nor_gradients():
    student, teacher = Recomputed(reentrant=False), Recomputed(reentrant=False)
    x = torch.randn(3, 4, requires_grad=True)
    distiller = Distiller(student, teacher, [HiddenStates(["first.0", "second.1"]), SoftTargets()])
    expected = distiller(student.eval()(x), x)
    expected.backward()
    plain = gradients(student)
    student.zero_grad()
    for _ in range(2):  # what is recomputed in the first step does not count in the second
        student.zero_grad()
        loss = distiller(student.train()(x), x)
        loss.backward()
        assert loss == expected
        for name, grad in gradients(student).items():
            torch.testing.assert_close(grad, plain[name])


def test_recomputing_that_hides_gradients_is_an_error_with_the_remedy():
    student = Recomputed(reentrant=True)
    x = torch.randn(3, 4, requires_grad=True)
    distiller = Distiller(student, Recomputed(reentrant=True), [HiddenStates(["first.0"])])
    with pytest.raises(ConfigError, match=r"hidden_states at 'first.0': the layer ran without .* use_reentrant=False"):
        distiller(student.train()(x), x)
    with torch.no_grad():  # while testing, nobody asks for gradients
        assert distiller(student.eval()(x), x) > 0


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_student_learns_the_same(backend):
    model, x = pictures_net()
    student, _ = pruned_copy(model, x)
    ModelSpeedup(student, x).speedup_model()
    expected = Distiller(copy.deepcopy(student), model, TERMS)
    twin = expected.student
    expected(twin(x), x).backward()
    compiled = torch.compile(student, backend=backend)
    distiller = Distiller(compiled, model, TERMS)
    for _ in range(2):
        student.zero_grad()
        loss = distiller(compiled(x), x)
        loss.backward()
    torch.testing.assert_close(sum(distiller.losses.values()), sum(expected.losses.values()))
    for name, grad in gradients(student).items():
        torch.testing.assert_close(grad, gradients(twin)[name], rtol=1e-4, atol=1e-5)


def test_copies_and_pickles_of_a_student_have_no_part_in_it():
    model, x = pictures_net()
    student = copy.deepcopy(model)
    with torch.no_grad():
        student.stem.weight += 0.1
    distiller = Distiller(student, model, [HiddenStates(["relu"])])
    expected = distiller(student(x), x)
    output = student(x)
    average = torch.optim.swa_utils.AveragedModel(student)
    file = io.BytesIO()
    torch.save(student, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)  # a whole model, which these lines have just written
    for other in (average, copy.deepcopy(student), loaded):
        other(torch.zeros_like(x))
    assert distiller(output, x) == expected


def test_gradient_accumulation_and_evaluation_in_between():
    model, x = pictures_net()
    student, _ = pruned_copy(model, x)
    distiller = Distiller(student, model, [SoftTargets(), HiddenStates(["relu"])])
    distiller(student(x), x).backward()
    whole = gradients(student)
    student.zero_grad()
    for half in x.split(2):
        with torch.no_grad():
            student(x)
        (distiller(student(half), half) / 2).backward()
    for name, grad in gradients(student).items():
        torch.testing.assert_close(grad, whole[name], rtol=1e-3, atol=1e-5)


def _learn(rank: int, port: int, folder: str) -> None:
    """One of two processes, with half of the batch."""
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model, x = pictures_net()
    student, _ = pruned_copy(model, x)
    ModelSpeedup(student, x).speedup_model()
    wrapped = nn.parallel.DistributedDataParallel(student)
    distiller = Distiller(wrapped, model, [SoftTargets(), HiddenStates(["relu"])])
    assert distiller.student is student
    half = x.chunk(2)[rank]
    distiller(wrapped(half), half).backward()
    torch.save(gradients(student), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_learn, (port, str(tmp_path)), nprocs=2)
    model, x = pictures_net()
    student, _ = pruned_copy(model, x)
    ModelSpeedup(student, x).speedup_model()
    Distiller(student, model, [SoftTargets(), HiddenStates(["relu"])])(student(x), x).backward()
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == gradients(student).keys()
        for name, grad in gradients(student).items():
            torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-6)


def test_a_quantized_student_learns_from_the_channels_that_it_has():
    model, x = pictures_net()
    student, _ = pruned_copy(model, x)
    ModelSpeedup(student, x).speedup_model()
    config_list = [{"quant_types": ["weight", "input"], "quant_bits": 4, "op_types": ["Conv2d"]}]
    optimizer = torch.optim.SGD(student.parameters(), 0.001)
    QATQuantizer(student, config_list, optimizer).compress()
    distiller = Distiller(student, model, TERMS)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        losses.append(distiller(student(x), x))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_a_step_that_overflows_is_left_to_the_scaler():
    model, x = pictures_net()
    student = copy.deepcopy(model)
    with torch.no_grad():
        student.stem.weight[0] = 1e5  # more than float16 holds
    before = copy.deepcopy(student.state_dict())
    distiller = Distiller(student, model, [HiddenStates(["stem"])], check_finite=False)
    optimizer, scaler = torch.optim.SGD(student.parameters(), 0.1), torch.amp.GradScaler("cpu")
    with torch.autocast("cpu", torch.float16):
        loss = distiller(student(x), x)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert not loss.isfinite()
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
