"""What every quantizer makes of a net at 8, 4, 2 and 1 bits, without training and with it.

    python -m benchmarks.quantizers [--nets LeNet] [--methods 'QATQuantizer;LsqQuantizer'] [--seeds 3] [--jobs 2]

The nets, their dense training and the budget of epochs are those of benchmarks/pruners.py. Weights and inputs of every
convolution and linear layer are quantized; below 8 bits, as in the papers, the first and the last layer stay at 8, or
in float where the algorithm has no 8 bits that suit them (PACT, DoReFa, BNN). Post-training methods see 256 pictures
for training and no labels. Results go to docs/quantizers/quality.json and docs/quantizers.md; what is there already is
not run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from torch import nn

from benchmarks.digits_nets import NETS, Budget, accuracy, read_digits
from benchmarks.pruners import fill
from benchmarks.quantizers_page import render
from torchpare.errors import QuantizationError
from torchpare.quantization import (
    BNNQuantizer,
    DoReFaQuantizer,
    LsqPlusQuantizer,
    LsqQuantizer,
    NaiveQuantizer,
    ObserverQuantizer,
    PACTQuantizer,
    QAT_Quantizer,
    correct_biases,
    equalize,
    round_adaptively,
)

OUT: Final = Path(__file__).parents[1] / "docs" / "quantizers" / "quality.json"
BITS: Final = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4), "W2A4": (2, 4), "W1A1": (1, 1)}
Method = Callable[[nn.Module, str, Budget], None]


def asked(model: nn.Module, setting: str, *, ends: bool = True) -> list[dict[str, Any]]:
    """Weights and inputs of all layers; the first and the last at 8 bits, or, without ``ends``, not at all."""
    weight, given = BITS[setting]
    layers = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    kinds = sorted({type(model.get_submodule(name)).__name__ for name in layers})
    both = {"quant_types": ["weight", "input"], "quant_bits": {"weight": weight, "input": given}, "op_types": kinds}
    outer = [layers[0], layers[-1]]
    if not ends:
        return [both, {"exclude": True, "op_names": outer}]
    return [both] if setting == "W8A8" else [both, {**both, "quant_bits": 8, "op_names": outer}]


def trained(kind: Any, *, fold: bool = False, ends: bool = True, **options: Any) -> Method:
    """All epochs under fake quantization."""

    def run(model: nn.Module, setting: str, budget: Budget) -> None:
        optimizer = budget.optimizer(model)
        more = {"dummy_input": budget.data.train_pictures[:2]} if fold else {}
        kind(model, asked(model, setting, ends=ends), optimizer, **more, **options).compress()
        while budget.used < budget.epochs:
            budget.trainer(model, optimizer)

    return run


def signs(*, scaled: bool) -> Method:
    """All epochs as signs. The net gets a Hardtanh in place of each ReLU, of whose outputs a sign tells nothing."""

    def run(model: nn.Module, setting: str, budget: Budget) -> None:
        for name, layer in list(model.named_modules()):
            if isinstance(layer, nn.ReLU):
                model.set_submodule(name, nn.Hardtanh())
        trained(BNNQuantizer, ends=False, scaled=scaled)(model, setting, budget)

    return run


def watched(observer: str = "min_max", *mends: str) -> Method:
    """No training: grids from what 256 pictures show; of weights by their range, or by MSE where activations are."""

    def run(model: nn.Module, setting: str, budget: Budget) -> None:
        pictures = budget.data.train_pictures[:256].split(64)
        if "equalize" in mends:
            equalize(model.eval(), pictures[0][:2])
        ranges = {"weight": "mse" if observer == "mse" else "min_max", "input": observer}
        quantizer = ObserverQuantizer(
            model, [{**entry, "observer": ranges} for entry in asked(model, setting)], dummy_input=pictures[0][:2]
        )
        quantizer.calibrate(pictures)
        if "biases" in mends:
            correct_biases(model, pictures)
        if "rounding" in mends:
            chance = torch.Generator().manual_seed(budget.seed)
            round_adaptively(model, pictures, iterations=400, generator=chance)

    return run


def naive(model: nn.Module, setting: str, budget: Budget) -> None:
    """Weights rounded, and nothing else."""
    del budget
    NaiveQuantizer(model, [{"quant_bits": BITS[setting][0], "op_types": ["Conv2d", "Linear"]}]).compress()


def as_it_is(model: nn.Module, setting: str, budget: Budget) -> None:
    """The float net, trained for as long as the others."""
    del setting
    budget.spend(model)


METHODS: Final[dict[str, Method]] = {
    "float, trained on": as_it_is,
    "NaiveQuantizer (weights alone)": naive,
    "ObserverQuantizer, min_max": watched(),
    "ObserverQuantizer, moving_average": watched("moving_average"),
    "ObserverQuantizer, percentile": watched("percentile"),
    "ObserverQuantizer, kl": watched("kl"),
    "ObserverQuantizer, mse": watched("mse"),
    "mse, equalized": watched("mse", "equalize"),
    "mse, biases corrected": watched("mse", "biases"),
    "mse, AdaRound": watched("mse", "rounding"),
    "mse, equalized, AdaRound, biases": watched("mse", "equalize", "rounding", "biases"),
    "QATQuantizer": trained(QAT_Quantizer),
    "QATQuantizer, norms folded": trained(QAT_Quantizer, fold=True),
    "LsqQuantizer": trained(LsqQuantizer),
    "LsqPlusQuantizer": trained(LsqPlusQuantizer),
    "PACTQuantizer": trained(PACTQuantizer, ends=False),
    "DoReFaQuantizer": trained(DoReFaQuantizer, ends=False),
    "BNNQuantizer": signs(scaled=False),
    "BNNQuantizer, scaled": signs(scaled=True),
}
"""By the name that the table says."""


def suits(method: str, net: str, setting: str) -> bool:
    """Whether a method is for a setting: signs have one bit, a float net none; norms fold where there are any."""
    if method.startswith("BNN"):
        return setting == "W1A1" and net != "ResNet-20"  # whose code calls relu itself
    if method == "float, trained on":
        return setting == "W8A8"
    return not (net == "LeNet" and "folded" in method)


def one(cell: tuple[str, str, str, int], epochs: int, folder: str) -> float | None:
    """One cell: a dense net from a seed, quantized by one method, tested; None if its training diverges."""
    net, method, setting, seed = cell
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # nets that learn nothing at one bit fade into numbers that are slow
    data = read_digits()
    model = NETS[net][0]()
    model.load_state_dict(torch.load(Path(folder) / f"{net}-{seed}.pt", weights_only=True))
    torch.manual_seed(seed)
    try:
        METHODS[method](model, setting, Budget(data, seed, epochs))
    except QuantizationError as error:
        if "NaN" not in str(error):
            raise
        return None
    return accuracy(model, data)


def main(
    nets: Annotated[str, typer.Option(help="which, comma-separated")] = ",".join(NETS),
    methods: Annotated[str, typer.Option(help="which, separated by semicolons")] = ";".join(METHODS),
    seeds: Annotated[int, typer.Option(help="how many")] = 3,
    epochs: Annotated[int, typer.Option(help="of training for methods that train")] = 12,
    jobs: Annotated[int, typer.Option(help="processes at a time")] = 2,
    out: Annotated[Path, typer.Option("--json", help="the JSON file")] = OUT,
    only_render: Annotated[bool, typer.Option("--render", help="write the page from what is there")] = False,
) -> None:
    """Fill in what is missing, print the table, and write the page, unless the JSON file is another one."""
    known: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"dense": {}, "cells": {}}
    if not only_render:
        wanted = [
            (net, method, setting, seed)
            for net in nets.split(",") for method in methods.split(";") for setting in BITS for seed in range(seeds)
            if suits(method, net, setting)
        ]  # fmt: skip
        fill(known, wanted, one, epochs, jobs, out, "quantizing")
    Console().print(*render(known, list(METHODS), list(BITS), page=out == OUT))


if __name__ == "__main__":
    typer.run(main)
