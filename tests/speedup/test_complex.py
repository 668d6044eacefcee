"""Complex numbers are proved in both of their parts, and in complex128."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from torchpare import plan
from torchpare.errors import ProofError
from torchpare.speedup import model_speedup
from torchpare.speedup.proof import Outputs, largest_difference

ALL = [{"sparsity": 0.5, "structures": ["all"]}]


def of(*values):
    return Outputs([torch.tensor(values)], torch.float64)


def test_numbers_that_differ_in_their_imaginary_parts_alone_differ():
    assert largest_difference(of(1 + 2j), of(1 - 7j)) == pytest.approx(9 / 2)
    assert largest_difference(of(1 + 2j, 3j), of(1 + 2j, 3j)) == 0
    assert largest_difference(of(1 + 2j), of(complex(1, math.inf))) == math.inf
    conjugate = Outputs([torch.tensor([1 - 2j]).conj()], torch.float64)  # which torch only notes down
    assert largest_difference(of(1 + 2j), conjugate) == 0


def test_a_real_number_is_no_complex_one():
    assert largest_difference(of(1.0), of(1 + 0j)) == math.inf


class Spectrum(nn.Module):
    """A net that works with complex weights, and returns complex numbers."""

    def __init__(self):
        super().__init__()
        self.into = nn.Linear(4, 6)
        self.weight = nn.Parameter(torch.randn(8, 6, dtype=torch.complex64))
        self.out = nn.Parameter(torch.randn(3, 8, dtype=torch.complex64))

    def forward(self, x):
        hidden = self.into(x).to(self.weight.dtype) @ self.weight.T
        return hidden @ self.out.T


def test_a_net_of_complex_weights_is_shrunk_and_proved_in_float64():
    torch.manual_seed(0)
    model, x = Spectrum().eval(), torch.randn(5, 4)
    report = plan(model, ALL, x).apply()
    assert model.weight.shape[0] < 8 or model.into.out_features < 6
    assert report.dtype == "float64"
    assert report.largest_difference < 1e-12
    assert model(x).dtype is torch.complex64


class TwoHeads(nn.Module):
    """Real and imaginary parts come from heads of their own."""

    def __init__(self):
        super().__init__()
        self.into, self.real, self.imaginary = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        hidden = torch.relu(self.into(x))
        return torch.complex(self.real(hidden), self.imaginary(hidden))


def test_a_small_net_that_is_wrong_in_imaginary_parts_alone_is_refused(monkeypatch):
    torch.manual_seed(0)
    model, x = TwoHeads().eval(), torch.randn(5, 4)
    before = copy.deepcopy(model.state_dict())
    shrink = model_speedup.shrink

    def spoilt(*arguments, **options):
        done = shrink(*arguments, **options)
        with torch.no_grad():
            model.imaginary.weight.neg_()
        return done

    monkeypatch.setattr(model_speedup, "shrink", spoilt)
    with pytest.raises(ProofError):
        plan(model, ALL, x).apply()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
