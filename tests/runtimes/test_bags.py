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

    def forward(self, x, offsets=None):
        return self.head(self.words(x, offsets))


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


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 0, -20])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("offsets", [[0, 2, 2, 9], [0, 0, 20], [0]], ids=["an empty one", "empty at first", "one"])
def test_bags_that_offsets_delimit_are_what_torch_computes(mode, padding, last, offsets):
    table, indices = torch.randn(20, 16, generator=torch.Generator().manual_seed(0)), tokens().flatten()
    delimited = torch.tensor([*offsets, len(indices)] if last else offsets)
    asked = {"mode": mode, "padding_idx": padding, "include_last_offset": last}
    with WritesBagsOut():
        made = F.embedding_bag(indices, table, delimited, **asked)
    torch.testing.assert_close(made, F.embedding_bag(indices, table, delimited, **asked))


@pytest.mark.parametrize("offsets", [None, torch.tensor([0, 2, 9])], ids=["one length", "offsets"])
def test_factors_of_sums(offsets):
    table, factors = torch.randn(20, 16), torch.rand(3, 7)
    indices = tokens()
    if offsets is not None:
        indices, factors = indices.flatten(), factors.flatten()
    with WritesBagsOut():
        made = F.embedding_bag(indices, table, offsets, mode="sum", per_sample_weights=factors)
    wanted = F.embedding_bag(indices, table, offsets, mode="sum", per_sample_weights=factors)
    torch.testing.assert_close(made, wanted)


@pytest.mark.parametrize(
    ("asked", "kind", "says"),
    [({"offsets": torch.tensor([0, 2])}, ValueError, "offsets has to be None"),
     ({"per_sample_weights": torch.rand(3, 7)}, NotImplementedError, "only supported for mode='sum'"),
     ({"per_sample_weights": torch.rand(7), "mode": "sum"}, ValueError, "same shape as the input"),
     ({"input": torch.arange(3)}, ValueError, "offsets has to be a 1D Tensor")],
    ids=["offsets", "factors of means", "too few factors", "no offsets"],
)  # fmt: skip
def test_what_torch_refuses_is_refused(asked, kind, says):
    with WritesBagsOut(), pytest.raises(kind, match=says):
        F.embedding_bag(**{"input": tokens(), "weight": torch.randn(20, 16)} | asked)


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


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "executorch"])
@pytest.mark.parametrize(("mode", "padding"), [("mean", 0), ("max", None), ("sum", None)])
def test_runtimes_compute_bags_that_offsets_delimit(runtime, mode, padding):
    pytest.importorskip(runtime)
    given, model = (tokens().flatten(), torch.tensor([0, 2, 2, 9])), Bags(mode, padding).eval()
    more = torch.arange(12), torch.tensor([0, 3, 7, 11])  # as many bags
    made = RUNTIMES[runtime](model, dummy_input=given, calib_data_loader=[given, more])
    made.compress()
    assert "head" in made.made().integers
    for each in [given] if runtime == "executorch" else [given, more]:
        with torch.no_grad():
            torch.testing.assert_close(made.inference(each)[0], model(*each), rtol=0.05, atol=0.05)
    assert verify(made, given).ok
