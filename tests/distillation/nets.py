"""Small models that tests of distillation share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.vision import randomise

__all__ = ["Pictures", "Tokens", "pictures_net", "pruned_copy", "tokens_net"]


class Pictures(nn.Module):
    """A convolution, a residual block and a head, with norms."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.inner_norm = nn.BatchNorm2d(2 * width)
        self.outer = nn.Conv2d(2 * width, width, 3, padding=1)
        self.outer_norm = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        y = F.relu(self.inner_norm(self.inner(x)))
        x = self.relu(x + self.outer_norm(self.outer(y)))
        return self.head(x.mean((2, 3)))


class Tokens(nn.Module):
    """Embeddings, two encoder layers of torch's own, and logits over the vocabulary."""

    def __init__(self, words: int = 11, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        layer = nn.TransformerEncoderLayer(width, 4, 24, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.decode = nn.Linear(width, words)

    def forward(
        self, tokens: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        del labels
        padding = None if attention_mask is None else attention_mask == 0
        hidden = self.encoder(self.embed(tokens), src_key_padding_mask=padding)
        return {"hidden": hidden, "logits": self.decode(hidden)}


def pictures_net(seed: int = 0) -> tuple[Pictures, Tensor]:
    """A net in evaluation mode, and what it takes."""
    chance = torch.Generator().manual_seed(seed)
    return randomise(Pictures(), chance).eval(), torch.randn(4, 3, 6, 6, generator=chance)


def tokens_net(seed: int = 0) -> tuple[Tokens, dict[str, Tensor]]:
    """A net in evaluation mode, and what it takes: three sentences, two of them with padding."""
    chance = torch.Generator().manual_seed(seed)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
    model = randomise(Tokens(), chance).eval()
    return model, {"tokens": torch.randint(11, (3, 5), generator=chance), "attention_mask": mask}


def pruned_copy(model: Pictures, x: Tensor, sparsity: float = 0.5) -> tuple[Pictures, object]:
    """A copy with masks attached to all that hangs together."""
    import copy

    from torchpare.pruning import L1FilterPruner

    student = copy.deepcopy(model)
    config_list = [{"sparsity": sparsity, "op_types": ["Conv2d"]}]
    pruner = L1FilterPruner(student, config_list, dependency_aware=True, dummy_input=x)
    pruner.compress()
    return student, pruner
