"""What every pruner does; a new algorithm is a subclass that says which layers it handles and how it scores them.

A pruner's constructor only reads and checks. ``compress()`` masks the model, which then trains and evaluates like any
other; ``export_model()`` writes files and leaves it trainable. The masks live in the model, not in the pruner.
"""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchpare.attach import Compressor, attach_masks, detach, is_attached, masks_of
from torchpare.attach.loading import masked_names, open_masks
from torchpare.config import Entry, Target, read_entries, select
from torchpare.errors import ConfigError, MaskError
from torchpare.graph import PruningSpace, Removal, analyse, group_masks
from torchpare.numerics import Reduction, Unit, drop_count, select_common, select_global
from torchpare.numerics.allocation import rounded
from torchpare.pruning.export import export, load_state
from torchpare.pruning.forms import form_of
from torchpare.pruning.granularity import check_mode, most_of, unit_of
from torchpare.pruning.groups import complete_masks, complete_on_first_forward, forget_first_forward
from torchpare.pruning.scoring import scores_of
from torchpare.pruning.structures import Structures, find_structures
from torchpare.types import Masks

__all__ = ["Pruner"]

log = logging.getLogger(__name__)


class Pruner(Compressor):
    """Prunes the layers that a ``config_list`` selects, each to its sparsity, by the scores of a subclass.

    Args:
        model: what to prune. The constructor only reads it.
        config_list: a list of dicts; see :class:`torchpare.config.Entry`. Entries of pruners of filters may say
            ``structures``: then whole structures go (heads, MLP widths, ...), each worth what its filters are by the
            pruner's criterion, and the list is read as :func:`torchpare.plan` reads it.
        optimizer: accepted because scripts pass it; masks need no help from it. Where scripts of a later version pass
            ``dependency_aware`` and ``dummy_input`` in third and fourth place, they are told apart by their types.
        dependency_aware: choose channels together where layers can only lose them together, such as across a residual.
            Needs ``dummy_input``, and a pruner of filters.
        mode: how layers share what goes. ``"normal"``: each loses its own share. ``"global"``: the lowest scores of
            all layers go, whichever these are, and each keeps one, or what its entry's ``max_sparsity_per_layer``
            leaves it; then all entries ask for one sparsity.
            ``"dependency_aware"``: as the argument. ``"balanced"``: each group of a grouped convolution loses as many
            filters; of single weights, each block of ``balance_gran`` as many. Scripts of a later version pass it in
            third place.
        balance_gran: the sizes of those blocks, along the last axes of the weight.
        group_score: with ``dependency_aware`` or ``structures``, what a channel or head is worth that several filters
            make: the ``"sum"`` of their scores, their ``"mean"`` or their ``"max"``.
        dummy_input: an example input (a tensor, a tuple of positional arguments, or a dict of keyword arguments). With
            it, ``compress()`` masks whole groups of coupled channels at once; without it, the first forward pass does,
            which ``torch.compile(fullgraph=True)`` and strict ``torch.export`` can only follow from the second on.

    Raises:
        ConfigError: the config_list or another argument cannot be used. The model is untouched.
    """

    supported: ClassVar[tuple[type[nn.Module], ...]]
    """The layer types that the algorithm can handle when they are named."""

    default: ClassVar[tuple[type[nn.Module], ...] | None] = None
    """What ``op_types: ['default']`` stands for; all of ``supported`` if None."""

    structured: ClassVar[bool]
    """True if whole filters go, False if single weights do."""

    shared: ClassVar[bool] = False
    """True if the sparsity that entries ask for is one share of all layers together, whatever the mode."""

    entry: ClassVar[type[Entry]] = Entry
    """What its ``config_list`` may say."""

    @property
    def takes_structures(self) -> bool:
        """Whether its entries may say ``structures``: those of pruners of filters may, if each layer has its share."""
        return self.structured and not self.shared

    def __init__(
        self,
        model: nn.Module,
        config_list: Sequence[Mapping[str, Any]],
        optimizer: Optimizer | bool | str | None = None,
        dependency_aware: Any = False,
        dummy_input: Any = None,
        *,
        mode: str = "normal",
        balance_gran: Sequence[int] | None = None,
        group_score: Reduction = "sum",
    ) -> None:
        name = type(self).__name__
        if not isinstance(model, nn.Module):
            raise ConfigError(f"{name}: model is a {type(model).__name__}, not a torch.nn.Module")
        form = form_of(name, self.structured, optimizer, dependency_aware, dummy_input, mode, balance_gran)
        self.mode, self.balance_gran, self.dummy_input = form.mode, form.balance_gran, form.dummy_input
        self._structures: Structures | None = None
        self.targets = self.find_targets(model, config_list)
        self.group_score: Reduction = group_score
        shared = self.shared or self.mode == "global"
        check_mode(name, self.targets, self.structured, self.mode, self.balance_gran, group_score, shared)
        self.bound_model = model
        self.config_list = config_list
        self.optimizer = form.optimizer
        self.dependency_aware = form.dependency_aware
        self._compressed = False
        self._space: PruningSpace | None = None
        self._unwrapped: Masks = {}
        self._was_incomplete = False

    def find_targets(self, model: nn.Module, config_list: Any) -> dict[str, Target]:
        """The layers that the ``config_list`` selects, or that make the structures that it reaches.

        Raises:
            ConfigError: it cannot be used.
            CaptureError: it asks for structures, and the model cannot be run on ``dummy_input``.
        """
        name = type(self).__name__
        if self.takes_structures and (entries := self._structured_entries(config_list)):
            self._structures = find_structures(name, model, entries, self.dummy_input, self.supported)
            return self._structures.targets
        targets = select(
            model, config_list, supported=self.supported, default=self.default, algorithm=name, kind=self.entry
        )
        for target in targets.values():
            _check_weight(target, name)
        self._structures = None  # of a config_list before this one
        return targets

    def _structured_entries(self, config_list: Any) -> tuple[Any, ...]:
        """The entries, if any of them says ``structures``; none otherwise."""
        entries = read_entries(config_list, self.entry)
        return entries if any(entry.structures is not None for entry in entries) else ()

    @abstractmethod
    def score(self, weight: Tensor) -> Tensor:
        """How important each unit of one layer is, by its weight alone; larger stays.

        Args:
            weight: of a pruner of filters ``(O, ...)``, the output axis first; of single weights, the weight as it is.

        Returns:
            ``(O,)`` for filters, the weight's shape for single weights; no NaN.
        """

    def score_of(self, target: Target, weight: Tensor) -> Tensor:
        """How important each unit of a layer is: its `score`, unless an algorithm knows more than the weight.

        Args:
            target: the layer.
            weight: as for `score`.
        """
        del target
        return self.score(weight)

    def sparsities(self) -> dict[str, float]:
        """What is to be pruned now, by layer: what the ``config_list`` asks for, or, of a schedule, a part of it."""
        return {name: target.sparsity for name, target in self.targets.items()}

    def select(self, scores: Mapping[str, Tensor], sparsities: Mapping[str, float]) -> dict[str, Tensor]:
        """Which units of each layer stay (bool, of the scores' shapes): the best, by `mode`."""
        if (self.mode == "global" or self.shared) and scores:
            return self._select_together(scores, next(iter(sparsities.values())))
        return {name: self._unit(self.targets[name]).keep(own, sparsities[name]) for name, own in scores.items()}

    def _select_together(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        keep = select_global(scores, sparsity, {name: most_of(self.targets[name]) for name in scores})
        units = sum(own.numel() for own in keep.values())
        gone, asked = (sum(int((~own).sum()) for own in keep.values()), drop_count(units, sparsity))
        if gone < asked:
            log.warning("%s: %d of %d are asked to go, and %d do: each layer keeps one, and what "
                        "max_sparsity_per_layer leaves it", type(self).__name__, asked, units, gone)  # fmt: skip
        return keep

    def begin(self) -> None:
        """What ``compress()`` does: mask at once, unless an algorithm has to learn something first."""
        self.mask()

    # ------------------------------------------------------------------------------------------------- the user's loop

    def compress(self) -> nn.Module:
        """Mask the model and return it, the same object. A second call changes nothing.

        Raises:
            MaskError: a layer's weights hold NaN or infinities, so that nothing can be said about their importance.
            CaptureError: the model does not run on ``dummy_input``. In each case the model is as it was.
        """
        if not self._compressed:
            if self._structures is not None:
                self._space = self._structures.space
            elif self.structured and self.dummy_input is not None:
                self._space = analyse(self.bound_model, self.dummy_input)
            self.begin()
            self._compressed = True
        return self.bound_model

    def mask(self) -> None:
        """Mask the model by today's scores and sparsities; what is gone already stays gone.

        Raises:
            MaskError, CaptureError: as ``compress()``; the model is as it was.
        """
        if self._structures is not None:
            existing = masks_of(self.bound_model)
            scores = {name: self._scores(target, existing) for name, target in self.targets.items()}
            attach_masks(self.bound_model, group_masks(self._removal(self._structures, scores), existing))
            return
        masks = self._own_masks(self._space if self.dependency_aware else None)
        if self._space is not None:
            masks = complete_masks(self._space, masks, self.bound_model)
        attach_masks(self.bound_model, masks)
        if self.structured and self._space is None:
            complete_on_first_forward(self.bound_model)

    @property
    def layers(self) -> list[str]:
        """The names of the layers that the ``config_list`` selects."""
        return list(self.targets)

    @property
    def waiting(self) -> str:
        """What the pruner waits for before there are masks; empty where it does not wait, as here."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        """What a run that is resumed needs beside the model's own state, which holds the masks."""
        return {**super().state_dict(), "masked": masked_names(self.bound_model)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a run was when it was saved. Call ``compress()`` before, and load the model's state too.

        ``load_model_state_dict`` takes over masks that a fresh model has not yet, as at the start of a schedule.
        Masks that the saved model did not have, because a fresh one chooses other channels at first, are opened.

        Args:
            state: what ``state_dict()`` gave, of the same algorithm with the same ``config_list``.

        Raises:
            ConfigError: as every compressor.
        """
        super().load_state_dict(state)
        open_masks(self.bound_model, but=state.get("masked", {}))

    # --------------------------------------------------------------------------------------------- what came out of it

    def get_masks(self) -> Masks:
        """Copies of the masks now in the model, of whole groups where these are known; as in ``mask.pth``."""
        return masks_of(self.bound_model)

    def get_pruned_weights(self, dim: int = 0) -> dict[str, tuple[int, int]]:
        """Log and return what is left of each selected layer along one axis of its weight.

        Args:
            dim: the axis: 0 counts filters of a convolution, 1 its input channels.

        Returns:
            by layer name ``(remaining, total)``: along ``dim``, how many slices have anything left.
        """
        masks, left = masks_of(self.bound_model), {}
        for name, target in self.targets.items():
            weight = target.module._parameters["weight"]  # noqa: SLF001 - its shape; reading .weight would multiply
            assert weight is not None
            mask = masks.get(name, {}).get("weight")
            kept = torch.ones(weight.shape, dtype=torch.bool) if mask is None else mask.expand(weight.shape)
            along = kept.movedim(dim, 0).flatten(1).any(dim=1) if kept.dim() > 1 else kept
            left[name] = (int(along.sum()), along.numel())
            log.info("%s: %d of %d left along dim %d", name, *left[name], dim)
        return left

    show_pruned_weights = get_pruned_weights

    def export_model(
        self,
        model_path: str | os.PathLike[str],
        mask_path: str | os.PathLike[str] | None = None,
        onnx_path: str | os.PathLike[str] | None = None,
        input_shape: Sequence[int] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Write the masked model to files; the model stays compressed and trainable.

        Args:
            model_path: a plain state dict with the original keys and masked values exactly zero;
                ``torch.load(path, weights_only=True)`` gives it to the original class.
            mask_path: the masks, for ``apply_compression_results`` and ``ModelSpeedup``.
            onnx_path: the model with zeros written in; needs ``input_shape``, or a pruner made with ``dummy_input``.
            input_shape: of one input, the batch included, such as ``[1, 1, 28, 28]``.
            device: where the ONNX export runs; the model's own if not given.

        Raises:
            MaskError: ``compress()`` was not called, so there is nothing to export.
            ExportError: ``onnx_path`` was given and there is no input to trace with, or the export failed.
            FileError: a file cannot be written. A file that cannot be completed leaves the old one in its place.
        """
        if not (is_attached(self.bound_model) or self._unwrapped):
            remedy = f"{self.waiting}: train on" if self.waiting else "call compress() first"
            raise MaskError(f"the model has no masks to export: {remedy}")
        export(self.bound_model, model_path, mask_path, onnx_path, input_shape, device, self.dummy_input,
               masks=self._unwrapped)  # fmt: skip

    def load_model_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load a state into the model; the masks stay, and those that the state holds are taken over.

        Args:
            state: a plain state dict (dense, or exported), or one of a masked model.

        Raises:
            RuntimeError: as ``nn.Module.load_state_dict``, whose keys and shapes must match.
        """
        load_state(self.bound_model, state)

    # ------------------------------------------------------------------------------------- what scripts for NNI expect

    def get_modules_to_compress(self) -> list[tuple[Target, dict[str, Any]]]:
        """The selected layers (with ``name``, ``module``, ``type``) and the entry that won for each, as a dict."""
        return [(target, target.entry.model_dump(exclude_defaults=True)) for target in self.targets.values()]

    def _unwrap_model(self) -> None:
        """Plain layers with the zeros written in; scripts say this before ``ModelSpeedup``. Nothing to do if plain."""
        if is_attached(self.bound_model):
            self._unwrapped = masks_of(self.bound_model)
            self._was_incomplete = forget_first_forward(self.bound_model)
            detach(self.bound_model, bake=True)

    def _wrap_model(self) -> None:
        """Undo :meth:`_unwrap_model`, but for the dense values behind the zeros."""
        if self._unwrapped:
            attach_masks(self.bound_model, self._unwrapped)
            self._unwrapped = {}
            if self._was_incomplete:
                complete_on_first_forward(self.bound_model)

    # ------------------------------------------------------------------------------------------------- how masks arise

    def _own_masks(self, space: PruningSpace | None) -> Masks:
        """The masks of the selected layers, from their scores; with a space, chosen together with coupled layers."""
        existing = masks_of(self.bound_model)
        scores = {name: self._scores(target, existing) for name, target in self.targets.items()}
        keep = self._choose(scores, space)
        masks: Masks = {}
        for name, target in self.targets.items():
            parameters = target.module._parameters  # noqa: SLF001 - the dense ones: only their shapes are read
            weight = parameters["weight"]
            assert weight is not None
            masks[name] = self._unit(target).unfold(keep[name], weight, parameters.get("bias"))
        return _merged(existing, masks)

    def _choose(self, scores: Mapping[str, Tensor], space: PruningSpace | None) -> dict[str, Tensor]:
        """Which units of each layer stay; with a space, chosen together with coupled layers."""
        if self._structures is not None:
            gone = self._removal(self._structures, scores).gone
            classes = {name: self._structures.space.classes(name) for name in scores}
            return {name: torch.from_numpy(~gone[own]).to(scores[name].device) for name, own in classes.items()}
        sparsities = self.sparsities()
        for name, target in self.targets.items():
            if target.entry.round_to is not None:
                sparsities[name] = rounded(sparsities[name], len(scores[name]), target.entry.round_to)
        if space is None:
            return self.select(scores, sparsities)
        channels = {name: space.channels(name) for name in space.producers}
        classes = {name: own.classes for name, own in channels.items()}
        cells = {name: own.cells for name, own in channels.items()}
        return select_common(scores, sparsities, classes, cells, self.group_score)

    def _removal(self, structures: Structures, scores: Mapping[str, Tensor]) -> Removal:
        together = self.mode == "global"
        return structures.decide(scores, self.sparsities(), together=together, reduction=self.group_score)

    def _scores(self, target: Target, existing: Masks) -> Tensor:
        mask = existing.get(target.name, {}).get("weight")
        return scores_of(
            type(self).__name__, target, self._unit(target), self.structured, self.score_of, mask, self.targets.values()
        )

    def _unit(self, target: Target) -> Unit:
        return unit_of(target, self.structured, self.mode, self.balance_gran)


def _check_weight(target: Target, algorithm: str) -> None:
    weight = target.module._parameters.get("weight")  # noqa: SLF001 - whether it is a parameter, not only readable
    if weight is None:
        raise ConfigError(
            f"{target.name}, a {target.type}, has no parameter 'weight' for {algorithm} to prune: if it is "
            "parametrized or weight-normalised, remove that first (torch.nn.utils.parametrize.remove_parametrizations, "
            "remove_weight_norm, remove_spectral_norm), or take it as it is with "
            "torchpare.plan(model, config_list, inputs).apply(); otherwise exclude the layer"
        )
    if isinstance(weight, nn.UninitializedParameter):
        raise ConfigError(f"{target.name}, a {target.type}, has no shape yet: run the model once before pruning it")


def _merged(masks: Masks, more: Masks) -> Masks:
    """Both masks of each parameter: what either prunes is pruned."""
    merged = {layer: dict(own) for layer, own in masks.items()}
    for layer, own in more.items():
        known = merged.setdefault(layer, {})
        for name, mask in own.items():
            known[name] = mask & known[name] if name in known else mask
    return merged
