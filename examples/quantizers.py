"""Every quantizer in a few lines each, on scanned digits: without training, and with a few epochs of it.

    python examples/quantizers.py --list
    python examples/quantizers.py ObserverQuantizer QATQuantizer
    python examples/quantizers.py                              # all of them, in half a minute

Each function below is what a script of yours would say; the rest of the file only trains and counts. The last columns
are of ``export_model``: how many different weights a layer has, and what the calibration file knows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from digits import Digits, accuracy, read_digits, train
from pruners import Net
from rich.console import Console
from rich.table import Table
from torch import nn

from torchpare import quantization
from torchpare.quantization import Quantizer

RUNS = Path("runs/quantizers_example")
EIGHT = [{"quant_types": ["weight", "input"], "quant_bits": 8, "op_types": ["Conv2d", "Linear"]}]
FOUR = [{**EIGHT[0], "quant_bits": 4}, {**EIGHT[0], "op_names": ["0", "12"]}]
"""The first and the last layer stay at 8 bits."""
INNER = [{**EIGHT[0], "quant_bits": 4}, {"exclude": True, "op_names": ["0", "12"]}]
"""They stay in float, for algorithms whose grids suit only what follows a ReLU."""
SIGNS = [{**EIGHT[0], "quant_bits": 1}, {"exclude": True, "op_names": ["0", "12"]}]


def naive(model: nn.Module, data: Digits) -> Quantizer:
    """Weights rounded to 8 bits, and nothing else."""
    del data
    return quantization.NaiveQuantizer(model)


def post_training(model: nn.Module, data: Digits) -> Quantizer:
    """8 bits after a look at some pictures."""
    quantizer = quantization.ObserverQuantizer(model, EIGHT, dummy_input=data.train_pictures[:2])
    quantizer.calibrate(data.train_pictures[:256].split(64))
    return quantizer


def post_training_at_4(model: nn.Module, data: Digits) -> Quantizer:
    """4 bits: ranges that are worth covering, rounding that is learnt, biases that make up for it."""
    pictures = data.train_pictures[:256].split(64)
    asked = [{**entry, "observer": "mse"} for entry in FOUR]
    quantizer = quantization.ObserverQuantizer(model, asked, dummy_input=pictures[0])
    quantizer.calibrate(pictures)
    quantization.round_adaptively(model, pictures, iterations=200, generator=torch.Generator().manual_seed(0))
    quantization.correct_biases(model, pictures)
    return quantizer


def qat(model: nn.Module, data: Digits) -> Quantizer:
    """Training with rounded weights, as they will be once norms are folded into them."""
    return quantization.QATQuantizer(model, FOUR, dummy_input=data.train_pictures[:2])


def lsq(model: nn.Module, data: Digits) -> Quantizer:
    """Steps that are learnt."""
    del data
    return quantization.LsqQuantizer(model, FOUR)


def lsq_plus(model: nn.Module, data: Digits) -> Quantizer:
    """Steps and offsets that are learnt."""
    del data
    return quantization.LsqPlusQuantizer(model, FOUR)


def pact(model: nn.Module, data: Digits) -> Quantizer:
    """Bounds of activations that are learnt."""
    del data
    return quantization.PACTQuantizer(model, INNER)


def dorefa(model: nn.Module, data: Digits) -> Quantizer:
    """Even levels from -1 to 1, and from 0 to 1."""
    del data
    return quantization.DoReFaQuantizer(model, INNER)


def bnn(model: nn.Module, data: Digits) -> Quantizer:
    """Signs, times the mean size of a channel. What comes out of a ReLU has no signs worth speaking of."""
    del data
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.ReLU):
            model.set_submodule(name, nn.Hardtanh())
    return quantization.BNNQuantizer(model, SIGNS, scaled=True)


ALGORITHMS: dict[str, tuple[Callable[[nn.Module, Digits], Quantizer], int]] = {
    "NaiveQuantizer": (naive, 0),
    "ObserverQuantizer": (post_training, 0),
    "ObserverQuantizer-4": (post_training_at_4, 0),
    "QATQuantizer": (qat, 2),
    "LsqQuantizer": (lsq, 2),
    "LsqPlusQuantizer": (lsq_plus, 2),
    "PACTQuantizer": (pact, 2),
    "DoReFaQuantizer": (dorefa, 6),
    "BNNQuantizer": (bnn, 6),
}
"""How to make each, and how many epochs it trains."""


def run(name: str, dense: nn.Module, data: Digits, epochs: float) -> tuple[float, int, int]:
    """Quantize a copy by one algorithm; accuracy, different weights in the middle layer, and calibrated layers."""
    torch.manual_seed(0)
    make, its = ALGORITHMS[name]
    model = copy.deepcopy(dense).eval()
    quantizer = make(model, data)
    quantizer.compress()  # a second time, for those that have compressed already, does nothing
    if its:
        train(model, data, max(1, round(its * epochs)), 0.02, torch.Generator().manual_seed(0), listener=quantizer)
    folder = RUNS / name
    folder.mkdir(parents=True, exist_ok=True)
    calibration = quantizer.export_model(folder / "model.pth", folder / "calibration.pth")
    exported = torch.load(folder / "model.pth", weights_only=True)
    return accuracy(model, data), len(exported["4.weight"].unique()), len(calibration)


def main(
    names: Annotated[list[str] | None, typer.Argument(help="which algorithms; all by default")] = None,
    epochs: Annotated[float, typer.Option(help="times as many epochs of training as each has here")] = 1.0,
    names_only: Annotated[bool, typer.Option("--list", help="only say which there are")] = False,
) -> None:
    """Run algorithms, and print what became of the net."""
    if names_only:
        print("\n".join(ALGORITHMS))
        return
    data = read_digits()
    torch.manual_seed(0)
    dense = Net()
    train(dense, data, epochs=6, rate=0.05, generator=torch.Generator().manual_seed(0))
    table = Table("", "test accuracy", "different weights in layer 4", "calibrated layers")
    weights = len(dense.state_dict()["4.weight"].unique())
    table.add_row("float", f"{accuracy(dense, data):.1%}", f"{weights:,}", "")
    for name in names or ALGORITHMS:
        share, levels, layers = run(name, dense, data, epochs)
        table.add_row(name, f"{share:.1%}", f"{levels:,}", str(layers))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
