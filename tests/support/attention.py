"""Small nets with the structures that a plan tells apart: residual width, heads, their width, MLPs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Block", "RMSNorm", "Tokens", "tokens", "train"]


class RMSNorm(nn.Module):
    """As language models write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = 0.1  # large enough for a mistake in it to show

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Block(nn.Module):
    """Attention and a gated MLP, each behind a norm and beside a residual."""

    def __init__(
        self, width: int, heads: int, head_dim: int, inside: int, norm: type[nn.Module], index: int = 0
    ) -> None:
        super().__init__()
        self.heads, self.head_dim, self.layer_idx = heads, head_dim, index
        self.before, self.behind = norm(width), norm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_dim)
        self.out = nn.Linear(heads * head_dim, width)
        self.gate, self.up, self.down = nn.Linear(width, inside), nn.Linear(width, inside), nn.Linear(inside, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(self.before(x)).view(n, length, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, -1))
        y = self.behind(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Tokens(nn.Module):
    """Numbers to logits through a stack of blocks."""

    def __init__(self, norm: type[nn.Module] = RMSNorm, blocks: int = 3) -> None:
        super().__init__()
        self.num_layers = blocks
        self.embed = nn.Embedding(11, 20)
        self.layers = nn.ModuleList(Block(20, 4, 6, 28, norm, index) for index in range(blocks))
        self.norm = norm(20)
        self.head = nn.Linear(20, 11, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers[: self.num_layers]:
            x = layer(x)
        return self.head(self.norm(x))


def tokens(norm: type[nn.Module] = RMSNorm, blocks: int = 3) -> tuple[nn.Module, Tensor]:
    """A net with random weights everywhere, and an input for it."""
    torch.manual_seed(3)
    model = Tokens(norm, blocks).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5) if "norm" in name or "be" in name else parameter.uniform_(-0.5, 0.5)
    return model, torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(1))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, criterion: object = None, epoch: int = 0) -> None:
    """Two steps towards whatever; without a learning rate, nothing but gradients."""
    del criterion
    for seed in range(2):
        ids = torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(10 * epoch + seed))
        optimizer.zero_grad()
        model(ids).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad()
