"""The code blocks of docs/write-a-pruner.md, run in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.pruning.nets import Residual, batch, randomised
from torchpare.attach import masks_of
from torchpare.errors import MaskError
from torchpare.pruning import FilterPruner, Pruner

PAGE = Path(__file__).parents[2] / "docs" / "write-a-pruner.md"


def test_the_page_does_what_it_says():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 3
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec", dont_inherit=True), names)
    model = randomised(Residual())
    names["SpreadPruner"](model, [{"sparsity": 0.5, "op_names": ["inner"]}], dummy_input=batch(1)).compress()
    spread = model.inner.old_weight.detach().flatten(1).var(dim=1)
    expected = set(spread.argsort()[: len(spread) // 2].tolist())
    assert set((~masks_of(model)["inner_norm"]["weight"]).nonzero().flatten().tolist()) == expected
    fresh = randomised(Residual(), 5)
    largest = names["LargestFirstPruner"]
    assert issubclass(largest, Pruner)
    largest(fresh, [{"sparsity": 0.1, "op_names": ["head"]}]).compress()
    dense, kept = fresh.head.old_weight.detach().abs(), fresh.head.weight_mask
    assert dense[~kept].min() >= dense[kept].max()
    assert int((~kept).sum()) == 6


def test_a_score_of_the_wrong_shape_is_named():
    class Forgetful(FilterPruner):
        def score(self, weight):
            return weight.abs()

    model = randomised(Residual())
    with pytest.raises(
        MaskError, match=r"Forgetful\.score gave scores of shape \(8, 3, 3, 3\) for stem, whose filters"
    ):
        Forgetful(model, [{"sparsity": 0.5, "op_types": ["default"]}]).compress()
    assert torch.equal(model.stem.weight, randomised(Residual()).stem.weight)
    assert not masks_of(model)
