"""The pieces of which random convolutional networks are made: each maps (N, C, H, W) to (N, C', H', W').

They are written the way people write them: sizes taken from shapes, kept in attributes or typed as numbers, layers
called twice, in-place activations. ``block.width`` is the number of channels that comes out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BLOCKS", "End"]


class Plain(nn.Module):
    """Convolution, norm or none, activation."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        groups = pick([1, 1, 1, 2])
        self.width = pick([4, 6, 8])
        kernel, padding = pick([(3, 1), (1, 0), (3, 0), (5, 2)])
        mode = pick(["zeros", "zeros", "reflect", "circular"]) if padding == 1 else "zeros"
        self.conv = nn.Conv2d(
            c, self.width, kernel, padding=padding, groups=groups, bias=pick([True, False]), padding_mode=mode
        )
        self.norm = pick([nn.BatchNorm2d, nn.BatchNorm2d, nn.Identity])(self.width)
        self.act = pick(
            [nn.ReLU(inplace=True), nn.Sigmoid(), nn.Hardswish(), nn.GELU(), nn.ELU(), nn.PReLU(), nn.Tanh()]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Residual(nn.Module):
    """A sum of a body and its input, or of a body and a projection of its input."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.width = pick([c, 8])
        inner = pick([3, 4, 6])
        self.conv1, self.norm1 = nn.Conv2d(c, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.norm2 = nn.Conv2d(inner, self.width, 3, padding=1), nn.BatchNorm2d(self.width)
        same = self.width == c and pick([True, False])
        self.down = None if same else nn.Sequential(nn.Conv2d(c, self.width, 1, bias=False), nn.BatchNorm2d(self.width))
        self.inplace = pick([True, False])

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        shortcut = x if self.down is None else self.down(x)
        if self.inplace:
            y += shortcut
            return F.relu_(y)
        return F.relu(shortcut + y)


class Concat(nn.Module):
    """Branches of unequal widths, laid end to end; one of them may be there twice."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        a, b = pick([2, 3, 4]), pick([2, 5])
        self.left, self.right = nn.Conv2d(c, a, 3, padding=1), nn.Conv2d(c, b, 1)
        self.norm = nn.BatchNorm2d(a)
        self.shape = pick(["two", "dense", "twice"])
        self.width = {"two": a + b, "dense": c + a, "twice": 2 * a}[self.shape]

    def forward(self, x: Tensor) -> Tensor:
        left = torch.relu(self.norm(self.left(x)))
        if self.shape == "two":
            return torch.cat([left, self.right(x)], 1)
        return torch.cat((x, left) if self.shape == "dense" else (left, left), dim=1)


class Depthwise(nn.Module):
    """A depthwise convolution (with a channel multiplier or none) and a pointwise one."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        multiplier = pick([1, 1, 2])
        self.width = pick([4, 6])
        self.deep = nn.Conv2d(c, c * multiplier, 3, padding=1, groups=c, bias=False)
        self.norm = nn.BatchNorm2d(c * multiplier)
        self.point = nn.Conv2d(c * multiplier, self.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.point(F.relu6(self.norm(self.deep(x))))


class Grouped(nn.Module):
    """Grouped convolutions, plain or transposed, with two group counts."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        first, second = pick([2, 4]), pick([1, 2, 3])
        wide = 12
        self.into = nn.Conv2d(c, wide, 1)
        self.one = nn.Conv2d(wide, wide, 3, padding=1, groups=first)
        self.norm = nn.BatchNorm2d(wide)
        transposed = pick([True, False])
        self.width = 6
        made = nn.ConvTranspose2d if transposed else nn.Conv2d
        self.two = made(wide, self.width, 1, groups=second)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.leaky_relu(self.norm(self.one(self.into(x)))))


class Up(nn.Module):
    """Upwards by a transposed convolution or by interpolation."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.width = pick([3, 4])
        self.conv = nn.ConvTranspose2d(c, self.width, 2, stride=2) if pick([True, False]) else None
        self.point = None if self.conv else nn.Conv2d(c, self.width, 1)
        self.mode = pick(["nearest", "bilinear"])
        self.norm = nn.BatchNorm2d(self.width)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is not None:
            return F.avg_pool2d(torch.relu(self.norm(self.conv(x))), 2)
        return F.max_pool2d(F.interpolate(self.norm(self.point(x)), scale_factor=2, mode=self.mode), 2)


class Gate(nn.Module):
    """Squeeze and excite, by linear layers and a view, or by convolutions."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.width, inner = c, pick([2, 3])
        self.linear = pick([True, False])
        one, two = (
            (nn.Linear(c, inner), nn.Linear(inner, c))
            if self.linear
            else (nn.Conv2d(c, inner, 1), nn.Conv2d(inner, c, 1))
        )
        self.fc = nn.Sequential(one, nn.ReLU(), two, pick([nn.Sigmoid, nn.Hardsigmoid])())
        self.expand = pick([True, False])

    def forward(self, x: Tensor) -> Tensor:
        if not self.linear:
            return x * self.fc(F.adaptive_avg_pool2d(x, 1))
        b, c, _, _ = x.size()
        gate = self.fc(F.adaptive_avg_pool2d(x, 1).view(b, c)).view(b, c, 1, 1)
        return x * (gate.expand_as(x) if self.expand else gate)


