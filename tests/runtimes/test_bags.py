"""Bags of embeddings are rows that are added up: programs of them run everywhere, and compute what torch does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchpare.runtimes import RUNTIMES, verify
from torchpare.runtimes.bags import WritesBagsOut


class Bags(nn.Module):
    def __init__(self, mode: str, padding: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.EmbeddingBag(20, 16, mode=mode, padding_idx=padding), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.words(x))


def tokens() -> torch.Tensor:
    indices = torch.randint(1, 20, (3, 7), generator=torch.Generator().manual_seed(0))
    indices[0, 3:], indices[1] = 0, 0  # some padding, and nothing but padding
    return indices


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 0, -20])
def test_written_out_they_are_what_torch_computes(mode, padding):
    table = torch.randn(20, 16, generator=torch.Generator().manual_seed(0))
    wanted = F.embedding_bag(tokens(), table, mode=mode, padding_idx=padding)
    with WritesBagsOut():
        made = F.embedding_bag(tokens(), table, mode=mode, padding_idx=padding)
    torch.testing.assert_close(made, wanted)


def test_factors_of_sums_and_bags_of_several_lengths():
    table, factors = torch.randn(20, 16), torch.rand(3, 7)
    with WritesBagsOut():
        made = F.embedding_bag(tokens(), table, mode="sum", per_sample_weights=factors)
        several = F.embedding_bag(tokens().flatten(), table, torch.tensor([0, 2, 9]))
    torch.testing.assert_close(made, F.embedding_bag(tokens(), table, mode="sum", per_sample_weights=factors))
    torch.testing.assert_close(several, F.embedding_bag(tokens().flatten(), table, torch.tensor([0, 2, 9])))


@pytest.mark.parametrize(
    ("asked", "kind", "says"),
    [({"offsets": torch.tensor([0, 2])}, ValueError, "offsets has to be None"),
     ({"per_sample_weights": torch.rand(3, 7)}, NotImplementedError, "only supported for mode='sum'"),
     ({"per_sample_weights": torch.rand(7), "mode": "sum"}, ValueError, "same shape as the input")],
    ids=["offsets", "factors of means", "too few factors"],
)  # fmt: skip
def test_what_torch_refuses_is_refused(asked, kind, says):
    with WritesBagsOut(), pytest.raises(kind, match=says):
        F.embedding_bag(tokens(), torch.randn(20, 16), **asked)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "executorch"])
@pytest.mark.parametrize(("mode", "padding"), [("mean", 0), ("max", None), ("sum", None)])
def test_runtimes_compute_them(runtime, mode, padding):
    pytest.importorskip(runtime)
    x, model = tokens(), Bags(mode, padding).eval()
    made = RUNTIMES[runtime](model, dummy_input=x, calib_data_loader=[x])
    made.compress()
    kinds = {tensor.dtype for name, tensor in made.made().module.state_dict().items() if name.startswith("words")}
    assert torch.int8 in kinds
    assert "head" in made.made().integers
    with torch.no_grad():
        torch.testing.assert_close(made.inference(x)[0], model(x), rtol=0.05, atol=0.05)
    assert verify(made, x).ok
