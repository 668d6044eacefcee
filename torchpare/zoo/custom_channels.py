"""Hand-written convolutional nets about what becomes of channels: groups, shuffles, gates, norms, chains of concats."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from torchpare.zoo.custom_case import Builder, normal

__all__ = ["CHANNELS"]


class ChannelShuffle(nn.Module):
    """Half of the channels goes through a depthwise block; then the halves are shuffled, as in ShuffleNet."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = 2
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.branch = nn.Sequential(
            nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1), nn.ReLU()
        )
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 5)."""
        left, right = self.stem(image).chunk(2, dim=1)
        x = torch.cat([left, self.branch(right)], dim=1)
        batch, channels, height, width = x.shape
        x = x.view(batch, self.groups, channels // self.groups, height, width).transpose(1, 2).contiguous()
        return self.head(F.relu(x.view(batch, -1, height, width))).mean((2, 3))


class SqueezeExcite(nn.Module):
    """A residual block whose channels are weighed by what they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.body = nn.Conv2d(12, 12, 3, padding=1)
        self.squeeze = nn.Linear(12, 4)
        self.excite = nn.Linear(4, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 5)."""
        x = F.relu(self.stem(image))
        y = self.body(x)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))
        x = F.relu(x + y * gate[:, :, None, None])
        return self.head(x.mean((2, 3)))


class TwoGroupCounts(nn.Module):
    """Grouped convolutions of 2 and of 3 groups one after the other over the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 1)
        self.twos = nn.Conv2d(24, 24, 3, padding=1, groups=2)
        self.threes = nn.Conv2d(24, 36, 3, padding=1, groups=3)
        self.head = nn.Conv2d(36, 5, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 5, H, W)."""
        return self.head(F.relu(self.threes(F.relu(self.twos(F.relu(self.stem(image)))))))


class DepthwiseSeparable(nn.Module):
    """Depthwise and pointwise convolutions in turn; the first depthwise gives each channel two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.spread = nn.Conv2d(8, 16, 3, padding=1, groups=8, bias=False)
        self.point = nn.Conv2d(16, 20, 1, bias=False)
        self.norm_point = nn.BatchNorm2d(20)
        self.depth = nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.head = nn.Linear(20, 5)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 5)."""
        x = F.relu6(self.norm(self.stem(image)))
        x = F.relu6(self.norm_point(self.point(self.spread(x))))
        return self.head(F.hardswish(self.depth(x)).mean((2, 3)))


class DenseChain(nn.Module):
    """Each layer reads all that came before it, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        widths = (8, 14, 20)
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for width in widths])
        self.grow = nn.ModuleList([nn.Conv2d(width, 6, 3, padding=1, bias=False) for width in widths])
        self.head = nn.Linear(26, 5)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 5)."""
        features = [self.stem(image)]
        for norm, grow in zip(self.norms, self.grow, strict=True):
            features.append(grow(F.relu(norm(torch.cat(features, dim=1)))))
        return self.head(F.adaptive_avg_pool2d(torch.cat(features, dim=1), 1).flatten(1))


class Normed(nn.Module):
    """Two convolutions with a norm of the given kind between them."""

    def __init__(self, norm: nn.Module, width: int = 12) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, width, 3, padding=1)
        self.norm = norm
        self.after = nn.Conv2d(width, 5, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 5, H, W)."""
        return self.after(F.relu(self.norm(self.before(image))))


