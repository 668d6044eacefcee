"""Nets for sequences and sets as they are published: quantised codes, alignments, pools of attention, sparse graphs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.zoo.custom_case import Builder, normal

__all__ = ["SEQUENCES"]


class QuantisedAutoencoder(nn.Module):
    """Codes are looked up by their distance, and the losses that train them are computed in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Conv1d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv1d(16, 12, 4, 2, 1))
        self.codes = nn.Embedding(9, 12)
        self.decode = nn.Sequential(nn.ConvTranspose1d(12, 14, 4, 2, 1), nn.ReLU(), nn.ConvTranspose1d(14, 3, 4, 2, 1))

    def forward(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, T) to its reconstruction and the loss of the codes."""
        latent = self.encode(signal).transpose(1, 2)
        nearest = torch.cdist(latent, self.codes.weight.expand(len(latent), -1, -1)).argmin(-1)
        quantised = self.codes(nearest)
        loss = F.mse_loss(quantised, latent.detach()) + 0.25 * F.mse_loss(latent, quantised.detach())
        passed = latent + (quantised - latent).detach()
        return self.decode(passed.transpose(1, 2)), loss


class Separator(nn.Module):
    """Masks for two sources over learnt features; every norm runs over time and all channels at once."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.sources, self.width = 2, width
        self.encode = nn.Conv1d(1, width, 8, 4, bias=False)
        self.norm = nn.GroupNorm(1, width)
        self.narrow = nn.Conv1d(width, 12, 1)
        self.block = nn.Sequential(
            nn.Conv1d(12, 20, 1), nn.PReLU(), nn.GroupNorm(1, 20), nn.Conv1d(20, 20, 3, padding=1, groups=20),
            nn.PReLU(), nn.GroupNorm(1, 20), nn.Conv1d(20, 12, 1),
        )  # fmt: skip
        self.mask = nn.Conv1d(12, self.sources * width, 1)
        self.decode = nn.ConvTranspose1d(width, 1, 8, 4, bias=False)

    def forward(self, wave: Tensor) -> Tensor:
        """(B, T) to (B, 2, T)."""
        features = F.relu(self.encode(wave.unsqueeze(1)))
        hidden = self.narrow(self.norm(features))
        masks = torch.sigmoid(self.mask(hidden + self.block(hidden)))
        masked = features.unsqueeze(1) * masks.view(len(wave), self.sources, self.width, -1)
        return self.decode(masked.flatten(0, 1)).view(len(wave), self.sources, -1)


class AlignedDecoder(nn.Module):
    """A decoder that attends to an encoder step by step, and asserts something about its own state."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Embedding(17, 10)
        self.encode = nn.GRU(10, 12, batch_first=True, bidirectional=True)
        self.start = nn.Linear(24, 14)
        self.score = nn.Linear(24 + 14, 9)
        self.weigh = nn.Linear(9, 1, bias=False)
        self.step = nn.GRU(10 + 24, 14, batch_first=True)
        self.write = nn.Linear(14, 17)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """(B, L) and (B, M) ids to (B, M, 17)."""
        memory, _ = self.encode(self.read(source))
        state = torch.tanh(self.start(memory.mean(1)))
        written = []
        for token in self.read(target).unbind(1):
            query = state.unsqueeze(1).expand(-1, memory.shape[1], -1)
            weights = self.weigh(torch.tanh(self.score(torch.cat([memory, query], -1)))).softmax(1)
            context = (weights * memory).sum(1)
            output, last = self.step(torch.cat([token, context], -1).unsqueeze(1), state.unsqueeze(0))
            state = last.squeeze(0)
            assert (output.squeeze(1) == state).all()  # a sequence of one step ends where it began
            written.append(self.write(state))
        return torch.stack(written, 1)


class FunctionalPool(nn.Module):
    """Attention by torch's function, with weights kept in layers of one's own: how CLIP's ResNets pool."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.heads = 4
        self.embed = nn.Linear(7, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, 7) to (B, 5)."""
        x = self.embed(x).transpose(0, 1)
        x = torch.cat([x.mean(0, keepdim=True), x])
        pooled, _ = F.multi_head_attention_forward(
            query=x[:1], key=x, value=x, embed_dim_to_check=x.shape[-1], num_heads=self.heads,
            q_proj_weight=self.query.weight, k_proj_weight=self.key.weight, v_proj_weight=self.value.weight,
            in_proj_weight=None, in_proj_bias=torch.cat([self.query.bias, self.key.bias, self.value.bias]),
            bias_k=None, bias_v=None, add_zero_attn=False, dropout_p=0.0, out_proj_weight=self.out.weight,
            out_proj_bias=self.out.bias, use_separate_proj_weight=True, training=self.training, need_weights=False,
        )  # fmt: skip
        return pooled.squeeze(0)


class SparseGraph(nn.Module):
    """Graph convolutions by products with a sparse adjacency matrix that is made of the edges."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 12)
        self.second = nn.Linear(12, 14)
        self.head = nn.Linear(14, 5)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """(N, 7) nodes and (2, E) edges to (N, 5)."""
        graph = torch.sparse_coo_tensor(edges, nodes.new_ones(edges.shape[1]), (len(nodes), len(nodes)))
        x = F.relu(torch.sparse.mm(graph, self.first(nodes)))
        return self.head(F.relu(torch.sparse.mm(graph, self.second(x))))


_EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 2, 0], [1, 2, 3, 4, 5, 0, 0, 3]])

SEQUENCES: dict[str, Builder] = {
    "vq-vae": lambda g: (QuantisedAutoencoder(), normal(g, 2, 3, 16)),
    "separator": lambda g: (Separator(), normal(g, 2, 64)),
    "aligned-decoder": lambda g: (
        AlignedDecoder(),
        (torch.randint(0, 17, (2, 6), generator=g), torch.randint(0, 17, (2, 4), generator=g)),
    ),
    "multihead-function": lambda g: (FunctionalPool(), normal(g, 2, 6, 7)),
    "graph-sparse": lambda g: (SparseGraph(), (normal(g, 6, 7), _EDGES.clone())),
}
