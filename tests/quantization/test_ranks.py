"""Processes that train together keep one grid, whatever each of them is given."""

from __future__ import annotations

import datetime as dt

import pytest
import torch
import torch.distributed as dist
from torch import nn

from torchpare.errors import QuantizationError
from torchpare.quantization import LsqPlusQuantizer, LsqQuantizer, ObserverQuantizer, PACTQuantizer, QAT_Quantizer

CASES = {
    "QAT": (QAT_Quantizer, {}),
    "delayed": (QAT_Quantizer, {"quant_start_step": 2}),
    "LSQ": (LsqQuantizer, {}),
    "LSQ+": (LsqPlusQuantizer, {}),
    "PACT": (PACTQuantizer, {}),
    **{name: (ObserverQuantizer, {"observer": {"input": name, "output": name}})
       for name in ("moving_average", "percentile", "kl", "mse")},
}  # fmt: skip


def grids(model):
    endings = ("scale", "zero_point", "offset", "bound", "low", "high", "seen", "counts")
    return torch.cat([value.double().flatten() for key, value in model.state_dict().items() if key.endswith(endings)])


def one_rank(rank, folder):
    wait = dt.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=wait)
    found = {name: grids(trained(*case, rank)) for name, case in CASES.items()}
    bad = QAT_Quantizer(net(), [ENTRY]).compress()
    x = torch.full((2, 3), torch.nan if rank else 1.0)
    with pytest.raises(QuantizationError, match=r"0\.input holds NaN"):
        bad(x)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()  # neither ends while the other still talks
    dist.destroy_process_group()


ENTRY = {"quant_types": ["weight", "input", "output"], "quant_bits": 4, "op_types": ["Linear"]}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def trained(quantizer, more, rank):
    """A few steps, each rank with data of its own size; one of them once has none."""
    model, generator = net(), torch.Generator().manual_seed(rank)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    own = quantizer(model, [{**ENTRY, **more}], optimizer)
    batches = [(1 + 9 * rank) * torch.randn(0 if rank and at == 0 else 8, 3, generator=generator) for at in range(4)]
    if isinstance(own, ObserverQuantizer):
        return own.calibrate(batches)
    together = nn.parallel.DistributedDataParallel(own.compress())
    for x in batches:
        optimizer.zero_grad()
        together(x).square().sum().backward()
        optimizer.step()
    return model


@pytest.mark.slow
def test_all_ranks_have_the_same_grids_though_one_has_no_data_and_learn_of_nan_together(tmp_path):
    torch.multiprocessing.spawn(one_rank, (str(tmp_path),), nprocs=2)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in CASES:
        assert torch.equal(ours[name], theirs[name]), name
        # What the second rank alone has seen is in what both have watched.
        assert CASES[name][0] is not ObserverQuantizer or bool((ours[name] > 9).any()), name


@pytest.mark.parametrize("rows", [1, 0])
def test_alone_nobody_is_waited_for(rows):
    model = QAT_Quantizer(net(), [ENTRY]).compress()
    assert model(torch.randn(rows, 3)).shape == (rows, 2)
    assert int(model[0].input_quantizer.seen) == rows
