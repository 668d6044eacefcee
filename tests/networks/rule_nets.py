"""For every operator rule a tiny net that cannot do without it: what mutation tests break.

Each lists the operators it is there for; all are float64 (but for a kernel that is not), with random values everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.nets import image, net
from tests.networks import experts

__all__ = ["NETS"]

Built = tuple[nn.Module, Any]


def between(
    middle: Callable[..., Tensor], x: Tensor | None = None, wide: int = 6, out: int | None = None, **more
) -> Built:
    """A convolution, something, a convolution."""
    reads = wide if out is None else out
    model = net(lambda m, x: m.b(middle(m, m.a(x))), a=nn.Conv2d(3, wide, 1), b=nn.Conv2d(reads, 2, 1), **more)
    return model, image() if x is None else x


def steps(batch: int = 2, length: int = 5, features: int = 3) -> Tensor:
    return torch.randn(batch, length, features, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def along(middle: Callable[..., Tensor], wide: int = 6, out: int | None = None, **more) -> Built:
    """A linear layer, something, a linear layer, on sequences."""
    reads = wide if out is None else out
    return net(lambda m, x: m.b(middle(m, m.a(x))), a=nn.Linear(3, wide), b=nn.Linear(reads, 2), **more), steps()


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


ORDER = torch.tensor([2, 0, 1, 1])
WORDS = torch.tensor([[1, 0, 4], [3, 3, 2]])


def bilinear() -> Built:
    model = net(
        lambda m, x: m.c(m.pair(m.a(x), m.b(x))),
        a=nn.Linear(3, 4), b=nn.Linear(3, 5), pair=nn.Bilinear(4, 5, 6), c=nn.Linear(6, 2),
    )  # fmt: skip
    return model, steps()


def grouped() -> Built:
    model = net(
        lambda m, x: m.c(torch.relu(m.b(torch.relu(m.a(x))))),
        a=nn.Conv2d(3, 12, 1), b=nn.Conv2d(12, 12, 3, padding=1, groups=3), c=nn.Conv2d(12, 2, 1),
    )  # fmt: skip
    return model, image()


def attention() -> Built:
    def run(m, x):
        b, n, _ = x.shape
        q, k, v = m.qkv(x).view(b, n, 3, m.heads, m.width).permute(2, 0, 3, 1, 4).unbind(0)
        return m.out(F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2))

    return net(run, qkv=nn.Linear(3, 48), out=nn.Linear(16, 3), attributes={"heads": 4, "width": 4}), steps()


def stepwise() -> Built:
    """Values rounded to the steps of their channels, as a layer trained for integers does."""
    return between(
        lambda m, y: torch.fake_quantize_per_channel_affine(
            y, m.step.float().abs() + 0.01, torch.zeros_like(m.step).float(), 1, -99, 99
        ),
        step=parameter(6),
    )


def elsewhere() -> Built:
    """Values put where the largest of other values were."""

    def run(m, x):
        _, places = F.max_pool2d(m.a(x), 2, return_indices=True)
        return m.b(F.max_unpool2d(m.c(x)[:, :, 1:4, 1:4], places, 2))

    return net(run, a=nn.Conv2d(3, 6, 1), b=nn.Conv2d(6, 2, 1), c=nn.Conv2d(3, 6, 1)), image()


def shuffled() -> Built:
    """Two grouped convolutions with their channels shuffled between them."""
    model = net(
        lambda m, x: m.c(m.b(m.shuffle(m.a(m.first(x))))),
        first=nn.Conv2d(3, 12, 1), a=nn.Conv2d(12, 12, 1, groups=3), shuffle=nn.ChannelShuffle(3),
        b=nn.Conv2d(12, 12, 1, groups=3), c=nn.Conv2d(12, 2, 1),
    )  # fmt: skip
    return model, image()


def embedded(middle: Callable[..., Tensor], **more) -> Built:
    return net(middle, b=nn.Linear(6, 2), **more), WORDS


def packed() -> Built:
    def run(m, x):
        lengths = torch.tensor([5, 3])
        y = nn.utils.rnn.pack_padded_sequence(m.a(x), lengths, batch_first=True)
        y = nn.utils.rnn.PackedSequence(torch.tanh(y.data), *y[1:])
        return m.b(nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0])

    return net(run, a=nn.Linear(3, 6), b=nn.Linear(6, 2)), steps()


def unfolded() -> Built:
    model = net(lambda m, x: m.b(F.unfold(m.a(x), 2, stride=2).mT), a=nn.Conv2d(3, 6, 1), b=nn.Linear(24, 2))
    return model, image()


def folded() -> Built:
    model = net(lambda m, x: m.b(F.fold(m.a(x).mT, (2, 10), 2, stride=2)), a=nn.Linear(3, 24), b=nn.Conv2d(6, 2, 1))
    return model, steps()


def normed_weight() -> Built:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 6))
    return net(lambda m, x: m.b(torch.relu(m.a(x))), a=layer, b=nn.Linear(6, 2)), steps()


def overwritten(m, y: Tensor) -> Tensor:
    return torch.index_put(y, (torch.tensor([0, 1, 0, 1]), m.order), torch.tanh(y[0, :4]))


def swapped(m, y: Tensor) -> Tensor:
    return torch.cat([y[..., m.n :], y[..., : m.n].tanh()], -1)


def halves(m, y: Tensor) -> Tensor:
    left, right = y.chunk(2, -1)
    return torch.cat([right.tanh(), left], -1)


def added(name: str) -> Callable[..., Tensor]:
    def run(m, y):
        index = torch.tensor([2, 0, 1, 1])
        if name.startswith("index"):
            return getattr(torch.ones_like(y), name)(1, index, torch.tanh(y[:, :4]))
        places = index[None, :, None].expand(y.shape[0], -1, y.shape[2])
        return getattr(torch.ones_like(y), name)(1, places, torch.tanh(y[:, :4]))

    return run


NETS: dict[str, list[Callable[[], Built]]] = {
    "pointwise": [
        lambda: between(lambda m, y: F.hardswish(y)),
        lambda: along(lambda m, y: torch.where(y > 0, y, m.c(y)), c=nn.Linear(6, 6)),
    ],
    "convolution": [lambda: between(lambda m, y: torch.relu(y)), grouped],
    "matrix_product": [lambda: along(lambda m, y: y @ m.w, out=5, attributes={"w": parameter(6, 5)}), attention],
    "trilinear": [bilinear],
    "grouped_product": [experts.network],
    "permute": [lambda: along(lambda m, y: y.transpose(1, 2).tanh().mT)],
    "unsqueeze": [lambda: along(lambda m, y: y.unsqueeze(1).sum(1))],
    "squeeze": [
        lambda: along(lambda m, y: torch.squeeze(y, -1), wide=2),
        lambda: between(lambda m, y: F.adaptive_avg_pool2d(y, 1).squeeze(3).squeeze(2)[..., None, None]),
    ],
    "expand": [
        lambda: along(lambda m, y: y[..., :1].expand(-1, -1, m.n) * m.w, attributes={"n": 6, "w": parameter(6)}),
        lambda: along(lambda m, y: y * m.w.expand(5, -1), attributes={"w": parameter(1, 6)}),
    ],
    "repeat": [
        lambda: along(
            lambda m, y: y.unflatten(-1, (m.n, -1)).flatten(2).repeat(1, 1, m.n), out=12, attributes={"n": 2}
        ),
        lambda: along(lambda m, y: y.repeat(1, 1, 2), out=12),
    ],
    "flip": [lambda: along(lambda m, y: y.flip(2))],
    "as_strided": [lambda: between(lambda m, y: y.as_strided(y.shape, y.stride()).relu())],
    "gated_linear_unit": [lambda: along(lambda m, y: F.glu(y, -1), wide=12, out=6)],
    "slice_axis": [
        lambda: along(lambda m, y: y[..., ::2], out=3),
        lambda: along(lambda m, y: y[..., 1:4], out=3),
        lambda: along(swapped, attributes={"n": 2}),
    ],
    "split": [
        lambda: along(lambda m, y: torch.cat(y.split((m.n, m.k), -1)[::-1], -1), attributes={"n": 2, "k": 4}),
        lambda: along(lambda m, y: y.split([2, 4], -1)[1].exp(), out=4),
        lambda: along(halves),
    ],
    "select": [
        lambda: along(lambda m, y: y * y[..., 2:3].exp() * y[..., 3, None]),
        lambda: along(lambda m, y: torch.stack(y.unbind(-1)[1:4], -1), out=3),
        lambda: along(lambda m, y: y[:, 1:2] * y[:, 3].unsqueeze(1)),
        attention,
    ],
    "concat": [
        lambda: along(lambda m, y: torch.cat([y, m.c(y)], 1), c=nn.Linear(6, 6)),
        lambda: along(lambda m, y: torch.cat([y, m.c(y)], -1), out=10, c=nn.Linear(6, 4)),
    ],
    "stack": [
        lambda: along(lambda m, y: torch.stack([y, m.c(y)], 1).sum(1), c=nn.Linear(6, 6)),
        lambda: along(lambda m, y: torch.stack([y, y.tanh()], 1).sum(1)),
    ],
    "pad": [
        lambda: along(lambda m, y: F.pad(y, (-1, 1))),
        lambda: along(lambda m, y: F.pad(y, (1, 2)), out=9),
        lambda: along(lambda m, y: F.pad(y, (0, y.shape[-1] // 3)), out=8),
    ],
    "embedding": [lambda: embedded(lambda m, x: m.b(torch.tanh(m.a(x))), a=nn.Embedding(5, 6))],
    "embedding_renorm": [
        lambda: embedded(
            lambda m, x: m.b(torch.embedding_renorm_(torch.tanh(m.a.weight), x, 0.7, 2.0)[x]), a=nn.Embedding(5, 6)
        ),
        lambda: along(
            lambda m, y: torch.embedding_renorm_(y[0].t().contiguous(), torch.tensor([0, 5]), 0.3, 2.0).t() + y
        ),
    ],
    "constant": [
        lambda: along(
            lambda m, y: torch.cat([y, y.new_ones(2, 5, m.n)], -1) * m.w, out=8, attributes={"n": 2, "w": parameter(8)}
        ),
        lambda: along(lambda m, y: y.new_ones(y.shape) + y),
    ],
    "like": [
        lambda: along(
            lambda m, y: torch.cat([y.softmax(-1), torch.ones_like(y) * m.w], -1),
            out=12,
            attributes={"w": parameter(6)},
        ),
        lambda: along(
            lambda m, y: torch.cat([y, torch.ones_like(y)], -1) * m.w, out=12, attributes={"w": parameter(12)}
        ),
    ],
    "positions": [
        lambda: along(lambda m, y: y * torch.arange(6)),
        lambda: along(lambda m, y: y + torch.arange(y.shape[-1]).sum()),
    ],
    "index": [
        lambda: along(lambda m, y: y[..., m.order], out=4, attributes={"order": ORDER}),
        lambda: along(lambda m, y: y[:, m.order], attributes={"order": ORDER}),
    ],
    "index_put": [lambda: along(overwritten, attributes={"order": ORDER})],
    "index_select": [
        lambda: along(lambda m, y: y.index_select(2, m.order), out=4, attributes={"order": ORDER}),
        lambda: along(lambda m, y: y.index_select(1, m.order), attributes={"order": ORDER}),
    ],
    "ordered": [lambda: along(lambda m, y: y.sort(1).values), lambda: along(lambda m, y: y.topk(3, 2).values, out=3)],
    "gather": [
        lambda: along(lambda m, y: y.gather(2, m.order.expand(2, 5, -1)), out=4, attributes={"order": ORDER}),
        lambda: along(
            lambda m, y: y.gather(1, m.order[None, :, None].expand(2, -1, y.shape[2])), attributes={"order": ORDER}
        ),
    ],
    "scatter": [lambda: along(added("scatter_add"))],
    "index_add": [
        lambda: along(
            lambda m, y: y.index_add(1, m.order, m.c(y)[:, :4]), c=nn.Linear(6, 6), attributes={"order": ORDER}
        ),
        lambda: along(lambda m, y: y.index_fill(2, m.order, 0.5), attributes={"order": ORDER}),
        lambda: along(added("index_add")),
    ],
    "overwrite": [
        lambda: along(lambda m, y: torch.slice_scatter(y, m.c(y)[:, :2], 1, 1, 3), c=nn.Linear(6, 6)),
        lambda: along(lambda m, y: torch.select_scatter(y, m.one, 2, 4), attributes={"one": torch.ones(2, 5).double()}),
        lambda: along(lambda m, y: torch.slice_scatter(y, y[:, :2].tanh(), 1, 1, 3)),
    ],
    "matrices": [
        lambda: along(lambda m, y: y.tril()),
        lambda: between(lambda m, y: y.triu()),
        lambda: along(lambda m, y: torch.cdist(y, y), out=5),
    ],
    "fourier": [
        lambda: along(lambda m, y: torch.fft.rfft(y).abs(), out=4),
        lambda: along(lambda m, y: torch.fft.fft(y, dim=1).real),
    ],
    "complex_view": [lambda: along(lambda m, y: torch.view_as_real(torch.fft.fft(y, dim=1)).sum(-1))],
    "embedding_bag": [lambda: embedded(lambda m, x: m.b(m.a(x)), a=nn.EmbeddingBag(5, 6, mode="mean"))],
    "by_value": [lambda: along(lambda m, y: y.masked_select(y > -100).view(2, 5, -1))],
    "packed": [packed],
    "batch_norm": [lambda: between(lambda m, y: m.n(y).relu(), n=nn.BatchNorm2d(6))],
    "layer_norm": [
        lambda: along(lambda m, y: F.layer_norm(y, (m.n,)), attributes={"n": 6}),
        lambda: along(lambda m, y: F.layer_norm(y, (6,))),
        lambda: along(lambda m, y: m.n(y), n=nn.LayerNorm(6)),
    ],
    "group_norm": [
        lambda: between(lambda m, y: m.n(y), n=nn.GroupNorm(3, 6)),
        lambda: between(lambda m, y: F.group_norm(y, 3, m.scale), attributes={"scale": parameter(6)}),
    ],
    "elementwise_loss": [
        lambda: along(lambda m, y: F.mse_loss(y, m.c(y), reduction="none"), c=nn.Linear(6, 6)),
        lambda: along(lambda m, y: y + F.mse_loss(y, m.c(y), reduction="sum"), c=nn.Linear(6, 6)),
    ],
    "distances": [
        lambda: along(lambda m, y: torch.cdist(y, m.c(y[:, :4])), c=nn.Linear(6, 6), out=4),
        lambda: along(lambda m, y: torch.cdist(m.table[:, :3], y), attributes={"table": parameter(1, 4, 6)}, out=5),
    ],
    "loss_of_classes": [lambda: along(lambda m, y: y + F.nll_loss(y.flatten(0, 1), WORDS.flatten().repeat(2)[:10]))],
    "weight_norm": [normed_weight],
    "reduce": [
        lambda: along(lambda m, y: y * y.prod(-1, keepdim=True)),
        lambda: along(lambda m, y: y.mean(1)),
        lambda: along(lambda m, y: y.amax(1, keepdim=True)),
    ],
    "pooling": [
        lambda: along(lambda m, y: F.avg_pool1d(y, 2), wide=12, out=6),
        lambda: along(lambda m, y: F.avg_pool1d(y, 2, 1), out=5),
        lambda: between(lambda m, y: F.max_pool2d(y, 2)),
        lambda: between(lambda m, y: F.interpolate(y, scale_factor=2)),
    ],
    "unpooling": [
        lambda: between(lambda m, y: F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2)),
        elsewhere,
    ],
    "turn": [lambda: between(lambda m, y: y.rot90(1, (2, 3))), lambda: along(lambda m, y: y.rot90(2, (1, 2)))],
    "log_sigmoid": [lambda: between(lambda m, y: F.logsigmoid(y))],
    "fake_quantize": [stepwise],
    "cross_product": [
        lambda: along(lambda m, y: torch.linalg.cross(y[:, :3], y[:, 1:4], dim=1)),
        lambda: along(lambda m, y: torch.linalg.cross(y, y.flip(1)), wide=3),
    ],
    "channel_shuffle": [
        lambda: between(lambda m, y: F.channel_shuffle(y, 2)),
        lambda: between(lambda m, y: F.channel_shuffle(y, y.shape[1] // 3)),
        shuffled,
    ],
    "along_axis": [
        lambda: along(lambda m, y: y.softmax(1)),
        lambda: along(lambda m, y: y.softmax(2)),
        lambda: along(lambda m, y: y.cumsum(2)),
    ],
    "reshape": [lambda: between(lambda m, y: y.flatten(2).unflatten(-1, (6, 6))), attention, grouped],
    "pixel_shuffle": [
        lambda: between(lambda m, y: F.pixel_shuffle(y, 2), wide=24, out=6),
        lambda: between(lambda m, y: F.pixel_unshuffle(y, 2), out=24),
    ],
    "columns": [unfolded, folded],
}
"""By the name of a rule's function."""
