"""What the user of a small model does, in a process that knows no pruner, mask or example input: build, load, run.

python examples/reload_small.py small.safetensors pictures.safetensors scores.safetensors
"""

from __future__ import annotations

from pathlib import Path

import torch
import typer
from resnet20 import ResNet20
from safetensors.torch import load_file, save_file

import torchpare


def main(checkpoint: Path, pictures: Path, scores: Path, width: int = 48, threads: int = 1) -> None:
    """Run the pictures through the small model and write what it says of them."""
    torch.set_num_threads(threads)
    model = torchpare.load(ResNet20(width), checkpoint).eval()
    with torch.inference_mode():
        save_file({"scores": model(load_file(pictures)["pictures"])}, scores)


if __name__ == "__main__":
    typer.run(main)
