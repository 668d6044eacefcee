"""DoReFa in a net without norms, beside the paper's formulas written out: what it learns there is the algorithm's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.quantization import DoReFaQuantizer


class LeNet(nn.Module):
    """Two convolutions and two linear layers, and no norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 3)
        self.fc1, self.fc2 = nn.Linear(32, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x).relu(), 2)
        x = F.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc2(self.fc1(x.flatten(1)).relu())


def _levels(x: Tensor, bits: int) -> Tensor:
    """``round((2**k - 1) x) / (2**k - 1)``, through which the gradient passes (equation 5 of the paper)."""
    n = 2**bits - 1
    return x + (torch.round(n * x) / n - x).detach()


def _weight(w: Tensor, bits: int) -> Tensor:
    """Equation 9."""
    squashed = torch.tanh(w)
    return 2 * _levels(squashed / (2 * squashed.abs().max().detach()) + 0.5, bits) - 1


def _by_hand(net: LeNet, x: Tensor, bits: int) -> Tensor:
    def input_of(value: Tensor) -> Tensor:
        return _levels(value.clamp(0, 1), bits)  # section 2.4

    x = F.max_pool2d(F.conv2d(input_of(x), _weight(net.conv1.weight, bits), net.conv1.bias).relu(), 2)
    x = F.max_pool2d(F.conv2d(input_of(x), _weight(net.conv2.weight, bits), net.conv2.bias).relu(), 2)
    x = F.linear(input_of(x.flatten(1)), _weight(net.fc1.weight, bits), net.fc1.bias).relu()
    return F.linear(input_of(x), _weight(net.fc2.weight, bits), net.fc2.bias)


@pytest.mark.parametrize("bits", [2, 8])
def test_a_net_without_norms_learns_what_the_formulas_say(bits, generator):
    torch.manual_seed(0)
    ours, theirs = LeNet().double(), LeNet().double()
    theirs.load_state_dict(ours.state_dict())
    asked = {"quant_types": ["weight", "input"], "quant_bits": bits, "op_types": ["Conv2d", "Linear"]}
    DoReFaQuantizer(ours, [asked]).compress()
    optimizers = [torch.optim.SGD(net.parameters(), 0.05, momentum=0.9) for net in (ours, theirs)]
    for _ in range(4):
        x = torch.rand(16, 1, 14, 14, dtype=torch.float64, generator=generator)
        y = torch.randint(0, 10, (16,), generator=generator)
        returned = ours(x), _by_hand(theirs, x, bits)
        torch.testing.assert_close(*returned, rtol=1e-9, atol=1e-9)
        for logits, optimizer in zip(returned, optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)
