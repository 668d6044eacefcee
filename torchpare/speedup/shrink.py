"""The knife: carries a plan out on the user's own modules. Classes, names and the model object itself survive."""

# ruff: noqa: SLF001 - parameters and buffers are replaced where nn.Module keeps them

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from torchpare.files.dropped import EMPTY, STRUCTURE
from torchpare.files.leaf_attributes import leaf_attributes
from torchpare.graph.sizes import Attribute, Const
from torchpare.layers import MultiheadAttention, is_stock
from torchpare.layers.parameters import renewed
from torchpare.layers.settings_edits import number_at, settings_copies
from torchpare.layers.tables import table
from torchpare.speedup.shrink_plan import Cut, ShrinkPlan
from torchpare.speedup.transaction import Transaction

__all__ = ["cuts_of_added", "shrink"]


def shrink(
    change: Transaction,
    plan: ShrinkPlan,
    masks: Mapping[str, Tensor],
    added: Collection[str],
    numbers: Mapping[tuple[str, str], float] | None = None,
) -> None:
    """Cut every tensor, edit every number, and leave the record that `torchpare.save` writes.

    Args:
        change: the open transaction on the model, whose masks are detached.
        plan: what to cut.
        masks: by qualified parameter name; masked entries that stay are written as zeros.
        added: names of parameters that folding added.
        numbers: further attributes to change, by module path and name: epsilons of norms.
    """
    modules = dict(change.model.named_modules(remove_duplicate=False))
    change.empty_caches()
    adopted = _adopt(change, plan, modules)
    cuts = {**plan.cuts, **cuts_of_added(plan, added)}
    for places in _tied((*cuts, *masks), modules):
        module, key, _ = places[0]
        old = _held(module, key)
        assert old is not None
        names = [name for *_, name in places]
        cut = next((cuts[name] for name in names if name in cuts), None)
        new = _smaller(old, cut, next((masks[name] for name in names if name in masks), None))
        for module, key, _ in places:
            registered = key in module._parameters or key in module._buffers
            (change.set_tensor if registered else change.set_attribute)(module, key, new)
    _edit_attributes(change, plan, modules)
    numbers = {**(numbers or {}), **_of_bare_norms(plan, modules)}
    for (path, key), number in numbers.items():
        change.set_attribute(modules[path], key, number)
    held = _held_as_numbers(plan, modules)
    for path in dict.fromkeys((*(name.rpartition(".")[0] for name in plan.cuts), *adopted)):
        for key, value in leaf_attributes(modules[path]).items():
            if (id(modules[path]), key) in held:
                numbers[path, key] = held[id(modules[path]), key]
            else:
                change.set_attribute(modules[path], key, value)
    for module in modules.values():
        if isinstance(module, nn.RNNBase):  # recurrent layers keep a second list of their weights, and watch them
            weights = [getattr(module, key) for key in module._flat_weights_names]
            change.set_attribute(module, "_flat_weights", weights)
            change.set_attribute(module, "_flat_weight_refs", [weakref.ref(weight) for weight in weights])
    kept_class = [path for path, module in adopted.items() if not _released(change, module)]
    change.set_attribute(change.model, STRUCTURE, _record(change.model, plan, added, kept_class, numbers))


def _tied(names: Iterable[str], modules: Mapping[str, nn.Module]) -> list[list[tuple[nn.Module, str, str]]]:
    """The places (module, key, name) of each tensor; it has several where it is tied, or a module registered twice.

    No tensor is held: one that is replaced in all its places may go, and its id with it.
    """
    found: dict[int, list[tuple[nn.Module, str, str]]] = {}
    for name in dict.fromkeys(names):
        path, _, key = name.rpartition(".")
        tensor = _held(modules[path], key)
        if tensor is not None:
            found.setdefault(id(tensor), []).append((modules[path], key, name))
    return list(found.values())


def _held(module: nn.Module, key: str) -> Tensor | None:
    """A parameter, a buffer, or a table that a module keeps beside them."""
    registered = module._parameters.get(key)
    if registered is None:
        registered = module._buffers.get(key)
    return table(module, key) if registered is None else registered


def _of_bare_norms(plan: ShrinkPlan, modules: Mapping[str, nn.Module]) -> dict[tuple[str, str], int]:
    """The channels that norms without parameters remember: nothing of theirs is cut that could tell them."""
    found = {}
    values = plan.removal.space.program.values
    for path, uid in plan.removal.space.program.module_outputs:
        module = modules.get(path)
        key = "num_channels" if isinstance(module, nn.GroupNorm) else "num_features"
        bare = isinstance(module, (nn.GroupNorm, _NormBase)) and not leaf_attributes(module)
        if bare and len(values[uid].shape) > 1 and values[uid].shape[1] == getattr(module, key):
            found[path, key] = plan.removal.shape(uid)[1]
    return {place: number for place, number in found.items() if number != getattr(modules[place[0]], place[1])}


