"""Hand-written nets about their parameters: raw, tied, shared, computed, frozen, of other types, cached."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.zoo.custom_case import Builder, normal

__all__ = ["WEIGHTS"]


class TiedText(nn.Module):
    """The embedding is also the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(23, 12)
        self.mix = nn.Linear(12, 16)
        self.back = nn.Linear(16, 12)
        self.decode = nn.Linear(12, 23, bias=False)
        self.decode.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) ids to (B, L, 23)."""
        x = self.embed(tokens)
        return self.decode(x + self.back(F.gelu(self.mix(x))))


class TiedConvolution(nn.Module):
    """A convolution encodes; the same weight, transposed, decodes; a second layer shares a weight but not its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Conv2d(3, 12, 3, padding=1)
        self.once = nn.Conv2d(12, 12, 3, padding=1)
        self.again = nn.Conv2d(12, 12, 3, padding=1)
        self.again.weight = self.once.weight
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 3, H, W)."""
        x = F.relu(self.again(F.relu(self.once(F.relu(self.encode(image))))))
        return F.conv_transpose2d(x, self.encode.weight, self.bias, padding=1)


class TiedAutoencoder(nn.Module):
    """A linear layer and its transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(9, 14)
        self.second = nn.Linear(14, 6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 9) to (B, 9)."""
        code = torch.tanh(self.second(torch.tanh(self.first(x))))
        return torch.tanh(code @ self.second.weight) @ self.first.weight


class SharedBlock(nn.Module):
    """One residual block called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(7, 12)
        self.block = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        x = self.enter(x)
        for _ in range(3):
            x = x + self.block(x)
        return self.head(x)


class Siamese(nn.Module):
    """One tower for two images; their distances to each other."""

    def __init__(self, *, pairwise: bool) -> None:
        super().__init__()
        self.pairwise = pairwise
        self.tower = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.embed = nn.Linear(12, 10)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Two batches of images to (B, B) or (B,)."""
        first, second = (self.embed(self.tower(image).flatten(1)) for image in (left, right))
        return torch.cdist(first, second) if self.pairwise else F.cosine_similarity(first, second, dim=1)


class RawParameters(nn.Module):
    """A matrix, a scale and a shift that belong to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(7, 12))
        self.scale = nn.Parameter(torch.randn(12))
        self.shift = nn.Parameter(torch.randn(1, 12))
        self.other = nn.Parameter(torch.randn(5, 12))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        return F.relu(x @ self.matrix * self.scale + self.shift) @ self.other.t()


class ListedParameters(nn.Module):
    """Weights in a ParameterList and a ParameterDict."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ParameterList([torch.randn(a, b) for a, b in ((7, 12), (12, 16))])
        self.head = nn.ParameterDict({"weight": torch.randn(16, 5), "bias": torch.randn(5)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        for weight in self.layers:
            x = torch.tanh(x.mm(weight))
        return torch.addmm(self.head["bias"], x, self.head["weight"])


class LowRank(nn.Module):
    """A weight that is a product of two, and one that is a Kronecker product."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(7, 12)
        self.tall = nn.Parameter(torch.randn(16, 4))
        self.wide = nn.Parameter(torch.randn(4, 12))
        self.outer = nn.Parameter(torch.randn(4, 2))
        self.inner = nn.Parameter(torch.randn(3, 8))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        x = F.relu(F.linear(F.relu(self.enter(x)), self.tall @ self.wide))
        return self.head(F.relu(F.linear(x, torch.kron(self.outer, self.inner))))


class LoRA(nn.Module):
    """A frozen layer and the low-rank correction of it that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(7, 12)
        self.frozen.requires_grad_(requires_grad=False)
        self.down = nn.Linear(7, 4, bias=False)
        self.up = nn.Linear(4, 12, bias=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        return self.head(F.relu(self.frozen(x) + 2.0 * self.up(self.down(x))))


class FrozenBackbone(nn.Module):
    """Convolutions that need no gradient, run without one; a head that does."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1))
        self.backbone.requires_grad_(requires_grad=False)
        self.head = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 5))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 5)."""
        with torch.no_grad():
            x = F.relu(self.backbone(image)).mean((2, 3))
        return self.head(x)


class Hypernetwork(nn.Module):
    """The kernel of a convolution is written by a linear layer, from an embedding of the task."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.outputs = 8, 10
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.task = nn.Parameter(torch.randn(6))
        self.write = nn.Linear(6, self.outputs * self.inputs * 9)
        self.head = nn.Conv2d(10, 5, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 5, H, W)."""
        kernel = self.write(torch.tanh(self.task)).view(self.outputs, self.inputs, 3, 3)
        return self.head(F.relu(F.conv2d(F.relu(self.stem(image)), kernel, padding=1)))


class BilinearFusion(nn.Module):
    """Two inputs meet in `nn.Bilinear`."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(7, 10)
        self.right = nn.Linear(6, 8)
        self.fuse = nn.Bilinear(10, 8, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """(B, 7) and (B, 6) to (B, 5)."""
        return self.head(F.relu(self.fuse(F.relu(self.left(left)), F.relu(self.right(right)))))


WEIGHTS: dict[str, Builder] = {
    "tied-embedding": lambda g: (TiedText(), torch.randint(0, 23, (2, 7), generator=g)),
    "tied-convolution": lambda g: (TiedConvolution(), normal(g, 2, 3, 8, 6)),
    "tied-autoencoder": lambda g: (TiedAutoencoder(), normal(g, 3, 9)),
    "shared-block": lambda g: (SharedBlock(), normal(g, 3, 7)),
    "siamese-cdist": lambda g: (Siamese(pairwise=True), (normal(g, 3, 3, 8, 6), normal(g, 3, 3, 8, 6))),
    "siamese-cosine": lambda g: (Siamese(pairwise=False), (normal(g, 3, 3, 8, 6), normal(g, 3, 3, 8, 6))),
    "raw-parameters": lambda g: (RawParameters(), normal(g, 3, 7)),
    "parameter-list-dict": lambda g: (ListedParameters(), normal(g, 3, 7)),
    "low-rank-kronecker": lambda g: (LowRank(), normal(g, 3, 7)),
    "lora": lambda g: (LoRA(), normal(g, 3, 7)),
    "frozen-backbone": lambda g: (FrozenBackbone(), normal(g, 2, 3, 8, 6)),
    "hypernetwork": lambda g: (Hypernetwork(), normal(g, 2, 3, 8, 6)),
    "bilinear": lambda g: (BilinearFusion(), (normal(g, 3, 7), normal(g, 3, 6))),
}
