"""Inductor computes the program that it was given, in integer kernels where it has them, of inputs that it may read."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchpare.errors import ExportError
from torchpare.runtimes import ModelSpeedupInductor, build_program
from torchpare.runtimes import inductor as room
from torchpare.runtimes.inductor import for_inductor
from torchpare.runtimes.verify import snr


class Everything(nn.Module):
    """A layer that is called twice, attention, a convolution along three axes, and None beside a tensor."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.twice, self.attention = nn.Conv2d(8, 8, 3, padding=1), nn.MultiheadAttention(8, 2, batch_first=True)
        self.deep = nn.Conv3d(8, 8, (1, 1, 3))

    def forward(self, x):
        y = self.twice(torch.relu(self.twice(x)))
        z, _ = self.attention(*[y.flatten(2).transpose(1, 2)] * 3, need_weights=False)
        return {"out": z.mean(1) + self.deep(y.unsqueeze(2)).mean((2, 3, 4)), "none": None}


X = torch.randn(4, 8, 4, 4, generator=torch.Generator().manual_seed(1))


def engine(model, x):
    made = ModelSpeedupInductor(model.eval(), dummy_input=x, calib_data_loader=[x], threads=1)
    made.compress()
    return made


@pytest.mark.slow
def test_what_inductor_stumbles_over_is_handed_to_it_otherwise():
    made = engine(Everything(), X)
    assert made.made().integers == ("twice", "twice", "attention", "attention")
    assert [str(place) for place in made.made().floats] == [
        "deep: inductor has no integer kernel for convolutions along three axes"
    ]
    for batch in (1, 4, 7):
        x = torch.cat([X, X])[:batch]
        output, _ = made.inference(x)
        assert output["none"] is None
        assert snr(made.made()(x)["out"], output["out"]) > 45


def test_each_layer_has_its_own_weight_and_none_is_not_returned():
    module = for_inductor(build_program(Everything().eval(), X, calibration=[X]).module)
    layers = [node for node in module.graph.nodes if node.target is torch.ops.aten.conv2d.default]
    assert len({node.args[1] for node in layers}) == len(layers) == 2
    assert all(len(node.args[1].users) == 1 for node in layers)
    assert len(module(X)) == 1


class OneBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, x, y):
        return self.linear(x.view(4, 6)) + y


@pytest.mark.slow
def test_a_package_reads_no_further_than_what_it_is_given(tmp_path):
    x, y = torch.randn(4, 6), torch.randn(1, 2)
    made = engine(OneBatch(), (x, y))
    torch.testing.assert_close(made.inference((x, y))[0], made.made()(x, y), rtol=1e-4, atol=1e-4)
    made.export_quantized_model(tmp_path / "model.pt2")
    again = ModelSpeedupInductor(nn.Identity(), dummy_input=(x, y))
    again.load_quantized_model(tmp_path / "model.pt2")
    for each in (made, again):
        with pytest.raises(
            ExportError, match=r"of shapes \[\(2, 6\), \(1, 2\)\]: it was compiled for \(4, 6\), \(1, 2\)"
        ):
            each.inference((x[:2], y))


def test_sizes_that_may_vary_vary_together():
    tensors = [torch.ones(3, 2), torch.ones(3, 5)]
    room._check_sizes(tensors, [["s0", 2], ["s0", 5]])
    for sizes in ([["s0", 2], ["s0", 4]], [[4, 2], ["s0", 5]], [["s0", 2], ["s0"]]):
        with pytest.raises(ExportError, match="it was compiled for"):
            room._check_sizes(tensors, sizes)
    with pytest.raises(ExportError, match="it was compiled for"):
        room._check_sizes([torch.ones(3, 2), torch.ones(2, 5)], [["s0", 2], ["s0", 5]])


def test_a_program_that_inductor_compiles_to_another_is_compiled_without_freezing(monkeypatch):
    x = torch.randn(2, 8)
    tried = []

    def packed(self, module, example):
        tried.append(self._frozen)
        return "frozen" if self._frozen else "not"

    def loaded(self, path):
        program = self.program.module
        return lambda tensors: [program(*tensors) * (-1 if path == "frozen" else 1)]

    monkeypatch.setattr(ModelSpeedupInductor, "_packed", packed)
    monkeypatch.setattr(ModelSpeedupInductor, "read", loaded)
    made = engine(nn.Sequential(nn.Linear(8, 4)), x)
    assert tried == [True, False]
    assert made.made().integers == ()
    assert "another function's" in made.made().floats[-1].reason
    assert torch.equal(made.inference(x)[0], made.made()(x))