def _held_as_numbers(plan: ShrinkPlan, modules: Mapping[str, nn.Module]) -> dict[tuple[int, str], int]:
    """Sizes that a layer remembers and the model's code takes as numbers (``layer.embedding_dim ** 0.5``).

    The function would change with them, so they stay, although the layer's parameters do not.
    """
    space = plan.removal.space
    held = [(left, right.value) for left, right, equal in space.comparisons if equal and isinstance(right, Const)]
    held += [(scale.size, plan.removal.size(scale.size)) for scale, _ in space.scale_makers]
    return {
        (id(modules[size.module]), size.name): value
        for size, value in held
        if isinstance(size, Attribute) and size.module in modules
    }


def _adopt(change: Transaction, plan: ShrinkPlan, modules: Mapping[str, nn.Module]) -> dict[str, MultiheadAttention]:
    """Give every attention that the plan touches the class that can have any heads; by path, those that have it now."""
    touched = {name.rpartition(".")[0] for name in plan.cuts} | set(plan.attributes)
    found: dict[str, MultiheadAttention] = {}
    for path, module in modules.items():
        if type(module) is nn.MultiheadAttention and touched & {path, f"{path}.out_proj" if path else "out_proj"}:
            change.adopt_attention(module)
        if isinstance(module, MultiheadAttention):
            found[path] = module
    return found


def _released(change: Transaction, module: MultiheadAttention) -> bool:
    if isinstance(module, MultiheadAttention) and is_stock(module):
        change.release_attention(module)
    return not isinstance(module, MultiheadAttention)


def _edit_attributes(change: Transaction, plan: ShrinkPlan, modules: Mapping[str, nn.Module]) -> None:
    """New numbers of modules, and of settings objects, of which the model gets copies of its own."""
    settings: dict[tuple[str, str], Any] = {}
    for path, values in plan.attributes.items():
        for key, value in values.items():
            new = type(number_at(modules[path], key))(value) if isinstance(value, list) else value
            if "." in key:
                settings[path, key] = new
            else:
                change.set_attribute(modules[path], key, new)
    for module, key, value in settings_copies(change.model, settings):
        change.set_attribute(module, key, value)


def cuts_of_added(plan: ShrinkPlan, added: Collection[str]) -> dict[str, Cut]:
    """A bias that folding added loses what the rows of its weight lose."""
    cuts = {}
    for name in added:
        weight = plan.cuts.get(name.removesuffix("bias") + "weight")
        if weight is not None:
            rows = weight.axes[0].reshape(-1)
            cuts[name] = Cut((rows,), weight.before[:1], weight.after[:1])
    return cuts


def _smaller(old: Tensor, cut: Cut | None, mask: Tensor | None) -> Tensor:
    """What stays of a tensor, masked; a parameter stays one, with its gradient cut alike."""
    with torch.no_grad():
        new = old.detach()
        if cut is not None:
            new = cut.apply(new)
            mask = None if mask is None else cut.apply_to_mask(mask)
        if mask is not None and not mask.all():
            new = new.masked_fill(~mask.to(old.device), 0)
        if not isinstance(old, nn.Parameter):
            return new
        return renewed(old, new, lambda grad: grad if cut is None else cut.apply(grad))


def _record(
    model: nn.Module,
    plan: ShrinkPlan,
    added: Collection[str],
    adopted: Collection[str],
    numbers: Mapping[tuple[str, str], float],
) -> dict[str, Any]:
    """The structure record, joined to the one of an earlier shrink: kept indices always count in the first model."""
    before = getattr(model, STRUCTURE, None) or EMPTY
    attributes = {path: dict(values) for path, values in before["attributes"].items()}
    for path, values in plan.attributes.items():
        attributes.setdefault(path, {}).update(values)
    for (path, key), number in numbers.items():
        attributes.setdefault(path, {})[key] = number
    modules = dict(model.named_modules(remove_duplicate=False))
    for path, values in attributes.items():
        own = leaf_attributes(modules[path]) if path in modules else {}
        for key in own.keys() & values.keys():  # told anew: an earlier shrink may have said otherwise
            now = getattr(modules[path], key)
            values[key] = list(now) if isinstance(now, tuple) else now
        if path not in adopted:  # a stock attention has one width of head
            values.pop("value_dim", None)
    kept = {name: dict(axes) for name, axes in before["kept"].items()}
    for name, cut in plan.cuts.items():
        axes = kept.setdefault(name, {})
        for axis in range(len(cut.before)):
            indices = cut.indices(axis)
            if indices is None or (str(axis) not in axes and cut.axes[axis].all()):
                continue
            earlier = axes.get(str(axis))
            axes[str(axis)] = indices if earlier is None else [earlier[index] for index in indices]
    return {
        **({"dropped": before["dropped"]} if "dropped" in before else {}),
        "version": 1,
        "attributes": attributes,
        "added_parameters": sorted({*before["added_parameters"], *added}),
        "adopted": sorted({*before.get("adopted", ()), *adopted}),
        "kept": {name: axes for name, axes in kept.items() if axes},
    }
