"""Hand-written nets on vectors: gates, experts, norms, random samples, sums over the features themselves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.zoo.custom_case import Builder, normal

__all__ = ["FEATURES"]


class GatedMLP(nn.Module):
    """Two gates: one projection halved by `F.glu`, one cut by `chunk` for SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 24)
        self.gate_up = nn.Linear(12, 40, bias=False)
        self.down = nn.Linear(20, 12, bias=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        x = F.glu(self.first(x), dim=-1)
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.head(x + self.down(F.silu(gate) * up))


class UnevenSplit(nn.Module):
    """One projection split into pieces of different sizes, which are attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = (12, 8, 4)
        self.project = nn.Linear(7, sum(self.sizes))
        self.left = nn.Linear(12, 8)
        self.right = nn.Linear(4, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        first, second, third = self.project(x).split(self.sizes, dim=-1)
        return self.head(self.left(first.relu()) * second.sigmoid() + self.right(third.relu()))


class Highway(nn.Module):
    """Layers that decide how much of their input to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(7, 12)
        self.changes = nn.ModuleList([nn.Linear(12, 12) for _ in range(2)])
        self.gates = nn.ModuleList([nn.Linear(12, 12) for _ in range(2)])
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        x = self.enter(x)
        for change, gate in zip(self.changes, self.gates, strict=True):
            open_ = gate(x).sigmoid()
            x = open_ * F.relu(change(x)) + (1 - open_) * x
        return self.head(x)


class EinsumExperts(nn.Module):
    """Every expert computes every token: weights of shape (E, in, out), mixed by a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(7, 12)
        self.router = nn.Linear(12, 3)
        self.up = nn.Parameter(torch.randn(3, 12, 20))
        self.down = nn.Parameter(torch.randn(3, 20, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, 7) to (B, L, 5)."""
        x = self.enter(x)
        weights = self.router(x).softmax(-1)
        hidden = F.relu(torch.einsum("bld,edf->blef", x, self.up))
        return self.head(x + torch.einsum("blef,efd,ble->bld", hidden, self.down, weights))


class RoutedExperts(nn.Module):
    """Each token goes to its two best experts; a loop over experts adds up what they say."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(7, 12)
        self.router = nn.Linear(12, 4, bias=False)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(12, 16), nn.SiLU(), nn.Linear(16, 12)) for _ in range(4)])
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, 7) to (B, L, 5)."""
        shape = x.shape
        x = self.enter(x).flatten(0, 1)
        weights, chosen = self.router(x).softmax(-1).topk(2, dim=-1)
        total = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            token, place = torch.where(chosen == index)
            total.index_add_(0, token, expert(x[token]) * weights[token, place, None])
        return self.head(x + total).unflatten(0, shape[:2])


class NormedMLP(nn.Module):
    """An MLP with a norm over the hidden width, of the given kind."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.enter = nn.Linear(7, 12)
        self.norm = norm
        self.up = nn.Linear(12, 20)
        self.down = nn.Linear(20, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, 7) to (B, L, 5)."""
        x = self.enter(x)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(self.norm(x))


class WrittenRMSNorm(nn.Module):
    """RMSNorm as people write it: mean of squares, reciprocal root, a weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Divides the last dim by its root mean square."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class NormalisedFeatures(nn.Module):
    """Features divided by their length and compared with learned prototypes, as in metric learning."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 12))
        self.prototypes = nn.Parameter(torch.randn(5, 12))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        return 10 * F.linear(F.normalize(self.body(x), dim=-1), F.normalize(self.prototypes, dim=-1))


class SummedFeatures(nn.Module):
    """A running sum and a softmax along the features: every channel depends on its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 12)
        self.second = nn.Linear(12, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        x = self.first(x).cumsum(-1)
        return self.head(self.second(torch.tanh(x)).softmax(-1))


class Scaled(nn.Module):
    """A scale read off the width of what is scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 12)
        self.second = nn.Linear(12, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        x = F.relu(self.first(x))
        x = F.relu(self.second(x * x.shape[1] ** -0.5))
        return self.head(x / x.size(-1))


class VAE(nn.Module):
    """A variational autoencoder that draws its sample with a seed, so that two calls agree."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(9, 16)
        self.mean = nn.Linear(16, 6)
        self.spread = nn.Linear(16, 6)
        self.decode = nn.Sequential(nn.Linear(6, 14), nn.ReLU(), nn.Linear(14, 9))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 9) to its reconstruction and the divergence (B,)."""
        hidden = F.relu(self.encode(x))
        mean, spread = self.mean(hidden), self.spread(hidden)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            noise = torch.randn_like(mean)
        sample = mean + noise * torch.exp(0.5 * spread)
        divergence = -0.5 * (1 + spread - mean.pow(2) - spread.exp()).sum(1)
        return {"reconstruction": self.decode(sample).sigmoid(), "divergence": divergence}


FEATURES: dict[str, Builder] = {
    "glu-swiglu": lambda g: (GatedMLP(), normal(g, 3, 7)),
    "uneven-split": lambda g: (UnevenSplit(), normal(g, 3, 7)),
    "highway": lambda g: (Highway(), normal(g, 3, 7)),
    "moe-einsum": lambda g: (EinsumExperts(), normal(g, 2, 9, 7)),
    "moe-top2-loop": lambda g: (RoutedExperts(), normal(g, 2, 9, 7)),
    "layer-norm": lambda g: (NormedMLP(nn.LayerNorm(12)), normal(g, 2, 9, 7)),
    "layer-norm-plain": lambda g: (NormedMLP(nn.LayerNorm(12, elementwise_affine=False)), normal(g, 2, 9, 7)),
    "rms-norm": lambda g: (NormedMLP(nn.RMSNorm(12)), normal(g, 2, 9, 7)),
    "rms-norm-written": lambda g: (NormedMLP(WrittenRMSNorm(12)), normal(g, 2, 9, 7)),
    "normalised-features": lambda g: (NormalisedFeatures(), normal(g, 3, 7)),
    "cumsum-softmax": lambda g: (SummedFeatures(), normal(g, 3, 7)),
    "scale-from-shape": lambda g: (Scaled(), normal(g, 3, 7)),
    "vae": lambda g: (VAE(), normal(g, 3, 9)),
}
