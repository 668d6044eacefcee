"""Hand-written nets around torch's own attention: nn.MultiheadAttention, its encoder layers, nn.Transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.zoo.custom_case import Builder, Built, Drawn, normal

__all__ = ["TORCH_ATTENTION"]


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` of a sequence on itself, with or without the weights in the output."""

    def __init__(self, *, need_weights: bool) -> None:
        super().__init__()
        self.need_weights = need_weights
        self.enter = nn.Linear(7, 20)
        self.attention = nn.MultiheadAttention(20, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(20, 28), nn.GELU(), nn.Linear(28, 20))
        self.head = nn.Linear(20, 5)

    def forward(self, tokens: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(B, L, 7) to (B, L, 5), and to (B, L, L) on request."""
        x = self.enter(tokens)
        mixed, weights = self.attention(x, x, x, need_weights=self.need_weights)
        x = x + mixed
        y = self.head(x + self.mlp(x))
        return (y, weights) if self.need_weights else y


class CrossAttention(nn.Module):
    """Queries from one sequence, keys and values of other widths from another; time first."""

    def __init__(self, *, need_weights: bool) -> None:
        super().__init__()
        self.need_weights = need_weights
        self.left = nn.Linear(7, 20)
        self.right = nn.Linear(6, 12)
        self.attention = nn.MultiheadAttention(20, 4, kdim=12, vdim=12)
        self.head = nn.Linear(20, 5)

    def forward(self, queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor | None]:
        """(L, B, 7) and (M, B, 6) to (L, B, 5), and to (B, L, M) on request."""
        x, memory = self.left(queries), F.relu(self.right(memory))
        mixed, weights = self.attention(x, memory, memory, need_weights=self.need_weights)
        return self.head(x + mixed), weights


class Encoder(nn.Module):
    """`nn.TransformerEncoder` over tokens, padding hidden by a mask."""

    def __init__(self, *, norm_first: bool, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first, self.norm_first = batch_first, norm_first
        self.embed = nn.Embedding(23, 20)
        layer = nn.TransformerEncoderLayer(20, 4, 28, batch_first=batch_first, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(20, 5)

    def forward(self, tokens: Tensor, padded: Tensor) -> Tensor:
        """(B, L) ids and booleans to (B, L, 5), time first where the encoder is."""
        x = self.embed(tokens)
        if not self.batch_first:
            x = x.transpose(0, 1)
        return self.head(self.encoder(x, src_key_padding_mask=padded))


class Decoder(nn.Module):
    """`nn.TransformerDecoder` with a causal mask, tied to its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(23, 20)
        layer = nn.TransformerDecoderLayer(20, 4, 28, batch_first=True, activation="gelu")
        self.decoder = nn.TransformerDecoder(layer, 2)
        self.read = nn.Linear(6, 20)
        self.write = nn.Linear(20, 23, bias=False)
        self.write.weight = self.embed.weight

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """(B, L) ids and (B, M, 6) to (B, L, 23)."""
        hidden = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
        return self.write(self.decoder(self.embed(tokens), self.read(memory), tgt_mask=hidden))


class Translator(nn.Module):
    """`nn.Transformer` between two embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.source = nn.Embedding(23, 20)
        self.target = nn.Embedding(19, 20)
        self.transformer = nn.Transformer(20, 4, 2, 1, 28, batch_first=True)
        self.write = nn.Linear(20, 19)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """(B, L) and (B, M) ids to (B, M, 19)."""
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1]).to(self.target.weight.dtype)
        return self.write(self.transformer(self.source(source), self.target(target), tgt_mask=mask, tgt_is_causal=True))


def _encoder(generator: Drawn, *, norm_first: bool, batch_first: bool = True) -> Built:
    tokens = torch.randint(0, 23, (2, 7), generator=generator)
    padded = torch.zeros(2, 7, dtype=torch.bool)
    padded[1, 5:] = True
    return Encoder(norm_first=norm_first, batch_first=batch_first), (tokens, padded)


TORCH_ATTENTION: dict[str, Builder] = {
    "multihead-self": lambda g: (SelfAttention(need_weights=False), normal(g, 2, 9, 7)),
    "multihead-self-weights": lambda g: (SelfAttention(need_weights=True), normal(g, 2, 9, 7)),
    "multihead-cross": lambda g: (CrossAttention(need_weights=False), (normal(g, 9, 2, 7), normal(g, 5, 2, 6))),
    "multihead-cross-weights": lambda g: (
        CrossAttention(need_weights=True),
        (normal(g, 9, 2, 7), normal(g, 5, 2, 6)),
    ),
    "transformer-encoder": lambda g: _encoder(g, norm_first=False),
    "transformer-encoder-norm-first": lambda g: _encoder(g, norm_first=True),
    "transformer-encoder-time-first": lambda g: _encoder(g, norm_first=False, batch_first=False),
    "transformer-decoder": lambda g: (
        Decoder(),
        (torch.randint(0, 23, (2, 7), generator=g), normal(g, 2, 5, 6)),
    ),
    "transformer": lambda g: (
        Translator(),
        (torch.randint(0, 23, (2, 7), generator=g), torch.randint(0, 19, (2, 5), generator=g)),
    ),
}
