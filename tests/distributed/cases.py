"""What is trained in one process on whole batches, and under torchrun by several on shares of them.

Every case gives what has to be the same: masks, scales, and what else a model remembers by torchpare. A case is a
function of a `Share`, and does not know how many processes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from torchpare.attach import masks_of
from torchpare.pruning import (
    ActivationAPoZRankFilterPruner,
    ActivationMeanRankFilterPruner,
    ADMMPruner,
    AGPPruner,
    FPGMPruner,
    HessianFilterPruner,
    L1FilterPruner,
    L2FilterPruner,
    LevelPruner,
    LotteryTicketPruner,
    MovementPruner,
    SlimPruner,
    TaylorFOActivationFilterPruner,
    TaylorFOWeightFilterPruner,
)
from torchpare.quantization import (
    BNNQuantizer,
    DoReFaQuantizer,
    LsqPlusQuantizer,
    LsqQuantizer,
    NaiveQuantizer,
    ObserverQuantizer,
    PACTQuantizer,
    QAT_Quantizer,
    learned_grids,
)

__all__ = ["PRUNERS", "QUANTIZERS", "Net", "Share", "grids", "masks"]

CONVOLUTIONS = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
WEIGHTS = [{"sparsity": 0.6, "op_types": ["default"]}]
EVERYTHING = {"quant_types": ["weight", "input", "output"], "quant_bits": 4, "op_types": ["Conv2d", "Linear"]}


class Net(nn.Module):
    """Two convolutions, a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.a(x)))
        return self.head(torch.relu(self.b(x)).mean((2, 3)))


def net() -> Net:
    """The same weights each time."""
    torch.manual_seed(0)
    return Net()


@dataclass(frozen=True)
class Share:
    """One process's part of all data."""

    rank: int = 0
    count: int = 1
    shards: Literal["", "layers", "model"] = ""
    """With ``fully_shard`` in place of DDP: on each layer and the model, or on the model alone."""

    def batches(self, number: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """So many minibatches, of which this process sees every ``count``-th example."""
        generator = torch.Generator().manual_seed(seed)
        for _ in range(number):
            y = torch.randint(0, 2, (16,), generator=generator)
            x = torch.randn(16, 1, 6, 6, generator=generator)
            x[y == 1, :, :3] += 2
            yield x[self.rank :: self.count], y[self.rank :: self.count]

    def together(self, model: nn.Module) -> nn.Module:
        """The model as it is called in training; DDP must not hide by its broadcasts that buffers differ."""
        if self.shards:
            learnt = learned_grids(model)
            for layer in model.children() if self.shards == "layers" else ():
                fully_shard(layer, ignored_params=learnt)
            return fully_shard(model, ignored_params=learnt)
        return DistributedDataParallel(model, broadcast_buffers=False) if self.count > 1 else model


def train(together: nn.Module, optimizer: Any, share: Share, number: int = 3, seed: int = 0, after: Any = None) -> None:
    """A few steps. Norms keep their statistics: those of a share are not those of the whole batch."""
    for module in together.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for x, y in share.batches(number, seed):
        optimizer.zero_grad()
        functional.cross_entropy(together(x), y).backward()
        optimizer.step()
        if after is not None:
            after()


def sgd(model: nn.Module, rate: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), rate)


def masks(model: nn.Module) -> dict[str, Tensor]:
    """All masks of a model, flat."""
    return {f"{name}.{key}": mask for name, own in masks_of(model).items() for key, mask in own.items()}


def grids(model: nn.Module) -> dict[str, Tensor]:
    """All that quantizers remember, with the scales that weights have now."""
    endings = ("scale", "zero_point", "offset", "bound", "low", "high", "seen", "counts", "steps")
    return {key: value.detach().clone() for key, value in model.state_dict().items() if key.endswith(endings)}


# --------------------------------------------------------------------------------------------------------- pruners


def at_once(kind: Any, entries: Any = CONVOLUTIONS) -> Callable[[Share], nn.Module]:
    """Masked first, wrapped then, and trained."""

    def case(share: Share) -> nn.Module:
        model = net()
        kind(model, entries, dummy_input=torch.zeros(2, 1, 6, 6)).compress()
        train(share.together(model), sgd(model), share)
        return model

    return case


def watching(kind: Any, **more: Any) -> Callable[[Share], nn.Module]:
    """What data say in the first two of three steps that the optimizer tells."""

    def case(share: Share) -> nn.Module:
        model = net()
        together, optimizer = share.together(model), sgd(model)
        kind(model, CONVOLUTIONS, optimizer, sparsifying_training_batches=2, **more).compress()
        train(together, optimizer, share)
        return model

    return case


def told_steps(share: Share) -> nn.Module:
    """Gradients watched without an optimizer, before DDP has averaged them."""
    model = net()
    together, optimizer = share.together(model), sgd(model)
    pruner = TaylorFOWeightFilterPruner(model, CONVOLUTIONS, sparsifying_training_batches=2)
    pruner.compress()
    train(together, optimizer, share, after=pruner.step)
    return model


def second_order(share: Share) -> nn.Module:
    """The loss is shown to the pruner before it is taken back."""
    model = net()
    together, optimizer = share.together(model), sgd(model)
    pruner = HessianFilterPruner(model, CONVOLUTIONS, optimizer, sparsifying_training_batches=2)
    pruner.compress()
    together.eval()
    for x, y in share.batches(3):
        optimizer.zero_grad()
        loss = functional.cross_entropy(together(x), y)
        pruner.observe(loss)
        loss.backward()
        optimizer.step()
    return model


