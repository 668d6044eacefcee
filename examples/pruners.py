"""Every pruning algorithm in a few lines each, on scanned digits: train, prune, fine-tune, shrink where filters went.

    python examples/pruners.py --list
    python examples/pruners.py AGPPruner NetAdaptPruner
    python examples/pruners.py                              # all of them, in a minute or two

Each function below is what a script of yours would say; the rest of the file only trains and counts. Heads of
transformers are in transformers_heads.py. NetAdapt and its kin write their journals under runs/pruners_example.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from digits import BATCH, Digits, accuracy, read_digits, train
from rich.console import Console
from rich.table import Table
from torch import nn

from torchpare import ModelSpeedup, pruning
from torchpare.attach import is_attached

FILTERS = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
WEIGHTS = [{"sparsity": 0.8, "op_types": ["Conv2d", "Linear"]}]
RUNS = Path("runs/pruners_example")


class Net(nn.Sequential):
    """Three convolutions with batch norms."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10),
        )  # fmt: skip


class Job:
    """A trained model, its data, and functions as pruners call them."""

    def __init__(self, model: nn.Module, data: Digits) -> None:
        self.model, self.data = model, data
        self.example = data.train_pictures[:2]
        self.optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
        self.generator = torch.Generator().manual_seed(0)

    def trainer(self, model: nn.Module, optimizer: Any, criterion: Any = None, epoch: int = 0) -> None:
        """An epoch of training."""
        del epoch
        model.train()
        for chosen in torch.randperm(len(self.data.train_digits), generator=self.generator).split(BATCH):
            optimizer.zero_grad()
            loss = (criterion or F.cross_entropy)(
                model(self.data.train_pictures[chosen]), self.data.train_digits[chosen]
            )
            loss.backward()
            optimizer.step()

    def evaluator(self, model: nn.Module) -> float:
        """What searches go by: the accuracy on training pictures, for the test pictures choose nothing."""
        with torch.no_grad():
            return float((model.eval()(self.data.train_pictures).argmax(1) == self.data.train_digits).float().mean())

    def short_term(self, model: nn.Module) -> None:
        """An epoch for a candidate of a search."""
        self.trainer(model, torch.optim.SGD(model.parameters(), 0.02, momentum=0.9))

    def watching(self) -> tuple[Any, ...]:
        """What pruners want that train."""
        return self.optimizer, self.trainer, F.cross_entropy


def at_once(name: str) -> Callable[[Job], Any]:
    """One look at the weights."""
    return lambda job: getattr(pruning, name)(job.model, FILTERS, dummy_input=job.example)


def by_data(name: str) -> Callable[[Job], Any]:
    """An epoch of training is watched."""
    return lambda job: getattr(pruning, name)(
        job.model, FILTERS, *job.watching(), sparsifying_training_batches=10, dummy_input=job.example
    )


def level(job: Job) -> Any:
    """Single weights; with ``"granularity": "2:4"`` in an entry two of every four."""
    return pruning.LevelPruner(job.model, WEIGHTS)


def slim(job: Job) -> Any:
    """Norms are trained to be sparse, then the smallest of the whole net go."""
    norms = [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}]
    return pruning.SlimPruner(job.model, norms, *job.watching(), sparsifying_training_epochs=3, scale=1e-3,
                              dummy_input=job.example)  # fmt: skip


def agp(job: Job) -> Any:
    """More and more filters, by any criterion."""
    return pruning.AGPPruner(job.model, FILTERS, *job.watching(), num_iterations=4, pruning_algorithm="l1",
                             dummy_input=job.example)  # fmt: skip


def linear(job: Job) -> Any:
    """As many in every iteration."""
    return pruning.LinearPruner(job.model, FILTERS, *job.watching(), num_iterations=4, pruning_algorithm="taylorfo",
                                dummy_input=job.example)  # fmt: skip


def admm(job: Job) -> Any:
    """Weights are trained towards being sparse."""
    return pruning.ADMMPruner(job.model, FILTERS, job.trainer, F.cross_entropy, num_iterations=2,
                              epochs_per_iteration=2, row=1e-2, dummy_input=job.example)  # fmt: skip


def movement(job: Job) -> Any:
    """Weights go that training moves towards zero."""
    return pruning.MovementPruner(job.model, WEIGHTS, *job.watching(), training_epochs=4, warm_up_step=10,
                                  cool_down_beginning_step=60)  # fmt: skip


def lottery(job: Job) -> Any:
    """In rounds, each from the same weights again; your own loop."""
    pruner = pruning.LotteryTicketPruner(job.model, [{**WEIGHTS[0], "prune_iterations": 2}], job.optimizer)
    pruner.compress()
    for _ in pruner.get_prune_iterations():
        pruner.prune_iteration_start()
        job.trainer(job.model, job.optimizer)
    return pruner


def net_adapt(job: Job) -> Any:
    """Layer by layer, the one that costs least."""
    return pruning.NetAdaptPruner(job.model, FILTERS, job.short_term, job.evaluator, sparsity_per_iteration=0.25,
                                  experiment_data_dir=RUNS, dummy_input=job.example)  # fmt: skip


