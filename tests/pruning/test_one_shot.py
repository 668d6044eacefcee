"""Pruners that look at the weights once, each on filters on which no other would choose the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchpare.pruning import FPGMPruner, L1FilterPruner, L2FilterPruner, LevelPruner, RandomFilterPruner

ROWS = [
    [5.0, 0.0, 0.0],  # sums to 5, and is as long: the least sum
    [2.0, 2.0, 2.0],  # sums to 6, and is 3.46 long: the shortest
    [7.0, 3.0, 3.0],  # sums to 13; 15.4 from all others together: in their midst
    [9.0, 4.0, 2.0],
    [8.0, 1.0, 7.0],
]


def filters(rows):
    model = nn.Sequential(nn.Conv1d(3, len(rows), 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(rows).unsqueeze(2))
    return model


def gone(pruner, model, share, **options):
    pruner(model, [{"sparsity": share, "op_names": ["0"]}], **options).compress()
    return (~model[0].weight_mask).flatten().nonzero().flatten().tolist()


@pytest.mark.parametrize(("pruner", "first"), [(L1FilterPruner, 0), (L2FilterPruner, 1), (FPGMPruner, 2)])
def test_the_filter_that_goes_first_is_the_papers(pruner, first):
    assert gone(pruner, filters(ROWS), 0.2) == [first]


def test_signs_do_not_count():
    rows = torch.tensor(ROWS)
    for pruner in (L1FilterPruner, L2FilterPruner, FPGMPruner):
        assert gone(pruner, filters((-rows).tolist()), 0.2) == gone(pruner, filters(ROWS), 0.2)


def test_single_weights_go_by_size_and_their_signs_do_not_count():
    model = filters([[0.5, -3.0, 0.1], [-0.2, 4.0, -5.0]])
    assert gone(LevelPruner, model, 0.5) == [0, 2, 3]


def test_by_lot_another_seed_and_another_layer_draw_anew():
    def drawn(seed, layer):
        model = nn.Sequential(nn.Conv2d(1, 32, 1), nn.Conv2d(32, 32, 1))
        RandomFilterPruner(model, [{"sparsity": 0.5, "op_types": ["Conv2d"]}], seed=seed).compress()
        return model[layer].weight_mask.flatten().tolist()

    assert drawn(0, 0) == drawn(0, 0)
    assert len({tuple(drawn(seed, layer)) for seed in (0, 1) for layer in (0, 1)}) == 4
