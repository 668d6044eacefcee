"""Whoever reads a weight gets the masked one: parents, recurrent layers, compilers, exporters, other processes."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from torchpare.attach import attach_mask, detach


def element_mask(tensor):
    return torch.rand(tensor.shape) < 0.6


def masked_everywhere(module):
    """The module with a random mask on every parameter, and the same function with zeros written in."""
    for layer in list(module.modules()):
        for name, parameter in list(layer.named_parameters(recurse=False)):
            attach_mask(layer, name, element_mask(parameter))
    baked = copy.deepcopy(module)
    detach(baked, bake=True)
    return module, baked


X = torch.randn(2, 5, 8)
IMAGE = torch.randn(2, 4, 8, 8)
TOKENS = torch.tensor([[0, 3, 1], [2, 2, 4]])

READERS = {
    "conv1d": (lambda: nn.Conv1d(5, 6, 3), X),
    "conv2d circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), IMAGE),
    "conv3d": (lambda: nn.Conv3d(4, 6, 3), torch.randn(1, 4, 5, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), IMAGE),
    "linear": (lambda: nn.Linear(8, 3), X),
    "prelu": (lambda: nn.PReLU(4), IMAGE),
    "embedding": (lambda: nn.Embedding(5, 4, padding_idx=0, max_norm=1.0), TOKENS),
    "embedding bag": (lambda: nn.EmbeddingBag(5, 4, mode="max"), TOKENS),
    "batch norm": (lambda: nn.BatchNorm2d(4), IMAGE),
    "layer norm": (lambda: nn.LayerNorm(8), X),
    "group norm": (lambda: nn.GroupNorm(2, 4), IMAGE),
    "attention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), (X, X, X)),
    "attention of other sizes": (lambda: nn.MultiheadAttention(8, 2, kdim=8, vdim=8, batch_first=True), (X, X, X)),
    "transformer layer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), X),
    "lstm": (lambda: nn.LSTM(8, 4, num_layers=2, bidirectional=True, batch_first=True), X),
    "lstm with projection": (lambda: nn.LSTM(8, 4, proj_size=2), X),
    "gru": (lambda: nn.GRU(8, 4), X),
    "rnn": (lambda: nn.RNN(8, 4), X),
    "lstm cell": (lambda: nn.LSTMCell(8, 4), X[0]),
}


def first(output):
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", READERS)
def test_every_kind_of_layer_computes_with_its_masked_parameters(kind, training):
    make, inputs = READERS[kind]
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    module, baked = masked_everywhere(make().train(training))
    with torch.set_grad_enabled(training):  # without gradients transformer layers take another path in evaluation
        torch.testing.assert_close(first(module(*inputs)), first(baked(*inputs)))
    copied = copy.deepcopy(module)
    torch.testing.assert_close(first(copied(*inputs)), first(baked(*inputs)))
    detach(module, bake=True)
    torch.testing.assert_close(first(module(*inputs)), first(baked(*inputs)))


def test_a_recurrent_layer_follows_its_parameters_also_after_it_was_masked():
    lstm, _ = masked_everywhere(nn.LSTM(8, 4))
    lstm.weight_ih_l0 = nn.Parameter(torch.zeros_like(lstm.weight_ih_l0))
    detach(lstm.double(), bake=False)
    assert lstm._flat_weights[0] is lstm.weight_ih_l0
    assert lstm(X.double())[0].dtype == torch.float64


def test_sparse_embedding_gradients_are_masked():
    layer = nn.Embedding(5, 2, sparse=True)
    attach_mask(layer, "weight", torch.tensor([[True, False]] * 5))
    layer(torch.tensor([1, 3])).sum().backward()
    assert layer.old_weight.grad.is_sparse
    assert layer.old_weight.grad.to_dense().sum(0).tolist() == [2, 0]


def net():
    return masked_everywhere(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1)))


def test_a_masked_model_compiles_without_a_break():
    model, baked = net()
    compiled = torch.compile(model.eval(), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(IMAGE), baked.eval()(IMAGE))
    model.train()
    compiled(IMAGE).square().sum().backward()
    assert not model[0].old_weight.grad[~model[0].weight_mask].any()


@pytest.mark.parametrize("strict", [False, True])
def test_a_masked_model_is_exported(strict):
    model, baked = net()
    program = torch.export.export(model.eval(), (IMAGE,), strict=strict)
    torch.testing.assert_close(program.module()(IMAGE), baked.eval()(IMAGE))


def test_symbolic_tracing():
    model, baked = net()
    torch.testing.assert_close(torch.fx.symbolic_trace(model.eval())(IMAGE), baked.eval()(IMAGE))


def test_functional_calls_mask_the_parameters_they_are_given():
    layer = nn.Linear(2, 2, bias=False)
    attach_mask(layer, "weight", torch.tensor([[True, False], [False, True]]))
    given = {"weight": torch.full((2, 2), 3.0)}
    assert torch.func.functional_call(layer, given, torch.ones(1, 2)).tolist() == [[3, 3]]


def test_a_data_parallel_replica_is_masked():
    layer = nn.Linear(2, 2, bias=False)
    attach_mask(layer, "weight", torch.tensor([[True, False], [False, True]]))
    replica = layer._replicate_for_data_parallel()
    replica._parameters["bias"] = None  # these two lines are what torch.nn.parallel.replicate does next:
    replica.weight = torch.full((2, 2), 3.0)  # a tensor, not a parameter
    assert replica(torch.ones(1, 2)).tolist() == [[3, 3]]
    assert layer.old_weight.tolist() != [[3, 3], [3, 3]]


def _train_in_parallel(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1))
    for layer in model:
        attach_mask(layer, "weight", torch.rand(layer.weight.shape) < 0.5)
    parallel = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        parallel(torch.randn(2, 4, 8, 8) + rank).square().mean().backward()
        optimizer.step()
    torch.save(
        [layer.weight.detach() for layer in model] + [layer.weight_mask for layer in model], f"{folder}/{rank}.pt"
    )
    dist.barrier()  # neither ends while the other still talks: torch's threads abort a process then, now and again
    del parallel
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_that_train_together_agree(tmp_path):
    torch.multiprocessing.spawn(_train_in_parallel, args=(str(tmp_path),), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(not weight[~mask].any() for weight, mask in zip(one[:3], one[3:], strict=True))
