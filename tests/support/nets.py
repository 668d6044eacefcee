"""Small networks, and one of them shrunk by hand, for tests that need no engine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Net", "TiedNet", "shrunk_net"]


class Net(nn.Module):
    """Convolutions (one depthwise), norms, a user's own size attribute and a head."""

    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.width = width
        self.shape_after_pool = (-1, width)
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm2 = nn.GroupNorm(2, width)
        self.head = nn.Linear(width, classes)
        self.register_buffer("table", torch.arange(float(width)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(self.depthwise(x)))
        x = x.mean((2, 3)).view(self.shape_after_pool) + self.table
        return self.head(x)


class TiedNet(nn.Module):
    """An encoder and a decoder with one weight, and one layer called under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.mix = nn.Linear(4, 4)
        self.mix_again = self.mix
        self.decode = nn.Linear(4, 7, bias=False)
        self.decode.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decode(self.mix_again(self.mix(self.embed(tokens))))


KEPT = (0, 1, 4, 6)


def shrunk_net(generator: torch.Generator) -> Net:
    """A `Net` in evaluation mode with random values, left with four of its eight channels and the record of that.

    The depthwise convolution gains a bias, as folding constants does.
    """
    from tests.support.vision import randomise

    net = randomise(Net(), generator).eval()
    kept = torch.tensor(KEPT)
    for module in (net.conv1, net.norm1, net.depthwise, net.norm2):
        for name, parameter in list(module.named_parameters()):
            setattr(module, name, nn.Parameter(parameter.detach()[kept]))
    net.norm1.running_mean = net.norm1.running_mean[kept]
    net.norm1.running_var = net.norm1.running_var[kept]
    net.depthwise.bias = nn.Parameter(torch.rand(4, generator=generator))
    net.head.weight = nn.Parameter(net.head.weight.detach()[:, kept])
    net.table = net.table[kept]
    net.depthwise.groups = net.depthwise.in_channels = net.depthwise.out_channels = 4
    net.conv1.out_channels = net.norm1.num_features = net.norm2.num_channels = net.head.in_features = 4
    net.width, net.shape_after_pool = 4, (-1, 4)
    net.torchpare_structure = {
        "version": 1,
        "attributes": {"": {"width": 4, "shape_after_pool": [-1, 4]}, "depthwise": {"groups": 4}},
        "added_parameters": ["depthwise.bias"],
        "kept": {name: {"0": list(KEPT)} for name in ("conv1.weight", "conv1.bias", "table")},
    }
    return net
