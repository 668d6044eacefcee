"""Whole attention heads, of any attention that the analysis of the model finds: no lists of names are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchpare.attach import attach_masks, masks_of
from torchpare.attach.activation_watch import Inputs
from torchpare.attach.steps import Steps
from torchpare.config import Entry, Target, read_entries, type_name
from torchpare.errors import ConfigError, MaskError
from torchpare.graph import PruningSpace, Removal, group_masks
from torchpare.graph.choice import atom_scores, choose
from torchpare.graph.structures import Group, groups_of
from torchpare.pruning.base import Pruner
from torchpare.pruning.structures import shares_over_all
from torchpare.pruning.training import checked_batches, training_of

__all__ = ["TransformerHeadPruner"]

_CRITERIA = ("l1_weight", "l2_weight", "l1_activation", "l2_activation", "taylorfo")


class TransformerHeadPruner(Pruner):
    """Masks whole attention heads: their rows in the layers that make queries, keys and values, and what reads them.

    Heads are found by following the model's run on ``dummy_input``: separate, fused and grouped-query projections,
    ``nn.MultiheadAttention``, any class. Heads that share keys and values go together.

    Michel, Levy, Neubig, "Are Sixteen Heads Really Better than One?", NeurIPS 2019, rank heads by how much the loss
    changes with a gate on a head (equation 2). ``"taylorfo"`` asks that of the weights that make and read a head
    instead, as Molchanov et al., CVPR 2019, do for filters; by weights, Li et al., ICLR 2017, summed over a head.

    Args:
        model: what to prune. The constructor only reads it.
        config_list: entries with a ``sparsity``, the share of heads. An entry reaches an attention if its ``op_names``
            or ``op_types`` reach all layers that make its heads, or what contains them; with ``structures: ["heads"]``
            and neither, all attentions. Later entries win.
        head_hidden_dim: the width of a head, accepted for older scripts: it is found.
        attention_name_groups: lists of the names of the layers of one attention each, for older scripts: attentions of
            which no layer is named are left alone.
        dummy_input: an example input; needed.
        ranking_criterion: ``"l1_weight"`` or ``"l2_weight"``, the size of the weights that make a head, biases aside;
            ``"l1_activation"`` or ``"l2_activation"``, the size of what a head passes on; ``"taylorfo"``, the squared
            products of weights and gradients, before each optimizer step. All are added up as they are.
        global_sort: rank the heads of all attentions together; each keeps one, or what its entry's
            ``max_sparsity_per_layer`` leaves it. Then all entries ask for one sparsity.
        num_iterations: how often to prune, more each time.
        epochs_per_iteration: epochs of the trainer between.
        optimizer: steps the weights.
        trainer: ``trainer(model, optimizer=..., criterion=..., epoch=...)`` trains for one epoch.
        criterion: handed to the trainer.
        forward_runner: ``forward_runner(model)`` runs the model on data: all that the activation criteria need.

    Raises:
        ConfigError: as every pruner; or without an example input, or what a criterion needs to see data.
    """

    supported = (nn.Module,)
    structured = True

    def __init__(  # noqa: PLR0913, PLR0917 - the arguments of the older toolkit
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        head_hidden_dim: int | None = None,
        attention_name_groups: Sequence[Sequence[str]] | None = None,
        dummy_input: Any = None,
        ranking_criterion: str = "l1_weight",
        global_sort: bool = False,
        num_iterations: int = 1,
        epochs_per_iteration: int = 1,
        optimizer: Optimizer | None = None,
        trainer: Callable[..., Any] | None = None,
        criterion: Any = None,
        forward_runner: Callable[[nn.Module], Any] | None = None,
    ) -> None:
        name = "TransformerHeadPruner"
        del head_hidden_dim
        if dummy_input is None:
            raise ConfigError(f"{name} finds heads by running the model: give dummy_input, an example input")
        if ranking_criterion not in _CRITERIA:
            raise ConfigError(f"{name}: ranking_criterion is {ranking_criterion!r}; it is one of "
                              f"{', '.join(map(repr, _CRITERIA))}")  # fmt: skip
        super().__init__(model, config_list, optimizer, False, dummy_input)
        self.training = training_of(name, trainer, optimizer, criterion)
        if ranking_criterion == "taylorfo" and self.training is None:
            raise ConfigError(f"{name}: 'taylorfo' looks at gradients: give a trainer and its optimizer")
        if ranking_criterion.endswith("activation") and self.training is None and forward_runner is None:
            raise ConfigError(f"{name}: {ranking_criterion!r} looks at data: give a trainer or a forward_runner")
        self.entries = read_entries(config_list)
        self.named = None if attention_name_groups is None else _names(model, attention_name_groups)
        self.ranking_criterion = ranking_criterion
        self.global_sort = global_sort
        self.iterations = checked_batches(name, "num_iterations", num_iterations)
        self.epochs_per_iteration = checked_batches(name, "epochs_per_iteration", epochs_per_iteration)
        self.forward_runner = forward_runner
        self.attentions: tuple[tuple[str, ...], ...] = ()
        """The layers that make the heads of each attention that was pruned; there are some after ``compress()``."""

    def find_targets(self, model: nn.Module, config_list: Any) -> dict[str, Target]:
        """No layers of their own: heads are found in ``compress()``. Names and types are checked.

        Raises:
            ConfigError: an entry names what is not there.
        """
        names = {name for name, _ in model.named_modules(remove_duplicate=False)}
        types = {type_name(module) for module in model.modules()}
        for at, entry in enumerate(read_entries(config_list)):
            for key, given, known in (("op_names", entry.op_names, names), ("op_types", entry.op_types, types)):
                for index, item in enumerate(given or ()):
                    if item not in known and item != "default":
                        near = get_close_matches(item, known, n=1)
                        hint = f"; did you mean {near[0]!r}?" if near else ""
                        raise ConfigError(f"config_list[{at}]['{key}'][{index}]: {item!r} is not in "
                                          f"{type_name(model)}{hint}")  # fmt: skip
            if entry.structures not in (None, ("heads",)):
                raise ConfigError(f"config_list[{at}]['structures']: TransformerHeadPruner prunes ['heads']; "
                                  "for others use torchpare.plan")  # fmt: skip
            for key in ("granularity", "round_to"):
                if getattr(entry, key) is not None:
                    raise ConfigError(f"config_list[{at}][{key!r}]: TransformerHeadPruner prunes whole heads, by "
                                      "their share: leave it out")  # fmt: skip
        return {}

    def score(self, weight: Tensor) -> Tensor:
        """Not used: heads are scored over several layers.

        Raises:
            MaskError: always.
        """
        raise MaskError(f"TransformerHeadPruner scores heads, not the {tuple(weight.shape)} weight of one layer")

    def begin(self) -> None:
        """Find the heads, and prune them by turns with training where there is a trainer."""
        assert self._space is not None
        groups = [group for group in groups_of(self._space) if group.kind == "heads"]
        entries = {group.variable: entry for group in groups if (entry := self._entry_of(group)) is not None}
        shares = {variable: entry.sparsity or 0.0 for variable, entry in entries.items()}
        most = {variable: _most(entry, self.global_sort) for variable, entry in entries.items()}
        chosen = [group for group in groups if group.variable in shares]
        if not chosen:
            none = "none that could lose a head (where code says how many there are, they all stay)"
            there = "; ".join(", ".join(group.layers) for group in groups) or none
            raise ConfigError(f"TransformerHeadPruner: the config_list reaches no attention. There are: {there}")
        if self.global_sort and len(set(shares.values())) > 1:
            raise ConfigError("TransformerHeadPruner: global_sort ranks all heads together: give one sparsity")
        self.attentions = tuple(tuple(group.layers) for group in chosen)
        for turn in range(1, self.iterations + 1):
            scores = self._scores_of(self._space, chosen, turn)
            part = {variable: share * turn / self.iterations for variable, share in shares.items()}
            if self.global_sort:
                part = shares_over_all(self._space, chosen, scores, next(iter(part.values())), most)
            self._mask(choose(self._space, groups, part, scores))

    def _mask(self, removal: Removal) -> None:
        attach_masks(self.bound_model, group_masks(removal, masks_of(self.bound_model)))

    def _entry_of(self, group: Group) -> Entry | None:
        """The last entry that reaches an attention; None where none does, or it is excluded."""
        found = None
        for entry in self.entries:
            if all(self._reaches(entry, layer) for layer in group.layers):
                found = None if entry.exclude else entry
        named = self.named is None or any(layer in self.named for layer in group.layers)
        return found if named else None

    def _reaches(self, entry: Entry, layer: str) -> bool:
        inside = entry.op_names is None or any(
            layer == name or layer.startswith(f"{name}.") or not name for name in entry.op_names
        )
        kind = type_name(self.bound_model.get_submodule(layer))
        return inside and (entry.op_types is None or kind in entry.op_types or "default" in entry.op_types)

    # ------------------------------------------------------------------------------------------------------ what counts

    def _scores_of(self, space: PruningSpace, groups: Sequence[Group], turn: int) -> np.ndarray:
        makers = _parameters(space, groups, makes=True)
        readers = _parameters(space, groups, makes=False)
        if self.ranking_criterion == "taylorfo":
            return atom_scores(space, self._products([*makers, *readers], turn), p=1, evenly=False)
        if self.ranking_criterion.endswith("activation"):
            return atom_scores(space, self._passed_on(readers, turn), p=1, evenly=False)
        self._train(turn)
        matrices = [name for name in makers if len(space.values[name].shape) > 1]  # as of filters: no biases
        return atom_scores(space, self._weights(matrices), p=int(self.ranking_criterion[1]), evenly=False)

    def _weights(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Parameters as the model uses them: what is masked is zero, and goes first."""
        weights = dict(self.bound_model.named_parameters(remove_duplicate=False))
        masks = {f"{layer}.{key}" if layer else key: mask for layer, own in masks_of(self.bound_model).items()
                 for key, mask in own.items()}  # fmt: skip
        return {name: weights[name].detach() * masks[name] if name in masks else weights[name] for name in names}

    def _products(self, names: Sequence[str], turn: int) -> dict[str, Tensor]:
        """The squared products of weights and gradients, added up over the steps of training."""
        assert self.training is not None
        sums: dict[str, Tensor] = {}

        @torch.no_grad()
        def add() -> None:
            weights = self._weights(names)
            for name, parameter in self.bound_model.named_parameters(remove_duplicate=False):
                if name in weights and parameter.grad is not None:
                    product = (weights[name].double() * parameter.grad.double()).square()
                    sums[name] = sums[name] + product if name in sums else product

        steps = Steps(self.training.optimizer, before=add)
        try:
            self._train(turn)
        finally:
            steps.remove()
        if not sums:
            raise MaskError("TransformerHeadPruner: the trainer took no step with gradients of the attentions")
        return sums

    def _passed_on(self, names: Sequence[str], turn: int) -> dict[str, Tensor]:
        """Of each weight that reads heads, the size of what it reads, spread over all its rows."""
        power = int(self.ranking_criterion[1])
        layers = {name: self.bound_model.get_submodule(name.rpartition(".")[0]) for name in names}
        watch = Inputs(layers, lambda x: x.abs().double().pow(power).flatten(0, -2).sum(0))
        try:
            self._train(turn)
            if self.forward_runner is not None:
                self.forward_runner(self.bound_model)
        finally:
            watch.remove()
        weights = dict(self.bound_model.named_parameters(remove_duplicate=False))
        found = {}
        for name, seen in watch.sums.items():
            axis = next(at for at, size in enumerate(reversed(weights[name].shape)) if size == len(seen))
            spread = seen * (len(seen) / weights[name].numel())
            found[name] = (spread if axis == 0 else spread.unsqueeze(1)).expand(weights[name].shape)
        unseen = [name for name in names if name not in found]
        if unseen:
            layer = unseen[0].rpartition(".")[0]
            raise MaskError(f"TransformerHeadPruner: no data passed through {layer}, which reads heads (torch's own "
                            "attention does not call it): rank by weights or by 'taylorfo'")  # fmt: skip
        return found

    def _train(self, turn: int) -> None:
        if self.training is None:
            return
        first = (turn - 1) * self.epochs_per_iteration
        for epoch in self.training.epochs(
            self.bound_model, self.epochs_per_iteration, "TransformerHeadPruner: training"
        ):
            self.training.run(self.bound_model, first + epoch)