class Reparametrised(nn.Module):
    """Weights in magnitude and direction, and a weight divided by its largest singular value."""

    def __init__(self, *, spectral: bool) -> None:
        super().__init__()
        wrap = spectral_norm if spectral else weight_norm
        self.first = wrap(nn.Conv2d(3, 12, 3, padding=1))
        self.second = wrap(nn.Linear(12, 16))
        self.head = nn.Linear(16, 5)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 5)."""
        return self.head(F.relu(self.second(F.relu(self.first(image)).mean((2, 3)))))


class ChannelPReLU(nn.Module):
    """A slope for each channel, and pooling of two kinds side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.slope = nn.PReLU(12)
        self.head = nn.Linear(24, 5)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 5)."""
        x = self.slope(self.conv(image))
        return self.head(torch.cat([x.amax((2, 3)), x.mean((2, 3))], dim=1))


class FourierMix(nn.Module):
    """Tokens mixed by the real part of a Fourier transform, channels by an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 12)
        self.mlp = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, 6) to (B, L, 5)."""
        x = self.embed(tokens)
        x = x + torch.fft.fft(x, dim=1).real
        return self.head(x + self.mlp(x))


class SpectralFilter(nn.Module):
    """A global filter: a complex weight for each frequency and channel, between two transforms."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 12)
        self.filter = nn.Parameter(torch.randn(5, 12, 2))
        self.head = nn.Linear(12, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 8, 6) to (B, 8, 5)."""
        x = torch.fft.rfft(self.embed(tokens), dim=1, norm="ortho")
        x = x * torch.view_as_complex(self.filter)
        return self.head(torch.fft.irfft(x, n=8, dim=1, norm="ortho"))


class StandardisedWeights(nn.Module):
    """Convolutions whose filters are centred and scaled before each use."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.second = nn.Conv2d(12, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 5, 1)

    @staticmethod
    def _call(layer: nn.Conv2d, x: Tensor) -> Tensor:
        centred = layer.weight - layer.weight.mean((1, 2, 3), keepdim=True)
        scaled = centred / (centred.flatten(1).std(dim=1).view(-1, 1, 1, 1) + 1e-5)
        return F.conv2d(x, scaled, layer.bias, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 5)."""
        x = F.relu(self._call(self.first, image))
        return self.head(F.relu(self._call(self.second, x))).mean((2, 3))


CHANNELS: dict[str, Builder] = {
    "channel-shuffle": lambda g: (ChannelShuffle(), normal(g, 2, 3, 8, 6)),
    "squeeze-excite": lambda g: (SqueezeExcite(), normal(g, 2, 3, 8, 6)),
    "two-group-counts": lambda g: (TwoGroupCounts(), normal(g, 2, 3, 8, 6)),
    "depthwise-separable": lambda g: (DepthwiseSeparable(), normal(g, 2, 3, 8, 6)),
    "dense-chain": lambda g: (DenseChain(), normal(g, 2, 3, 8, 6)),
    "group-norm": lambda g: (Normed(nn.GroupNorm(3, 12)), normal(g, 2, 3, 8, 6)),
    "group-norm-one-group": lambda g: (Normed(nn.GroupNorm(1, 12)), normal(g, 2, 3, 8, 6)),
    "instance-norm": lambda g: (Normed(nn.InstanceNorm2d(12, affine=True)), normal(g, 2, 3, 8, 6)),
    "instance-norm-tracked": lambda g: (
        Normed(nn.InstanceNorm2d(12, affine=True, track_running_stats=True)),
        normal(g, 2, 3, 8, 6),
    ),
    "local-response-norm": lambda g: (Normed(nn.LocalResponseNorm(3)), normal(g, 2, 3, 8, 6)),
    "weight-norm": lambda g: (Reparametrised(spectral=False), normal(g, 2, 3, 8, 6)),
    "spectral-norm": lambda g: (Reparametrised(spectral=True), normal(g, 2, 3, 8, 6)),
    "prelu-per-channel": lambda g: (ChannelPReLU(), normal(g, 2, 3, 8, 6)),
    "fourier-mix": lambda g: (FourierMix(), normal(g, 2, 8, 6)),
    "spectral-filter": lambda g: (SpectralFilter(), normal(g, 2, 8, 6)),
    "standardised-weights": lambda g: (StandardisedWeights(), normal(g, 2, 3, 8, 6)),
}
