"""Hand-written nets with inputs and outputs of other kinds: dicts, dataclasses, named tuples, lists, graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.zoo.custom_case import Builder, normal

__all__ = ["STRUCTURES"]


@dataclass
class Sample:
    """What `DataclassNet` reads."""

    image: Tensor
    numbers: Tensor | None = None


@dataclass
class Prediction:
    """What `DataclassNet` returns."""

    logits: Tensor
    uncertainty: Tensor


class Scores(NamedTuple):
    """What `NamedTupleNet` returns."""

    coarse: Tensor
    fine: Tensor


class Pair(NamedTuple):
    """What `NamedTupleNet` reads."""

    left: Tensor
    right: Tensor


class DictNet(nn.Module):
    """A dict goes in, a nested dict comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(3, 10, 3, 2, 1)
        self.numbers = nn.Linear(6, 8)
        self.classes = nn.Linear(18, 5)
        self.box = nn.Linear(18, 4)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, object]:
        """`image` (B, 3, H, W) and `numbers` (B, 6) to `classes` and `geometry: {box}`."""
        x = torch.cat([F.relu(self.image(batch["image"])).mean((2, 3)), F.relu(self.numbers(batch["numbers"]))], dim=1)
        return {"classes": self.classes(x), "geometry": {"box": self.box(x).sigmoid()}, "count": len(batch)}


class KeywordNet(nn.Module):
    """Keywords with defaults, one of them None; a tuple with a None comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 12)
        self.second = nn.Linear(6, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor, *, y: Tensor | None = None, weight: float = 1.0) -> tuple[Tensor, None, list[Tensor]]:
        """(B, 7) and (B, 6) to (B, 5), nothing, and a list of one."""
        hidden = self.first(x)
        if y is not None:
            hidden = hidden + weight * self.second(y)
        logits = self.head(hidden.relu())
        return logits, None, [logits.softmax(-1)]


class DataclassNet(nn.Module):
    """A dataclass goes in, another comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, 2, 1)
        self.numbers = nn.Linear(6, 12)
        self.logits = nn.Linear(12, 5)
        self.uncertainty = nn.Linear(12, 1)

    def forward(self, sample: Sample) -> Prediction:
        """A sample to its prediction."""
        x = F.relu(self.conv(sample.image)).mean((2, 3))
        if sample.numbers is not None:
            x = x + self.numbers(sample.numbers)
        return Prediction(self.logits(x), F.softplus(self.uncertainty(x)))


class NamedTupleNet(nn.Module):
    """A named tuple goes in, another comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(7, 10)
        self.right = nn.Linear(6, 10)
        self.coarse = nn.Linear(20, 3)
        self.fine = nn.Linear(10, 5)

    def forward(self, pair: Pair) -> Scores:
        """A pair of (B, 7) and (B, 6) to two scores."""
        left, right = F.elu(self.left(pair.left)), F.elu(self.right(pair.right))
        return Scores(self.coarse(torch.cat([left, right], dim=-1)), self.fine(left - right))


class TensorList(nn.Module):
    """A list of images of different sizes; one vector each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, 2, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        """Images of (3, H, W) to vectors of (5,)."""
        return [self.head(F.relu(self.conv(image.unsqueeze(0))).mean((2, 3))).squeeze(0) for image in images]


class GraphConvolution(nn.Module):
    """Messages along edges, added up at their targets by `index_add_`, with degrees."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 12)
        self.own = nn.Linear(12, 16)
        self.message = nn.Linear(12, 16, bias=False)
        self.head = nn.Linear(16, 5)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """(N, 7) nodes and (2, E) edges to (N, 5)."""
        x = F.relu(self.first(nodes))
        source, target = edges
        total = torch.zeros_like(x).index_add_(0, target, x[source])
        degree = torch.bincount(target, minlength=x.shape[0]).clamp(min=1).to(x)
        return self.head(F.relu(self.own(x) + self.message(total / degree[:, None])))


class GraphAttention(nn.Module):
    """Edges weighed by a softmax over each target: gather, `scatter_add`, and the largest by `scatter_reduce`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 12)
        self.score = nn.Parameter(torch.randn(24))
        self.head = nn.Linear(12, 5)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """(N, 7) nodes and (2, E) edges to (N, 5)."""
        x = self.first(nodes)
        source, target = edges[0], edges[1]
        pair = torch.cat([x.index_select(0, source), x.index_select(0, target)], dim=-1)
        score = F.leaky_relu(pair @ self.score, 0.2)
        largest = score.new_zeros(x.shape[0]).scatter_reduce(0, target, score, reduce="amax", include_self=False)
        weight = (score - largest[target]).exp()
        total = weight.new_zeros(x.shape[0]).scatter_add(0, target, weight)
        weight = weight / total.gather(0, target)
        message = weight[:, None] * x[source]
        return self.head(F.elu(torch.zeros_like(x).scatter_add(0, target[:, None].expand_as(message), message)))


class GraphPooling(nn.Module):
    """A dense adjacency, and nodes pooled into three clusters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(7, 12)
        self.assign = nn.Linear(12, 3)
        self.mix = nn.Linear(12, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """(B, N, 7) and (B, N, N) to (B, 5)."""
        x = F.relu(torch.bmm(adjacency, self.embed(nodes)))
        clusters = self.assign(x).softmax(-1)
        pooled = clusters.transpose(1, 2).bmm(x)
        return self.head(F.relu(self.mix(pooled)).amax(1))


class Recommender(nn.Module):
    """Two embeddings and a bag of words, multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(11, 12)
        self.item = nn.Embedding(13, 12)
        self.words = nn.EmbeddingBag(17, 12, mode="mean")
        self.mix = nn.Linear(12, 8)
        self.head = nn.Linear(8, 1)

    def forward(self, user: Tensor, item: Tensor, words: Tensor) -> Tensor:
        """(B,), (B,) and (B, W) ids to (B,)."""
        x = self.user(user) * self.item(item) + self.words(words)
        return self.head(F.relu(self.mix(x))).squeeze(-1)


_EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 2, 0], [1, 2, 3, 4, 5, 0, 0, 3]])

STRUCTURES: dict[str, Builder] = {
    "dict-in-and-out": lambda g: (DictNet(), ({"image": normal(g, 2, 3, 8, 6), "numbers": normal(g, 2, 6)},)),
    "keywords": lambda g: (KeywordNet(), {"x": normal(g, 3, 7), "y": normal(g, 3, 6), "weight": 0.5}),
    "dataclass": lambda g: (DataclassNet(), (Sample(normal(g, 2, 3, 8, 6), normal(g, 2, 6)),)),
    "named-tuple": lambda g: (NamedTupleNet(), (Pair(normal(g, 3, 7), normal(g, 3, 6)),)),
    "list-of-images": lambda g: (TensorList(), ([normal(g, 3, 8, 6), normal(g, 3, 10, 7)],)),
    "graph-index-add": lambda g: (GraphConvolution(), (normal(g, 6, 7), _EDGES.clone())),
    "graph-attention-scatter": lambda g: (GraphAttention(), (normal(g, 6, 7), _EDGES.clone())),
    "graph-pooling": lambda g: (GraphPooling(), (normal(g, 2, 6, 7), normal(g, 2, 6, 6).softmax(-1))),
    "recommender": lambda g: (
        Recommender(),
        (
            torch.randint(0, 11, (3,), generator=g),
            torch.randint(0, 13, (3,), generator=g),
            torch.randint(0, 17, (3, 4), generator=g),
        ),
    ),
}