def _parameters(space: PruningSpace, groups: Sequence[Group], *, makes: bool) -> list[str]:
    """The weights that make these heads, or that read them."""
    found = []
    for group in groups:
        for name, _ in group.members:
            value = space.values[name]
            wanted = group.makers if makes else group.readers
            if value.kind == "parameter" and value.uid in wanted and (makes or len(value.shape) > 1):
                found.append(name)
    return list(dict.fromkeys(found))


def _names(model: nn.Module, groups: Sequence[Sequence[str]]) -> set[str]:
    """The names of the layers of attentions, all of which there are."""
    known = {name for name, _ in model.named_modules(remove_duplicate=False)}
    for at, group in enumerate(groups):
        for index, name in enumerate(group):
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ConfigError(f"TransformerHeadPruner: attention_name_groups[{at}][{index}]: {name!r} names no "
                                  f"layer of {type_name(model)}{hint}")  # fmt: skip
    return {name for group in groups for name in group}


def _most(entry: Entry, shared: bool) -> float:
    """The largest share of its heads that an attention may lose."""
    cap = 1.0 if entry.max_sparsity_per_layer is None else entry.max_sparsity_per_layer
    if not shared and cap < (entry.sparsity or 0.0):
        raise ConfigError(f"TransformerHeadPruner: an entry asks for a sparsity of {entry.sparsity:g}, and its "
                          f"max_sparsity_per_layer allows {cap:g}: ask for less, or allow more")  # fmt: skip
    return cap
