"""Run by torchrun: every case under ``fully_shard``, in two layouts; each process writes what it came to."""

from __future__ import annotations

import datetime as dt
import sys
import warnings

import torch
import torch.distributed as dist

from tests.distributed.fsdp_cases import BEFORE, gathered
from tests.distributed.fsdp_facts import refusals, told
from tests.distributed.pruner_cases import PRUNERS, second_order
from tests.distributed.quantizer_cases import QUANTIZERS
from tests.distributed.share import Share, grids, masks
from torchpare.errors import MaskError

LAYERS = [name for name in (*PRUNERS, *QUANTIZERS) if name != "hessian"]  # by which no sharded model can be pruned
MODEL = ["level", "agp l1", "taylor", "apoz", "movement", "admm", "lottery", "qat", "lsq", "calibrated kl"]
CASES = {
    layout: [("sharded first", name) for name in first] + [("sharded last", name) for name in BEFORE]
    for layout, first in {"layers": LAYERS, "model": MODEL}.items()
}
"""By layout, in which order what is done; with the whole model in one group, some of each kind."""


def main(folder: str) -> None:
    warnings.simplefilter("ignore")  # of torch's own
    dist.init_process_group("gloo", timeout=dt.timedelta(seconds=60))
    rank, count = dist.get_rank(), dist.get_world_size()
    found = {}
    for layout, cases in CASES.items():
        share = Share(rank, count, layout)
        for order, name in cases:
            model = (BEFORE if order == "sharded last" else PRUNERS | QUANTIZERS)[name](share)
            found[layout, order, name] = {"masks": masks(model), "grids": grids(model), "state": gathered(model)}
        found[layout, "told"] = told(share, folder)
        found[layout, "refused"] = refusals(share, folder) | {"hessian": _second_order(share)}
    torch.save({" / ".join(key): value for key, value in found.items()}, f"{folder}/{rank}.pt")
    dist.barrier()  # neither ends while the other still talks
    dist.destroy_process_group()


def _second_order(share: Share) -> str:
    try:
        second_order(share)
    except MaskError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main(sys.argv[1])
