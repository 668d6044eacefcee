"""Which layers share channels, as people ask for it: sets of layer names, divisors, repaired masks."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from torchpare.errors import MaskError
from torchpare.files.atomic import atomic_write
from torchpare.files.masks import fit_masks, load_masks
from torchpare.graph import OnConflict, PruningSpace, analyse, reconciled_masks
from torchpare.types import Masks

__all__ = [
    "ChannelDependency",
    "GroupDependency",
    "fix_mask_conflict",
    "write_channel_sets",
    "write_group_divisors",
]


class _Dependency:
    """A question about a model's channels, answered by one analysis of it."""

    def __init__(self, model: nn.Module, dummy_input: Any) -> None:
        self.model = model
        self.space: PruningSpace = analyse(model, dummy_input)


class ChannelDependency(_Dependency):
    """Layers whose output channels live and die together, through residuals, gates or concatenations that meet.

    Args:
        model: any module; it is not changed.
        dummy_input: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Attributes:
        dependency_sets: a list of sets of layer names, in the order of the model; a layer that shares with nobody is a
            set of its own, and a layer that can lose nothing is in none.
        dependency: each layer's set, by name.
    """

    @cached_property
    def dependency(self) -> dict[str, set[str]]:
        """The set of layers that each layer shares channels with, itself included."""
        return {layer: group for group in self.dependency_sets for layer in group}

    @cached_property
    def dependency_sets(self) -> list[set[str]]:
        """Sets of layers that share at least one channel, directly or through others."""
        groups: list[tuple[set[str], set[int]]] = []
        for layer in self.space.producers:
            merged_layers, merged_classes = {layer}, set(self.space.classes(layer).tolist()) - {0}
            if not merged_classes:
                continue  # an output layer, say: nothing of it can go, so it depends on nobody
            apart = []
            for layers, classes in groups:
                if classes & merged_classes:
                    merged_layers |= layers
                    merged_classes |= classes
                else:
                    apart.append((layers, classes))
            groups = [*apart, (merged_layers, merged_classes)]
        order = {layer: place for place, layer in enumerate(self.space.producers)}
        return sorted((layers for layers, _ in groups), key=lambda layers: min(order[layer] for layer in layers))

    def export(self, filepath: str | os.PathLike[str]) -> None:
        """Write the sets as CSV, one a row: ``Set 1,layer,layer,...`` under ``Dependency Set,Layers``."""
        write_channel_sets(filepath, self.dependency_sets)


class GroupDependency(_Dependency):
    """The number that each convolution's output channels must stay divisible by, because of grouped convolutions.

    Args:
        model: any module; it is not changed.
        dummy_input: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Attributes:
        dependency: the divisor by layer name: the least common multiple of the layer's own groups and of the groups of
            every grouped convolution that reads its channels. Depthwise convolutions, whose groups go with their
            channels, ask for nothing.
    """

    @classmethod
    def of_space(cls, model: nn.Module, space: PruningSpace) -> GroupDependency:
        """The same of a model that is analysed already."""
        made = cls.__new__(cls)
        made.model, made.space = model, space
        return made

    @cached_property
    def dependency(self) -> dict[str, int]:
        """The divisor by layer name; 1 where nothing is asked."""
        modules = dict(self.model.named_modules())
        found = ((name, modules.get(name)) for name in self.space.producers)
        convolutions = {name: module for name, module in found if isinstance(module, _ConvNd)}
        divisors = dict.fromkeys(convolutions, 1)
        classes = {name: set(self.space.classes(name).tolist()) - {0} for name in convolutions}
        for name, module in convolutions.items():
            groups = module.groups
            if groups in (1, module.in_channels):
                continue
            divisors[name] = math.lcm(divisors[name], groups)
            read = set(self.space.reads(name).tolist())
            for other, made in classes.items():
                if made & read:
                    divisors[other] = math.lcm(divisors[other], groups)
        return divisors

    @property
    def dependency_sets(self) -> dict[str, int]:
        """The same as `dependency`, under the name that the original toolkit gave it."""
        return self.dependency

    def export(self, filepath: str | os.PathLike[str]) -> None:
        """Write the divisors as CSV under ``Conv Layer Name,Group``."""
        write_group_divisors(filepath, self.dependency)


def fix_mask_conflict(
    masks: Masks | str | os.PathLike[str],
    model: nn.Module,
    dummy_input: Any,
    *,
    on_conflict: OnConflict = "reconcile",
) -> Masks:
    """Masks that can all be followed: a channel is masked only where everything that shares it agrees.

    Args:
        masks: masks by layer and parameter name, or a mask file; not changed.
        model: the model they belong to; not changed.
        dummy_input: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        on_conflict: ``"reconcile"`` keeps what layers disagree about, ``"refuse"`` raises instead.

    Returns:
        New masks of the same parameters. A channel that stays is unmasked as a whole; fine-grained masks are left as
        they are.

    Raises:
        MaskConflictError: if layers disagree and ``on_conflict`` is ``"refuse"``.
        MaskError: if the masks do not fit the model.
    """
    given = fit_masks(load_masks(masks) if isinstance(masks, (str, os.PathLike)) else masks, model)
    if not given:
        message = "there are no masks to fix"
        raise MaskError(message)
    space = analyse(model, dummy_input)
    weights = dict(model.named_parameters(remove_duplicate=False))
    return reconciled_masks(space.decide(given, on_conflict=on_conflict, weights=weights), given)


def write_channel_sets(path: str | os.PathLike[str], sets: Iterable[Iterable[str]]) -> None:
    """Write sets of layers that share channels as CSV, one a row.

    Raises:
        FileError: the file cannot be written.
    """
    rows = [[f"Set {number}", *sorted(layers)] for number, layers in enumerate(sets, start=1)]
    _write_csv(path, [["Dependency Set", "Layers"], *rows])


def write_group_divisors(path: str | os.PathLike[str], divisors: Mapping[str, int]) -> None:
    """Write the divisors of layers as CSV.

    Raises:
        FileError: the file cannot be written.
    """
    _write_csv(path, [["Conv Layer Name", "Group"], *([name, str(divisor)] for name, divisor in divisors.items())])


def _write_csv(path: str | os.PathLike[str], rows: list[list[str]]) -> None:
    with atomic_write(path) as target, target.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
