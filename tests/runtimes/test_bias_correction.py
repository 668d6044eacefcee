"""Biases that make up for rounding: where a mean is off they bring it back, and where chance made it they stay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchpare.runtimes import build_program, program
from torchpare.runtimes.bias_correction import KeepsSome, _off, _places_of_samples, _rows, _shift
from torchpare.runtimes.folding import WEIGHTED
from torchpare.runtimes.record import record
from torchpare.runtimes.verify import snr


class Net(nn.Module):
    """Convolutions and linear layers, of which one has no bias and two activation functions cut off."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 24, 3, bias=False), nn.BatchNorm2d(24), activation(), nn.Conv2d(24, 24, 3), activation(),
            nn.Conv2d(24, 24, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 32),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def pictures(seed: int, number: int = 6, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(batch, 3, 12, 12, generator=generator) for _ in range(number)]


def with_and_without(monkeypatch, model, batches):
    corrected = build_program(model, batches[0], calibration=batches)
    with monkeypatch.context() as patched:
        patched.setattr(program, "correct_biases", lambda *given: None)
        plain = build_program(model, batches[0], calibration=batches)
    return corrected, plain


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_means_come_back_and_the_signal_is_better_on_what_was_not_seen(monkeypatch, activation):
    model, batches, fresh = Net(activation).eval(), pictures(0, 4, 4), torch.cat(pictures(1, 32))
    corrected, plain = with_and_without(monkeypatch, model, batches)
    with torch.no_grad():
        want = model(fresh)
    off = [float((want - made(fresh)).mean(0).norm()) for made in (corrected, plain)]
    assert off[0] < 0.75 * off[1]
    assert snr(want, corrected(fresh)) > snr(want, plain(fresh)) + 0.5


def test_roundings_and_layers_are_the_same_and_the_model_stays(monkeypatch):
    model, batches = Net().eval(), pictures(0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    corrected, plain = with_and_without(monkeypatch, model, batches)
    assert corrected.sites == plain.sites
    assert (corrected.integers, corrected.floats) == (plain.integers, plain.floats)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_biases_keep_their_names_but_where_layers_share_one(monkeypatch):
    batches = pictures(0)
    corrected, plain = with_and_without(monkeypatch, Net().eval(), batches)
    names = [{name for name, _ in made.module.named_buffers()} | {name for name, _ in made.module.named_parameters()}
             for made in (corrected, plain)]  # fmt: skip
    assert names[0] == names[1]
    assert "body.3.bias" in names[0]
    tied = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU()).eval()
    tied[2].bias = tied[0].bias
    made = build_program(tied, batches[0], calibration=batches).module
    read = {str(node.args[2].target) for node in made.graph.nodes if node.target is torch.ops.aten.conv2d.default}
    assert len(read) == 2


def test_batches_may_be_gone_through_once_alone():
    model, batches = Net().eval(), pictures(0)
    once = build_program(model, batches[0], calibration=iter(batches))
    assert torch.equal(once(batches[0]), build_program(model, batches[0], calibration=batches)(batches[0]))


def test_one_sample_changes_no_bias(monkeypatch):
    batches = pictures(0, 1, 1)
    corrected, plain = with_and_without(monkeypatch, Net().eval(), batches)
    assert torch.equal(corrected(batches[0]), plain(batches[0]))


def test_inputs_without_a_batch_and_of_other_lengths():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    alone = build_program(model, torch.randn(8), calibration=[torch.randn(8) for _ in range(3)])
    assert alone(torch.randn(8)).shape == (4,)
    batches = [torch.randn(size, 8) for size in (2, 5, 3)]
    assert build_program(model, batches[0], calibration=batches)(batches[1]).shape == (5, 4)