def annealing(job: Job) -> Any:
    """Random steps, fewer and fewer of them for the worse, to half of the multiply-accumulates."""
    return pruning.SimulatedAnnealingPruner(job.model, FILTERS, job.evaluator, stop_temperature=50, objective="macs",
                                            experiment_data_dir=RUNS, dummy_input=job.example)  # fmt: skip


def auto_compress(job: Job) -> Any:
    """Annealing and ADMM by turns; the model is small afterwards."""
    return pruning.AutoCompressPruner(job.model, FILTERS, job.trainer, job.evaluator, job.example, F.cross_entropy,
                                      num_iterations=2, stop_temperature=70, admm_num_iterations=2,
                                      admm_epochs_per_iteration=1, experiment_data_dir=RUNS)  # fmt: skip


def amc(job: Job) -> Any:
    """An agent learns how much each layer keeps; give it hundreds of episodes."""
    return pruning.AMCPruner(job.model, FILTERS, job.evaluator, flops_ratio=0.5, train_episode=20, warmup=8,
                             channel_round=4, output_dir=RUNS, dummy_input=job.example)  # fmt: skip


def sensitivity(job: Job) -> Any:
    """What each layer bears alone, then all in proportion."""
    return pruning.SensitivityPruner(job.model, FILTERS, job.evaluator, job.short_term, sparsity_per_iter=0.25,
                                     checkpoint_dir=RUNS, dummy_input=job.example)  # fmt: skip


def budget(job: Job) -> Any:
    """Optuna proposes; half of the parameters have to go."""
    return pruning.BudgetSearchPruner(job.model, FILTERS, job.evaluator, trials=12, objective="params",
                                      experiment_data_dir=RUNS, dummy_input=job.example)  # fmt: skip


ALGORITHMS: dict[str, Callable[[Job], Any]] = {
    **{name: at_once(name) for name in ("L1FilterPruner", "L2FilterPruner", "FPGMPruner", "RandomFilterPruner")},
    **{
        name: by_data(name)
        for name in (
            "TaylorFOWeightFilterPruner", "TaylorFOActivationFilterPruner", "HessianFilterPruner",
            "ActivationAPoZRankFilterPruner", "ActivationMeanRankFilterPruner",
        )
    },
    "SlimPruner": slim,
    "AGPPruner": agp,
    "LinearPruner": linear,
    "ADMMPruner": admm,
    "LevelPruner": level,
    "MovementPruner": movement,
    "LotteryTicketPruner": lottery,
    "NetAdaptPruner": net_adapt,
    "SimulatedAnnealingPruner": annealing,
    "AutoCompressPruner": auto_compress,
    "AMCPruner": amc,
    "SensitivityPruner": sensitivity,
    "BudgetSearchPruner": budget,
}  # fmt: skip


SINGLE_WEIGHTS = ("LevelPruner", "MovementPruner", "LotteryTicketPruner")
"""Those that make a model sparse, not small."""


def run(name: str, dense: nn.Module, data: Digits, epochs: int) -> tuple[float, int, float]:
    """Prune a copy by one algorithm; accuracy, parameters, and the share of weights that are zero."""
    torch.manual_seed(0)
    job = Job(copy.deepcopy(dense), data)
    ALGORITHMS[name](job).compress()  # a second time, for the ones that have compressed already, does nothing
    for _ in range(epochs):
        job.trainer(job.model, torch.optim.SGD(job.model.parameters(), 0.02, momentum=0.9))
    weights = [layer.weight for layer in job.model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    if is_attached(job.model) and name not in SINGLE_WEIGHTS:
        ModelSpeedup(job.model, job.example).speedup_model()
    return accuracy(job.model, data), sum(p.numel() for p in job.model.parameters()), zeros


def main(
    names: Annotated[list[str] | None, typer.Argument(help="which algorithms; all by default")] = None,
    epochs: Annotated[int, typer.Option(help="of fine-tuning, beside what the algorithm trains itself")] = 2,
    names_only: Annotated[bool, typer.Option("--list", help="only say which there are")] = False,
) -> None:
    """Run algorithms, and print what became of the net."""
    if names_only:
        print("\n".join(ALGORITHMS))
        return
    RUNS.mkdir(parents=True, exist_ok=True)
    data = read_digits()
    torch.manual_seed(0)
    dense = Net()
    train(dense, data, epochs=6, rate=0.05, generator=torch.Generator().manual_seed(0))
    table = Table("", "test accuracy", "parameters", "zeros before")
    table.add_row("dense", f"{accuracy(dense, data):.1%}", f"{sum(p.numel() for p in dense.parameters()):,}", "")
    for name in names or ALGORITHMS:
        share, parameters, zeros = run(name, dense, data, epochs)
        table.add_row(name, f"{share:.1%}", f"{parameters:,}", f"{zeros:.0%}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
