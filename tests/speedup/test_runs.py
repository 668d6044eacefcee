"""A model is run for a proof without a trace: whatever its attributes are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchpare import plan


class Frozen(dict):
    """Settings that refuse every change, even one that changes nothing."""

    def clear(self) -> None:
        """Never."""
        raise TypeError

    def update(self, *_: object, **__: object) -> None:
        """Never."""
        raise TypeError


class Configured(nn.Module):
    """Looks its widths up in such settings, and writes down in a list what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = Frozen(width=12)
        self.seen = ["nothing"]
        self.inner = nn.Linear(7, self.settings["width"])
        self.outer = nn.Linear(self.settings["width"], 5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 7) to (B, 5)."""
        self.seen.append("one")
        return self.outer(self.inner(x).relu())


def test_settings_that_refuse_every_change_are_left_alone_and_a_list_is_put_back() -> None:
    model = Configured().eval()
    report = plan(model, [{"sparsity": 0.5, "structures": ["all"]}], torch.randn(3, 7)).apply()
    assert report.parameters_after < report.parameters_before
    assert model.settings == {"width": 12}
    assert model.seen == ["nothing"]
