"""Under torchrun and DDP every process comes to the masks and scales of one process that sees the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.launch import once
from tests.distributed.pruner_cases import PRUNERS
from tests.distributed.quantizer_cases import QUANTIZERS
from tests.distributed.share import Share, grids, masks

pytestmark = pytest.mark.slow

LEARNT = ("lsq", "lsq+", "pact")
"""Scales that gradients move: sums over shares round otherwise than sums over the whole batch."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes came to in every case: one launch for all."""
    folder = once(tmp_path_factory, "ddp", Path(__file__).with_name("ddp_script.py"))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [*PRUNERS, *QUANTIZERS])
def test_all_ranks_are_the_same_to_the_last_bit(name, found):
    ours, theirs = (rank[name] for rank in found)
    assert ours["seen"]
    assert ours["seen"].keys() == theirs["seen"].keys()
    for kind in ("seen", "weights"):
        for key, value in ours[kind].items():
            assert torch.equal(value, theirs[kind][key]), key


@pytest.mark.parametrize("name", PRUNERS)
def test_masks_are_those_of_one_process_that_sees_whole_batches(name, found):
    alone = masks(PRUNERS[name](Share()))
    assert not all(bool(mask.all()) for mask in alone.values())
    assert alone.keys() == found[0][name]["seen"].keys()
    for key, mask in alone.items():
        assert torch.equal(mask, found[0][name]["seen"][key]), key


@pytest.mark.filterwarnings("ignore:.*never below zero")
@pytest.mark.parametrize("name", QUANTIZERS)
def test_scales_are_those_of_one_process_that_sees_whole_batches(name, found):
    alone = grids(QUANTIZERS[name](Share()))
    assert alone.keys() == found[0][name]["seen"].keys()
    tolerance = {"rtol": 1e-5, "atol": 1e-7}
    for key, value in alone.items():
        torch.testing.assert_close(found[0][name]["seen"][key], value, **tolerance if name in LEARNT else {})


def test_a_process_that_has_nothing_to_say_takes_part_in_every_exchange(found):
    ours, theirs = (rank["exchange"] for rank in found)
    for own in (ours, theirs):
        assert own["averages"].keys() == {"both", "late"}
        assert torch.equal(own["averages"]["both"], torch.tensor([1.5, 3.0]))
        assert torch.equal(own["averages"]["late"], torch.full((3,), 0.5))  # as DDP has it: nothing counts as zero
        counts, total, entries = own["terms"]
        assert counts.tolist() == [1, 2]
        assert total.tolist() == [0.5, 0.25]
        assert int(entries) == 7
        assert own["nothing"] is None
        assert own["fewest"] == 3
    assert torch.equal(ours["given"]["both"], torch.tensor([1.0, 2.0]))  # what was given is not written to


def test_one_process_alone_may_compress_a_model_whose_weights_are_all_it_looks_at(found):
    assert found[0]["alone"].keys() == {"lsq", "kl"}  # or it would have waited for the other for ever
    assert all(bool((scale > 0).all()) for scale in found[0]["alone"].values())
