"""The call that the original toolkit's tutorial ends with: the masked model becomes a small one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_args

import torch
from torch import Tensor, nn

from torchpare.attach import masks_of
from torchpare.errors import ProofError, ShrinkError
from torchpare.graph import OnConflict, PruningSpace, Removal, analyse, group_masks
from torchpare.graph.garbage import paused_garbage_collection
from torchpare.numerics.shards import refuse_sharded
from torchpare.speedup.attention_scales import scale_queries
from torchpare.speedup.carried import find_watches
from torchpare.speedup.changes import (
    carried_channels,
    loud_channels,
    norms_over_pruned_axes,
    not_compared,
    spoilt_channels,
)
from torchpare.speedup.constants import find_leftovers, fold
from torchpare.speedup.given import MasksOrFile, covers, flatten_masks, masked, merge_masks, read_masks
from torchpare.speedup.lifted import lift_quantizers, put_back
from torchpare.speedup.lost_numbers import LostNumberError, LostSizeError, axes_behind_numbers
from torchpare.speedup.offload import Offload
from torchpare.speedup.patches import Patches, find_patches
from torchpare.speedup.proof import Outputs, first_difference, largest_difference
from torchpare.speedup.report import LayerChange, SpeedupReport
from torchpare.speedup.rms_norms import epsilons, find_rms_norms, scale_norms
from torchpare.speedup.runs import run_as_it_is, run_exact
from torchpare.speedup.shrink import cuts_of_added, shrink
from torchpare.speedup.shrink_plan import ShrinkPlan, make_plan
from torchpare.speedup.transaction import Transaction
from torchpare.types import Masks

__all__ = ["ModelSpeedup"]


class ModelSpeedup:
    """Makes a masked model physically smaller, and proves that it is still the same function.

    Args:
        model: any module, on any device, with masks still attached or without. Changed in place by `speedup_model`.
        dummy_input: a tensor, a tuple of positional arguments, or a dict of keyword arguments that the model accepts.
        masks_file: a mask file, or masks by layer and parameter name. Masks still attached to the model count too, and
            suffice: then it may be left out. Quantizers step aside and come back: the proof is in real numbers.
        map_location: where to load the masks, as in ``torch.load``.
        on_conflict: where layers that share channels (through a residual, say) were given different masks,
            ``"reconcile"`` keeps the channels, ``"refuse"`` raises.
        tolerance: the largest allowed difference between small and masked model, relative to the output's range.
        outputs: picks from what the model returns what must keep its shape and is compared; everything, if not given.
        verify: False skips the proof; the report then has no differences to show (they are NaN).
        offload_folder: where the dense weights wait, in files of their own, until the proof is done, so that the small
            model needs no memory on top; they come back from there, should anything fail. None holds them in memory.

    Raises:
        MaskFileError: if the file is not a mask file.
        MaskError: if the masks do not fit the model, or there are none.

    Example:
        >>> from torch import nn, ones, tensor
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
        >>> masks = {"0": {"weight": tensor([True, False, True, True]).view(4, 1, 1, 1)}}
        >>> report = ModelSpeedup(model, ones(1, 3, 8, 8), masks).speedup_model()
        >>> model[0].weight.shape
        torch.Size([3, 3, 1, 1])
    """

    def __init__(
        self,
        model: nn.Module,
        dummy_input: Any,
        masks_file: MasksOrFile | None = None,
        map_location: torch.device | str | None = None,
        *,
        on_conflict: OnConflict = "reconcile",
        tolerance: float = 1e-10,
        verify: bool = True,
        outputs: Callable[[Any], Any] | None = None,
        offload_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            message = f"ModelSpeedup needs a torch.nn.Module, got {type(model).__name__}"
            raise ShrinkError(message)
        refuse_sharded(model, "cannot be shrunk", ShrinkError)
        self.bound_model = model
        self.dummy_input = dummy_input
        if on_conflict not in get_args(OnConflict):
            message = f"on_conflict is {on_conflict!r}; it is one of {', '.join(map(repr, get_args(OnConflict)))}"
            raise ShrinkError(message)
        attached = masks_of(model)
        given = {} if masks_file is None and attached else read_masks(model, masks_file or {}, map_location)
        self.masks: Masks = merge_masks(given, attached)
        self.on_conflict: OnConflict = on_conflict
        self.tolerance = tolerance
        self.verify = verify
        self.outputs = outputs
        self.offload_folder = offload_folder

    def plan(self) -> ShrinkPlan:
        """What `speedup_model` would do; the model is not changed.

        Raises:
            CaptureError: if the model cannot be run on the dummy input.
            MaskConflictError: if masks disagree and ``on_conflict`` is ``"refuse"``.
        """
        space = analyse(self.bound_model, self.dummy_input, outputs=self.outputs)
        return make_plan(self._decide(space))

    def speedup_model(self) -> SpeedupReport:
        """Shrink the model in place, and prove it. On any error the model is as it was.

        Returns:
            The report; print it, or read its fields.

        Raises:
            CaptureError: if the model cannot be run on the dummy input.
            MaskConflictError: if masks disagree and ``on_conflict`` is ``"refuse"``.
            ProofError: if the small model's outputs differ from the masked model's by more than the tolerance.
            ShrinkError: if the small model cannot be made or run.
        """
        clock = _Clock()
        with clock("analyse"), paused_garbage_collection():
            space = analyse(self.bound_model, self.dummy_input, outputs=self.outputs)
        kept: frozenset[int] = frozenset()
        while True:
            with clock("plan"):
                removal = self._decide(space, kept)
            try:
                return self._shrink(removal, clock)
            except LostSizeError as error:  # what the code counts, stays; the rest is tried again
                if error.variables <= kept:
                    raise
                kept |= error.variables

    @classmethod
    def of_removal(
        cls,
        model: nn.Module,
        dummy_input: Any,
        removal: Removal,
        *,
        tolerance: float = 1e-10,
        verify: bool = True,
        offload_folder: str | os.PathLike[str] | None = None,
    ) -> SpeedupReport:
        """Carry out a decision that was made from scores, not from masks: see `torchpare.plan`."""
        job = cls.__new__(cls)
        job.bound_model, job.dummy_input = model, dummy_input
        attached = masks_of(model)
        # Masks of what is cut out serve the proof alone, but where more is masked than that.
        job.masks = merge_masks(group_masks(removal, {}), attached) if verify or attached else {}
        job.on_conflict, job.tolerance, job.verify = "reconcile", tolerance, verify
        job.offload_folder = offload_folder
        job.outputs = removal.space.program.select
        return job._shrink(removal, _Clock())  # noqa: SLF001 - its own

    def _shrink(self, removal: Removal, clock: _Clock) -> SpeedupReport:
        try:
            return self._change(removal, clock, use=self.verify)
        except _DoesNotRunError as failure:  # the model is as it was: does that run in its own types?
            error = failure.__cause__
            try:
                run_as_it_is(self.bound_model, self.dummy_input)
            except Exception:  # noqa: BLE001 - whatever the model's own code raises
                return self._change(removal, clock, use=False)
            message = (
                f"the small model equals the masked one in float64, but does not run in its own types: "
                f"{type(error).__name__}: {error}. The model is as it was before. If a kernel refuses a width, ask for "
                f"multiples (round_to)"
            )
            raise ShrinkError(message) from error

    def _change(self, removal: Removal, clock: _Clock, *, use: bool) -> SpeedupReport:
        """Shrink, prove, and ``use`` the small model once in its own types; or leave everything as it was."""
        with clock("plan"):
            plan = make_plan(removal)
            group = flatten_masks(group_masks(removal, self.masks)) if self.verify or self.masks else {}
        with (
            torch.inference_mode(False),
            Offload(self.offload_folder) as offload,
            Transaction(self.bound_model, offload) as change,
        ):
            lifted = lift_quantizers(change)
            change.detach_masks()
            change.remove_own_hooks()
            try:
                report = self._carry_out(change, plan, group, clock)
                if use:
                    self._use(clock)
                put_back(change, lifted, plan.cuts)
            except ShrinkError:
                raise
            except Exception as error:
                message = (
                    f"the model could not be made smaller: {type(error).__name__}: {error}. It is as it was; "
                    f"plan() shows what would go. A size written as a number in the model's code is a common cause"
                )
                variables = axes_behind_numbers(self.bound_model, self.dummy_input, removal)
                raise (LostSizeError(message, variables) if variables else ShrinkError(message)) from error
            return report

    def _use(self, clock: _Clock) -> None:
        with clock("proof"):
            try:
                run_as_it_is(self.bound_model, self.dummy_input)
            except Exception as error:
                raise _DoesNotRunError from error

    def _decide(self, space: PruningSpace, kept: frozenset[int] = frozenset()) -> Removal:
        weights = dict(self.bound_model.named_parameters(remove_duplicate=False))
        return space.decide(self.masks, on_conflict=self.on_conflict, weights=weights, excluded=kept)

    def _carry_out(
        self, change: Transaction, plan: ShrinkPlan, group: dict[str, Tensor], clock: _Clock
    ) -> SpeedupReport:
        model, removal, given = self.bound_model, plan.removal, flatten_masks(self.masks)
        before = _sizes(model)
        norms = find_rms_norms(removal, model)
        changes = norms_over_pruned_axes(removal, made_up_for={norm.module for norm in norms})
        by_nature = False
        biases: dict[str, Tensor] = {}
        known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        with clock("proof"):
            partial = not covers(given, group)
            watches = find_watches(removal, model) if partial and self.verify else None
            reference = as_given = self._outputs(given, patches=watches) if self.verify else None
            if partial:
                leftovers, more = find_leftovers(
                    model, self.dummy_input, removal, given, as_given.dtype if as_given else torch.float64
                )
                if watches is not None:
                    more = (*more, *carried_channels(watches))
                changes = (*changes, *more)
                biases = fold(change, leftovers, given)
                by_nature = bool(more)
            patches, spoilt = Patches(), as_given is not None and not as_given.all_finite
            if self.verify:
                patches = find_patches(removal, {norm.mean for norm in norms}, spoilt=spoilt)
            if self.verify and (by_nature or patches.by_key):
                reference = self._outputs(group, lent=masked(biases, group), patches=patches)
                changes = (*changes, *loud_channels(patches), *spoilt_channels(patches), *not_compared(patches))
                as_given = reference if patches.spoilt else as_given
            output_change = _difference(self._outputs({}, like=as_given), as_given) if self.verify else float("nan")
            if reference is not None and not reference.finite:
                message = "the masked model returns nothing finite on the dummy input, so that nothing can be compared"
                raise ProofError(message)
        added = biases.keys() - known
        with clock("shrink"), paused_garbage_collection():
            scaled = scale_norms(change, norms)
            scaled.update(scale_queries(change, removal, scaled))
            shrink(change, plan, group, added, epsilons(model, norms))
            cuts = {**plan.cuts, **cuts_of_added(plan, added)}
            exact = masked({**biases, **scaled}, group)
            lent = {n: cuts[n].apply(b) if n in cuts else b for n, b in exact.items()}
        with clock("proof"):
            small = self._outputs({}, like=reference, lent=lent) if self.verify else None
            difference = _difference(reference, small)
            from_given = difference if reference is as_given else _difference(as_given, small)
            if reference is not None and not difference <= self._allowed(reference) and not patches.unpatched:
                masks = given if reference is as_given else group
                variables = axes_behind_numbers(model, self.dummy_input, removal)
                message = self._explain(change, plan, masks, lent, difference)
                raise LostNumberError(message, variables) if variables else ProofError(message)
        return SpeedupReport(
            largest_difference=difference,
            tolerance=self._allowed(reference),
            dtype=str(reference.dtype if reference else None).removeprefix("torch."),
            exact=not changes,
            masked_difference=from_given,
            output_change=output_change,
            changes=changes,
            folded=tuple(dict.fromkeys(name.rpartition(".")[0] for name in biases)),
            rescaled=tuple(dict.fromkeys(name.rpartition(".")[0] for name in scaled)),
            restored=removal.restored,
            unknown=dict(removal.space.unknown),
            unreached=removal.space.unreached,
            layers=_layers(model, removal, before),
            parameters_before=sum(before.values()),
            parameters_after=sum(_sizes(model).values()),
            seconds=dict(clock.seconds),
        )

    def _outputs(
        self,
        masks: Mapping[str, Tensor],
        *,
        like: Outputs | None = None,
        lent: Mapping[str, Tensor] | None = None,
        patches: Patches | None = None,
    ) -> Outputs:
        """The model's outputs in float64, or in its own type where its code insists on that."""

        def run(dtype: torch.dtype) -> Outputs:
            return run_exact(
                self.bound_model,
                self.dummy_input,
                masks,
                lent=lent,
                patches=patches,
                dtype=dtype,
                select=self.outputs,
            )

        if like is not None:
            return run(like.dtype)
        try:
            return run(torch.float64)
        except RuntimeError:
            dtypes = {p.dtype for p in self.bound_model.parameters() if p.is_floating_point()} - {torch.float64}
            if not dtypes:
                raise
            return run(next(iter(dtypes)))

    def _allowed(self, reference: Outputs | None) -> float:
        """The tolerance; where the model's code refuses float64, what the rounding of its own type asks for."""
        if reference is None or reference.dtype == torch.float64:
            return self.tolerance
        return max(self.tolerance, torch.finfo(reference.dtype).eps ** 0.5)

    def _explain(
        self,
        change: Transaction,
        plan: ShrinkPlan,
        masks: Mapping[str, Tensor],
        lent: Mapping[str, Tensor],
        difference: float,
    ) -> str:
        """Name the first module that differs; the model is taken back to what it was to find out."""
        small: list[tuple[str, str, Tensor]] = []
        run_exact(
            self.bound_model,
            self.dummy_input,
            lent=lent,
            watch=lambda module, path, tensor: small.append((path, type(module).__name__, tensor)),
        )
        change.roll_back()
        lift_quantizers(change)
        change.detach_masks()
        change.remove_own_hooks()
        dense: list[Tensor] = []
        run_exact(self.bound_model, self.dummy_input, masks, watch=lambda _module, _path, tensor: dense.append(tensor))
        first = first_difference(plan.removal, dict(enumerate(dense)), small, self.tolerance)
        where = f"The first to differ is {first}" if first else "No single module's output shows it"
        return (
            f"the small model differs from the masked one by {difference:.3g} of the output's range "
            f"(allowed: {self.tolerance:g}). {where}. The model is as it was before"
        )


class _DoesNotRunError(ShrinkError):
    """The small model passed the proof in float64, and does not run in its own types."""


class _Clock:
    """Seconds spent in each phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


def _difference(reference: Outputs | None, other: Outputs | None) -> float:
    return float("nan") if reference is None or other is None else largest_difference(reference, other)


def _sizes(model: nn.Module) -> dict[str, int]:
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


def _layers(model: nn.Module, removal: Removal, before: Mapping[str, int]) -> tuple[LayerChange, ...]:
    modules = dict(model.named_modules(remove_duplicate=False))
    rows = []
    for layer in removal.space.producers:
        classes = removal.space.classes(layer)
        prefix = f"{layer}." if layer else ""
        own = [f"{prefix}{name}" for name, _ in modules[layer].named_parameters(recurse=False)]
        rows.append(
            LayerChange(
                name=layer,
                kind=type(modules[layer]).__name__,
                channels_before=len(classes),
                channels_after=int((~removal.gone[classes]).sum()),
                parameters_before=sum(before.get(name, 0) for name in own),
                parameters_after=sum(p.numel() for p in modules[layer].parameters(recurse=False)),
            )
        )
    return tuple(rows)