def epochs(algorithm: str) -> Callable[[Share], nn.Module]:
    """More from epoch to epoch, by what is seen in each."""

    def case(share: Share) -> nn.Module:
        model = net()
        together, optimizer = share.together(model), sgd(model)
        pruner = AGPPruner(model, CONVOLUTIONS, optimizer, num_iterations=3, pruning_algorithm=algorithm)
        pruner.compress()
        for epoch in range(4):
            pruner.update_epoch(epoch)
            train(together, optimizer, share, seed=epoch)
        return model

    return case


def movement(share: Share) -> nn.Module:
    model = net()
    together, optimizer = share.together(model), sgd(model)
    pruner = MovementPruner(model, WEIGHTS, optimizer, warm_up_step=1, cool_down_beginning_step=4)
    pruner.compress()
    train(together, optimizer, share, number=5)
    pruner.finish()
    return model


def slim(share: Share) -> nn.Module:
    model = net()
    together, optimizer = share.together(model), sgd(model)

    def trainer(given: nn.Module, **_: Any) -> None:
        assert given is model
        train(together, optimizer, share)

    entries = [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}]
    SlimPruner(model, entries, optimizer, trainer, sparsifying_training_epochs=2, scale=0.01).compress()
    return model


def admm(share: Share) -> nn.Module:
    model = net()
    together, optimizer = share.together(model), sgd(model)

    def trainer(given: nn.Module, **_: Any) -> None:
        assert given is model
        train(together, optimizer, share)

    ADMMPruner(model, CONVOLUTIONS, trainer, num_iterations=2, epochs_per_iteration=2, row=0.1, optimizer=optimizer
               ).compress()  # fmt: skip
    return model


def lottery(algorithm: str) -> Callable[[Share], nn.Module]:
    def case(share: Share) -> nn.Module:
        model = net()
        together, optimizer = share.together(model), sgd(model)
        entries = [{"sparsity": 0.6, "op_types": ["Conv2d"], "prune_iterations": 2}]
        pruner = LotteryTicketPruner(model, entries, optimizer, pruning_algorithm=algorithm)
        pruner.compress()
        for number in pruner.get_prune_iterations():
            pruner.prune_iteration_start()
            train(together, optimizer, share, seed=number)
        return model

    return case


PRUNERS: dict[str, Callable[[Share], nn.Module]] = {
    "level": at_once(lambda model, entries, dummy_input: LevelPruner(model, entries), WEIGHTS),
    "l1": at_once(L1FilterPruner),
    "l2": at_once(L2FilterPruner),
    "fpgm": at_once(FPGMPruner),
    "taylor": watching(TaylorFOWeightFilterPruner),
    "taylor global": watching(TaylorFOWeightFilterPruner, mode="global"),
    "taylor by step()": told_steps,
    "taylor of activations": watching(TaylorFOActivationFilterPruner),
    "apoz": watching(ActivationAPoZRankFilterPruner),
    "mean activation": watching(ActivationMeanRankFilterPruner),
    "hessian": second_order,
    "agp level": epochs("level"),
    "agp l1": epochs("l1"),
    "agp taylor": epochs("taylorfo"),
    "agp apoz": epochs("apoz"),
    "movement": movement,
    "slim": slim,
    "admm": admm,
    "lottery": lottery("level"),
    "lottery by mean activation": lottery("mean_activation"),
}


# ------------------------------------------------------------------------------------------------------ quantizers


def quantized(kind: Any, **more: Any) -> Callable[[Share], nn.Module]:
    """Quantized, wrapped and trained."""

    def case(share: Share) -> nn.Module:
        model = net()
        # fully_shard puts others in the place of parameters, so that an optimizer can only be made behind it.
        known = None if share.shards else sgd(model, 0.02)
        kind(model, [{**EVERYTHING, **more}], known).compress()
        together = share.together(model)
        train(together, known or sgd(model, 0.02), share, number=4)
        return model

    return case


def calibrated(observer: str) -> Callable[[Share], nn.Module]:
    def case(share: Share) -> nn.Module:
        model = net()
        entry = {**EVERYTHING, "observer": {"input": observer, "output": observer}}
        return ObserverQuantizer(model, [entry]).calibrate(x for x, _ in share.batches(3))

    return case


BINARY = {"quant_bits": 1, "quant_types": ["weight", "output"], "op_types": ["Conv2d"]}

QUANTIZERS: dict[str, Callable[[Share], nn.Module]] = {
    "naive": quantized(lambda model, entries, _: NaiveQuantizer(model, entries), quant_types=["weight"]),
    "qat": quantized(QAT_Quantizer),
    "qat min_max": quantized(QAT_Quantizer, observer={"input": "min_max", "output": "min_max"}),
    "qat delayed": quantized(QAT_Quantizer, quant_start_step=2),
    "lsq": quantized(LsqQuantizer),
    "lsq+": quantized(LsqPlusQuantizer),
    "pact": quantized(PACTQuantizer, quant_types=["weight", "output"]),
    "dorefa": quantized(DoReFaQuantizer),
    "bnn": quantized(BNNQuantizer, **BINARY),
    **{f"calibrated {name}": calibrated(name) for name in ("min_max", "moving_average", "percentile", "kl", "mse")},
}
