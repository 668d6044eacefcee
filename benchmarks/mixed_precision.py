"""How many layers of a net stay float for the sake of its numbers, and what that costs in time.

    python -m benchmarks.mixed_precision [--net mobilenet_v2] [--floor 25] [--runs 30]

A torchvision classifier with random weights and random norm statistics, searched by `MixedPrecisionSearch` for the
fastest assignment of 8 bits and float to its layers whose output keeps a signal-to-noise ratio on noise pictures. The
table and the picture go into docs/speed.md. A journal under runs/mixed_precision lets a killed run go on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from rich.console import Console

from benchmarks.pruner_cost import vision
from benchmarks.pruners_page import write_between
from torchpare.report import describe_machine
from torchpare.search import MixedPrecisionSearch
from torchpare.zoo.randomise import randomise

PAGE: Final = Path(__file__).parents[1] / "docs" / "speed.md"
PICTURE: Final = PAGE.with_suffix("") / "mixed_precision.svg"


def main(
    net: Annotated[str, typer.Option(help="of torchvision")] = "mobilenet_v2",
    floor: Annotated[float, typer.Option(help="the least signal-to-noise ratio, dB")] = 25.0,
    side: Annotated[int, typer.Option(help="of the pictures, pixels")] = 224,
    runs: Annotated[int, typer.Option(help="timed rounds")] = 30,
    page: Annotated[bool, typer.Option(help="write docs/speed.md")] = True,
) -> None:
    """Search, print, and write the page."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    model = vision(net)
    randomise(model, generator)
    pictures = list(torch.randn(4, 2, 3, side, side, generator=generator))
    folder = Path("runs") / "mixed_precision"
    folder.parent.mkdir(exist_ok=True)
    found = MixedPrecisionSearch(
        model.eval(), pictures[0][:1], pictures, floor=floor, runs=runs, folder=folder, bits=(8, 32)
    ).run()
    Console().print(found)
    if not page:
        return
    lines = ["| layers of bits | SNR, dB | latency, of float | |", "|---|---|---|---|"]
    for point in found.points:
        mark = "chosen" if point == found.best else "" if point.enough else "below the floor"
        lines.append(f"| {point.described} | {point.score:.1f} | {point.latency:.2f} | {mark} |")
    about = f"{net}, {side} x {side}, ONNX Runtime, one thread, medians of {runs}, {describe_machine()}."
    write_between("mixed", "\n".join([*lines, "", about]), "benchmarks/mixed_precision.py", page=PAGE)
    PICTURE.parent.mkdir(exist_ok=True)
    found.plot(PICTURE)


if __name__ == "__main__":
    typer.run(main)