class Glu(nn.Module):
    """Half of the channels gates the other half; the halves are found in one of the usual ways."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.width = pick([3, 4])
        self.conv = nn.Conv2d(c, 2 * self.width, 1)
        self.norm = nn.BatchNorm2d(2 * self.width)
        self.how = pick(["chunk", "shape", "attribute", "split", "number", "glu"])

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        if self.how == "chunk":
            a, b = x.chunk(2, dim=1)
        elif self.how == "shape":
            half = x.shape[1] // 2
            a, b = x[:, :half], x[:, half:]
        elif self.how == "attribute":
            a, b = x[:, : self.width], x[:, self.width :]
        elif self.how == "split":
            a, b = torch.split(x, x.size(1) // 2, dim=1)
        elif self.how == "glu":
            return F.glu(x, dim=1)
        else:
            a, b = (x[:, :3], x[:, 3:]) if self.width == 3 else (x[:, :4], x[:, 4:])
        return a * torch.sigmoid(b)


class Shared(nn.Module):
    """One convolution called twice."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.width = c
        self.conv, self.norm = nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(torch.relu(self.norm(self.conv(x)))))


class Shuffle(nn.Module):
    """A grouped convolution and a channel shuffle."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.groups = pick([2, 3])
        self.width = 6
        self.into = nn.Conv2d(c, 6, 1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.conv = nn.Conv2d(6, 6, 3, padding=1, groups=pick([1, self.groups]))
        self.literal = pick([True, False])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.into(x)))
        b, c, h, w = x.size()
        groups = 2 if self.literal else self.groups
        x = x.view(b, groups, c // groups, h, w)
        x = torch.transpose(x, 1, 2).contiguous()
        return self.conv(x.view(b, -1, h, w))


class Pad(nn.Module):
    """Channels of zeros on either side."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.before, self.after = pick([0, 1]), pick([1, 2])
        self.width = c + self.before + self.after
        self.conv = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(torch.relu(self.conv(x)), (0, 0, 0, 0, self.before, self.after))


class Scale(nn.Module):
    """A raw parameter for each channel (or for all), and dropout."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.width = pick([4, 5])
        self.conv = nn.Conv2d(c, self.width, 1)
        self.scale = nn.Parameter(torch.ones(pick([(1, self.width, 1, 1), (self.width, 1, 1), (1,)])))
        self.drop = pick([nn.Dropout2d(), nn.Dropout(inplace=True)])

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.conv(x) * self.scale)


class Pool(nn.Module):
    """Half the height and width, by some pooling."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.width = c
        self.how = pick(["max", "avg", "adaptive", "stride"])
        self.conv = nn.Conv2d(c, c, 3, stride=2, padding=1, bias=False) if self.how == "stride" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is not None:
            return self.conv(x)
        if self.how == "adaptive":
            return F.adaptive_avg_pool2d(x, (x.shape[2] // 2, x.shape[3] // 2))
        return F.max_pool2d(x, 2) if self.how == "max" else F.avg_pool2d(x, 2)


class Stacked(nn.Module):
    """Two branches on a new axis, summed: selective kernels in small."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.width = pick([3, 4])
        self.a, self.b = nn.Conv2d(c, self.width, 1), nn.Conv2d(c, self.width, 3, padding=1)
        self.how = pick(["sum", "select", "unbind"])

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([self.a(x), self.b(x)], dim=1)
        if self.how == "sum":
            return both.sum(dim=1)
        a, b = (both[:, 0], both[:, 1]) if self.how == "select" else both.unbind(1)
        return torch.maximum(a, torch.relu(b))


class ChannelsLast(nn.Module):
    """A linear layer over the channels, between two permutes."""

    def __init__(self, c: int, pick) -> None:
        super().__init__()
        self.width = pick([4, 6])
        self.fc, self.out = nn.Linear(c, self.width), nn.Linear(self.width, self.width)
        self.group_norm = nn.GroupNorm(pick([1, 2]), self.width) if pick([True, False, False]) else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.out(F.gelu(self.fc(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2).contiguous()
        return x if self.group_norm is None else self.group_norm(x)


BLOCKS = (
    Plain,
    Residual,
    Concat,
    Depthwise,
    Grouped,
    Up,
    Gate,
    Glu,
    Shared,
    Shuffle,
    Pad,
    Scale,
    Pool,
    Stacked,
    ChannelsLast,
)


class End(nn.Module):
    """From channels to 3 numbers, through one of the usual flattenings."""

    def __init__(self, c: int, size: int, pick) -> None:
        super().__init__()
        self.how = pick(["flatten", "attribute", "number", "batch", "mean", "pool", "conv"])
        flat = c * size * size
        self.flat = flat
        self.by_number = eval(f"lambda x: x.view(-1, {flat})")
        self.conv = nn.Conv2d(c, 3, 1)
        features = flat if self.how in ("flatten", "attribute", "number", "batch") else c
        self.fc = nn.Sequential(nn.Linear(features, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "conv":
            return self.conv(x)
        if self.how == "flatten":
            return self.fc(torch.flatten(x, 1))
        if self.how == "attribute":
            return self.fc(x.reshape(-1, self.flat))
        if self.how == "number":
            return self.fc(self.by_number(x))
        if self.how == "batch":
            return self.fc(x.reshape(x.size(0), -1))
        return self.fc(x.mean((2, 3)) if self.how == "mean" else self.pool(x).squeeze(-1).squeeze(-1))