class Attends(nn.Module):
    """Attention between two linear layers, which brings the batch inside of the sequence and turns it back."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.after = nn.Linear(8, 8), nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        return self.after(self.attention(x, x, x, need_weights=False)[0])


def test_tokens_of_one_sequence_are_no_samples(monkeypatch):
    for shape in ((20, 1, 8), (20, 8)):  # one sample with the sequence first, and without a batch
        batches = [torch.randn(shape, generator=torch.Generator().manual_seed(0))]
        corrected, plain = with_and_without(monkeypatch, Attends(batch_first=False).eval(), batches)
        assert torch.equal(corrected(batches[0]), plain(batches[0]))


def places_of(model: nn.Module, x: Tensor) -> list[tuple[int, bool]] | None:
    module = record(model.eval(), x)
    windows = {node.name: len(node.args[1].meta["val"].shape) - 2 for node in module.graph.nodes
               if node.target in WEIGHTED}  # fmt: skip
    found = _places_of_samples(module, [x], windows)
    return None if found is None else [found[name] for name in windows]


def test_samples_are_found_where_layers_have_them():
    x = torch.randn(4, 20, 8)
    # Both projections and the one after attention: that has rows in which samples take turns.
    assert places_of(Attends(batch_first=True), x) == [(0, True), (1, True), (0, False), (0, True)]
    assert places_of(Attends(batch_first=False), x) is None
    assert places_of(Attends(batch_first=True), x[:1]) is None

    class Windows(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.reshape(-1, 5, 8))

    assert places_of(Windows(8, 8), x) == [(0, True)]
    assert places_of(nn.Conv2d(4, 8, 3), torch.randn(2, 4, 6, 6)) == [(0, True)]
    assert places_of(nn.Conv1d(8, 8, 3, groups=8), torch.randn(8, 30)) is None  # channels are none, though kept apart


def test_rows_are_those_of_samples():
    values = torch.arange(12.0).view(6, 2)
    assert _rows(values, 1, (0, True), 3).tolist() == values.view(3, 2, 2).tolist()
    assert _rows(values, 1, (0, False), 3).tolist() == values.view(2, 3, 2).transpose(0, 1).tolist()
    assert _rows(values.view(2, 3, 2), 2, (1, True), 3).tolist() == values.view(2, 3, 2).transpose(0, 1).tolist()
    assert _rows(values.view(3, 2, 2), 1, (0, True), 3).tolist() == values.view(3, 2, 2).transpose(1, 2).tolist()
    assert _rows(values, 1, (0, True), 4).shape == (1, 6, 2)


def test_as_many_batches_stay_as_hold_sixteen_samples():
    batches = KeepsSome({"x": each} for each in pictures(0, 7, 6))
    assert len(list(batches)) == 7
    assert [len(each["x"]) for each in batches.kept] == [6, 6, 6]


def test_a_shift_that_all_samples_have_is_taken_and_one_of_chance_is_not():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, 5000, generator=generator, dtype=torch.float64)
    shows = torch.ones_like(noise)
    assert float((_shift(noise, shows) != 0).float().mean()) < 0.04  # t of 7 degrees beyond 2.8: 2.6 % of channels
    torch.testing.assert_close(_shift(0.01 * noise + 3, shows), torch.full((5000,), 3.0), rtol=0.01, atol=0)
    # What half of the places hand on takes twice the bias; where few do, it is left alone.
    torch.testing.assert_close(_shift(0.01 * noise + 3, 0.5 * shows), torch.full((5000,), 6.0), rtol=0.01, atol=0)
    assert not _shift(0.01 * noise + 3, 0.05 * shows).any()
    assert not _shift(noise[:1], shows[:1]).any()


def test_what_an_activation_function_cuts_off_counts_for_nothing():
    wanted, made = torch.tensor([[[-5.0], [1.0], [9.0]]]), torch.tensor([[[-1.0], [2.0], [7.0]]])
    off, shows = _off(wanted, made, 0.0, 6.0)
    assert float(off) == pytest.approx(-1 / 3)
    assert float(shows) == pytest.approx(1 / 3)
