"""Prints, as JSON, by how much this process grew while it calibrated on a stream of large batches."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.quantization import ObserverQuantizer, correct_biases, round_adaptively

COUNT, SHAPE = 96, (8, 8, 64, 64)
"""So many batches, each of 1 MiB; in and out of the layers as much."""

ENTRY = {"quant_types": ["weight", "output"], "quant_bits": 4, "op_types": ["Conv2d"]}


def stream() -> Iterator[Tensor]:
    """Batches that are made when they are asked for."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(COUNT):
        yield torch.randn(SHAPE, generator=generator)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))


def peak() -> int:
    """The most memory that this process has had, in bytes; what it was before it became this program does not count."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(way: str, observer: str, cap: int | None) -> None:
    torch.set_num_threads(1)
    net = model()
    quantizer = ObserverQuantizer(net, [{**ENTRY, "observer": {"output": observer}}])
    for batch in stream():  # one batch on its way: what any use of the model takes
        with torch.no_grad():
            net(batch)
        break
    torch.optim.Adam(net.parameters())  # loads much code, once
    if way != "calibrate":
        quantizer.calibrate([batch])
    before = peak()
    found: Any = None
    if way == "calibrate":
        quantizer.calibrate(stream())
    elif way == "round":
        found = round_adaptively(net, stream(), iterations=20, batch_size=8, generator=torch.Generator().manual_seed(0),
                                 memory_cap=cap)  # fmt: skip
    else:
        found = correct_biases(net, stream(), memory_cap=cap)
    state = {key: value.double().sum().item() for key, value in net.state_dict().items()}
    print(json.dumps({"grew": peak() - before, "state": state, "found": repr(found)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
