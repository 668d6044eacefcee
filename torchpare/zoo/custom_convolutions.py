"""Hand-written convolutional nets: sound, video, segmentation, detection, images from noise, groups of channels."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.zoo.custom_case import Builder, normal

__all__ = ["CONVOLUTIONS"]


class AudioNet(nn.Module):
    """A raw wave through strided convolutions, normed over (N, C, L)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 8, 12, 16)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv1d(a, b, 8, stride=4, padding=2), nn.BatchNorm1d(b), nn.GELU())
                for a, b in pairwise(widths)
            )
        )
        self.head = nn.Linear(16, 5)

    def forward(self, wave: Tensor) -> Tensor:
        """(B, samples) to (B, 5)."""
        return self.head(self.blocks(wave.unsqueeze(1)).mean(-1))


class VideoNet(nn.Module):
    """Space and time convolved apart, then pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.space = nn.Conv3d(3, 8, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.time = nn.Conv3d(8, 12, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.norm = nn.BatchNorm3d(12)
        self.skip = nn.Conv3d(3, 12, 1)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.head = nn.Linear(12, 5)

    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) to (B, 5)."""
        x = F.relu(self.norm(self.time(self.space(video))) + self.skip(video))
        return self.head(self.pool(x).flatten(1))


class UNet(nn.Module):
    """Two scales down and up again, each joined to its twin by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = self._block(3, 8)
        self.down2 = self._block(8, 12)
        self.middle = self._block(12, 16)
        self.up2 = nn.ConvTranspose2d(16, 12, 2, stride=2)
        self.join2 = self._block(24, 12)
        self.up1 = nn.ConvTranspose2d(12, 8, 2, stride=2)
        self.join1 = self._block(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        )

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 2, H, W)."""
        first = self.down1(image)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.middle(F.max_pool2d(second, 2))
        x = self.join2(torch.cat([second, self.up2(x)], dim=1))
        x = self.join1(torch.cat([self.up1(x), first], dim=1))
        return self.head(x)


class InterpolatingDecoder(nn.Module):
    """Scales brought to one size by interpolation, and summed."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(a, b, 3, 2, 1) for a, b in ((3, 8), (8, 12), (12, 20))])
        self.laterals = nn.ModuleList([nn.Conv2d(width, 10, 1) for width in (8, 12, 20)])
        self.head = nn.Conv2d(10, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 3, H, W)."""
        total = None
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            image = F.leaky_relu(stage(image), 0.1)
            side = F.interpolate(lateral(image), size=(16, 16), mode="bilinear", align_corners=False)
            total = side if total is None else total + side
        assert total is not None
        return F.interpolate(self.head(total), scale_factor=2, mode="nearest")


class YOLOHead(nn.Module):
    """Boxes on a grid: each of three anchors predicts a place, a size, a certainty and two classes."""

    sizes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.anchors, self.outputs = 3, 7
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.SiLU(), nn.Conv2d(12, 16, 3, 2, 1)
        )
        self.predict = nn.Conv2d(16, self.anchors * self.outputs, 1)
        self.register_buffer("sizes", torch.tensor([[4.0, 6.0], [8.0, 5.0], [9.0, 12.0]]))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, boxes, 7)."""
        raw = self.predict(F.silu(self.backbone(image)))
        batch, _, rows, columns = raw.shape
        raw = raw.view(batch, self.anchors, self.outputs, rows, columns).permute(0, 1, 3, 4, 2).contiguous()
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        grid = torch.stack([x, y], dim=-1).to(raw)
        chances = raw.sigmoid()
        centre = (chances[..., :2] * 2 - 0.5 + grid) * 4
        size = (chances[..., 2:4] * 2) ** 2 * self.sizes.view(1, self.anchors, 1, 1, 2)
        return torch.cat([centre, size, chances[..., 4:]], dim=-1).view(batch, -1, self.outputs)


class Generator(nn.Module):
    """Noise to image: a linear layer, its output viewed as a small map, transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 16
        self.enter = nn.Linear(10, self.width * 4 * 4)
        self.norm = nn.BatchNorm2d(self.width)
        self.up = nn.ConvTranspose2d(16, 12, 4, stride=2, padding=1, bias=False)
        self.norm_up = nn.BatchNorm2d(12)
        self.paint = nn.ConvTranspose2d(12, 3, 4, stride=2, padding=1)

    def forward(self, noise: Tensor) -> Tensor:
        """(B, 10) to (B, 3, 16, 16)."""
        x = self.enter(noise).view(-1, self.width, 4, 4)
        x = self.up(F.relu(self.norm(x)))
        return torch.tanh(self.paint(F.relu(self.norm_up(x))))


