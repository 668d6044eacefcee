"""Run by torchrun: every case with a share of the data, under DDP; each process writes what it came to."""

from __future__ import annotations

import datetime as dt
import sys
import warnings

import torch
import torch.distributed as dist

from tests.distributed.pruner_cases import PRUNERS
from tests.distributed.quantizer_cases import QUANTIZERS
from tests.distributed.share import EVERYTHING, Share, grids, masks, net
from torchpare.attach.ranks import averages_over_ranks, fewest_over_ranks, terms_over_ranks
from torchpare.quantization import LsqQuantizer, ObserverQuantizer


def exchange(rank: int) -> dict[str, object]:
    """What the second process gets that has nothing to say of "late", and the first that has nothing of "sums"."""
    like = {"both": torch.zeros(2), "late": torch.zeros(3), "nobody": torch.zeros(1)}
    values = {"both": torch.tensor([1.0, 2.0]) * (rank + 1)} | ({} if rank else {"late": torch.ones(3)})
    sums = (torch.tensor([1, 2]), torch.tensor([0.5, 0.25]), 7) if rank else None
    return {
        "averages": averages_over_ranks(values, like),
        "given": values,
        "terms": terms_over_ranks(sums),
        "nothing": terms_over_ranks(None),
        "fewest": fewest_over_ranks(3 + rank),
    }


def alone() -> dict[str, torch.Tensor]:
    """The scales of models that one process compresses for itself while the others wait: weights need no exchange."""
    entry = {**EVERYTHING, "quant_types": ["weight"]}
    entries = {"lsq": (LsqQuantizer, entry), "kl": (ObserverQuantizer, {**entry, "observer": {"weight": "kl"}})}
    entries["kl"][1]["granularity"] = {"weight": "tensor"}
    return {name: kind(net(), [own]).compress().a.scale.detach() for name, (kind, own) in entries.items()}


def main(folder: str) -> None:
    warnings.simplefilter("ignore")  # of torch's own
    dist.init_process_group("gloo", timeout=dt.timedelta(seconds=60))
    share = Share(dist.get_rank(), dist.get_world_size())
    found = {}
    for cases, seen in ((PRUNERS, masks), (QUANTIZERS, grids)):
        for name, case in cases.items():
            model = case(share)
            found[name] = {"seen": seen(model), "weights": {k: v.detach() for k, v in model.named_parameters()}}
    found["exchange"] = exchange(share.rank)
    found["alone"] = alone() if share.rank == 0 else {}
    torch.save(found, f"{folder}/{share.rank}.pt")
    dist.barrier()  # neither ends while the other still talks
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
