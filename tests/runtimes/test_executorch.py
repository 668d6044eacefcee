"""ExecuTorch computes the program that it was given, with XNNPACK where that does, and without it where it does not."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from torchpare.errors import ExportError
from torchpare.runtimes import ModelSpeedupExecuTorch, build_program, verify
from torchpare.runtimes import executorch as room
from torchpare.runtimes.verify import snr

pytest.importorskip("executorch")


def batches(*shape):
    return list(torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(0)))


def engine(model, given):
    torch.manual_seed(0)
    made = ModelSpeedupExecuTorch(model.eval(), dummy_input=given[0], calib_data_loader=given)
    made.compress()
    return made


class Twice(nn.Module):
    """One layer, its bias included, on inputs of different size."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        y = torch.relu(self.layer(x))
        return self.layer(y) + y


def test_a_layer_that_is_called_twice_has_its_bias_in_the_steps_of_each_call():
    given = batches(8, 6, 6)
    made = engine(Twice(), given)
    assert made.made().integers == ("layer", "layer")
    assert snr(made.made()(given[0]), made.inference(given[0])[0]) > 60  # 16 with one bias for both


class Two(nn.Module):
    """Two layers, and what is made of the input and what they return."""

    def __init__(self, made):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second, self.made = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), made
        self.last = nn.LazyConv2d(4, 1)

    def forward(self, x):
        y = torch.relu(self.first(x))
        return self.last(self.made(x, y, self.second(y)))


@pytest.mark.parametrize(
    "made",
    [
        lambda x, y, z: y - z,
        lambda x, y, z: y * torch.sigmoid(z),  # integers times a float
        lambda x, y, z: y * torch.sigmoid(z.mean((2, 3), keepdim=True)),
        lambda x, y, z: torch.cat([y, z], 1),  # on two grids
        lambda x, y, z: torch.cat([x, y, z], 1),
    ],
    ids=["difference", "gate", "gate of channels", "concatenation", "concatenation with the input"],
)
def test_layers_around_what_mixes_grids_are_in_xnnpacks_integers(made):
    given = batches(3, 6, 6)
    model = Two(made).eval()
    model(given[0])
    made = engine(model, given)
    assert made.made().integers == ("first", "second", "last")
    assert snr(made.made()(given[0]), made.inference(given[0])[0]) > 40
    assert verify(made, given[1]).ok


def test_what_xnnpack_does_not_take_runs_in_portable_kernels_and_is_said_to_be_float(tmp_path, monkeypatch):
    real = room._lowered

    def refusing(module, example, *, xnnpack):
        if xnnpack:
            raise ExportError("no kernel")
        return real(module, example, xnnpack=False)

    monkeypatch.setattr(room, "_lowered", refusing)
    given = batches(3, 6, 6)
    model = nn.Sequential(OrderedDict(first=nn.Conv2d(3, 8, 3), second=nn.Conv2d(8, 8, 3)))
    made = engine(model, given)
    assert made.made().integers == ()
    reasons = {place.name: place.reason for place in made.made().floats}
    assert all("XNNPACK does not compute this program" in reasons[name] for name in ("first", "second"))
    assert snr(made.made()(given[0]), made.inference(given[0])[0]) > 60
    made.export_quantized_model(tmp_path / "model.pte")
    again = ModelSpeedupExecuTorch(nn.Identity(), dummy_input=given[0])
    again.load_quantized_model(tmp_path / "model.pte")
    assert torch.equal(again.inference(given[0])[0], made.inference(given[0])[0])


def test_a_program_that_xnnpack_computes_otherwise_is_taken_from_it(monkeypatch):
    model, given = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), batches(3, 6, 6)
    real = room._lowered

    def wrong(module, example, *, xnnpack):
        other = build_program(nn.Sequential(nn.Conv2d(3, 8, 3)).eval(), example).module
        return real(other if xnnpack else module, example, xnnpack=False)

    monkeypatch.setattr(room, "_lowered", wrong)
    made = engine(model, given)
    assert "another function's" in made.made().floats[-1].reason
    assert snr(made.made()(given[0]), made.inference(given[0])[0]) > 60


def test_what_no_kernel_computes_is_an_error_when_it_is_compiled():
    told = "'0' is a convolution along three axes, for which ExecuTorch has no kernel: ExecuTorch cannot run"
    with pytest.raises(ExportError, match=told):
        engine(nn.Sequential(nn.Conv3d(2, 4, 3)), batches(2, 5, 5, 5))


def test_the_parts_of_an_attention_layer_are_run_although_what_it_rounds_is_a_view():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    given = batches(5, 8)
    assert verify(engine(layer, given), given[1]).ok
