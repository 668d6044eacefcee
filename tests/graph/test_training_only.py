"""What evaluation never reads: parameters and buffers of the training path follow the channels they belong to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchpare import plan


class Centred(nn.Module):
    """Keeps a moving average of its features, which training alone reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(7, 12)
        self.outer = nn.Linear(12, 5)
        self.average = nn.Buffer(torch.zeros(12))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        hidden = self.inner(x)
        if self.training:
            self.average.lerp_(hidden.detach().mean(0), 0.1)
            hidden = hidden - self.average
        return self.outer(hidden.relu())


def test_statistics_that_training_keeps_follow_their_channels() -> None:
    model, x = Centred().eval(), torch.randn(6, 7)
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], x).apply()
    assert report.parameters_after < report.parameters_before
    assert model.average.shape == (model.inner.out_features,)
    model.train()(x).sum().backward()