class GroupedGenerator(nn.Module):
    """The same with a transposed convolution in groups, and pixels shuffled into place."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(10, 16 * 3 * 3)
        self.up = nn.ConvTranspose2d(16, 24, 3, stride=2, padding=1, output_padding=1, groups=4)
        self.shuffle = nn.PixelShuffle(2)
        self.paint = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, noise: Tensor) -> Tensor:
        """(B, 10) to (B, 3, 12, 12)."""
        x = self.enter(noise).unflatten(1, (16, 3, 3))
        return self.paint(self.shuffle(F.relu(self.up(F.relu(x)))))


class Unshuffle(nn.Module):
    """Space folded into channels and back again."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 6, 3, padding=1)
        self.body = nn.Conv2d(24, 28, 3, padding=1)
        self.after = nn.Conv2d(7, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 3, H, W)."""
        x = F.pixel_unshuffle(F.relu(self.before(image)), 2)
        return self.after(F.pixel_shuffle(F.relu(self.body(x)), 2))


class Unfolded(nn.Module):
    """Patches taken out by unfold, mixed by a linear layer, put back by fold."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 6, 1)
        self.mix = nn.Linear(6 * 4, 8 * 4)
        self.after = nn.Conv2d(8, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, 8, 8) to (B, 3, 8, 8)."""
        patches = F.unfold(F.relu(self.before(image)), kernel_size=2, stride=2)
        mixed = F.relu(self.mix(patches.transpose(1, 2))).transpose(1, 2)
        return self.after(F.fold(mixed, output_size=(8, 8), kernel_size=2, stride=2))


class Rolled(nn.Module):
    """Windows shifted by rolling the map, pooled over, and rolled back."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 10, 3, padding=1)
        self.mix = nn.Conv2d(10, 12, 2, stride=2)
        self.after = nn.ConvTranspose2d(12, 3, 2, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 3, H, W)."""
        x = torch.roll(F.relu(self.before(image)), shifts=(-1, -1), dims=(2, 3))
        return torch.roll(self.after(F.relu(self.mix(x))), shifts=(1, 1), dims=(2, 3))


CONVOLUTIONS: dict[str, Builder] = {
    "audio-conv1d": lambda g: (AudioNet(), normal(g, 2, 256)),
    "video-conv3d": lambda g: (VideoNet(), normal(g, 2, 3, 4, 8, 6)),
    "u-net": lambda g: (UNet(), normal(g, 2, 3, 16, 12)),
    "interpolating-decoder": lambda g: (InterpolatingDecoder(), normal(g, 2, 3, 32, 32)),
    "yolo-head": lambda g: (YOLOHead(), normal(g, 2, 3, 16, 24)),
    "gan-generator": lambda g: (Generator(), normal(g, 3, 10)),
    "gan-generator-grouped": lambda g: (GroupedGenerator(), normal(g, 3, 10)),
    "pixel-unshuffle": lambda g: (Unshuffle(), normal(g, 2, 3, 8, 6)),
    "unfold-fold": lambda g: (Unfolded(), normal(g, 2, 3, 8, 8)),
    "rolled-windows": lambda g: (Rolled(), normal(g, 2, 3, 8, 6)),
}
