"""What behaves differently than it did in NNI: each difference with its reason, told once where a script meets it.

The table in ``docs/coming-from-nni.md`` is printed from here.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

__all__ = ["CHANGES", "Change", "NNIChangeWarning", "as_table", "tell"]


class NNIChangeWarning(UserWarning):
    """Something that a script for NNI does has another effect here; the message says which, and why.

    Each is told once in a process. ``warnings.filterwarnings("ignore", category=NNIChangeWarning)`` silences them.
    """


class Change(NamedTuple):
    """One difference."""

    where: str
    """The call that meets it."""
    was: str
    """What NNI did."""
    now: str
    """What happens here."""
    why: str
    """The reason."""


CHANGES: dict[str, Change] = {
    "exclude": Change(
        "`exclude: False`", "left the layer out: only the presence of the key was tested", "excludes nothing",
        "it says so"),
    "constructor": Change(
        "`get_modules_wrapper()`, `is_wrapped` before `compress()`", "the constructor had wrapped the model already",
        "the constructor only reads; `compress()` masks or quantizes",
        "a model that is only looked at should stay as it is"),
    "wrappers": Change(
        "`get_modules_wrapper()`", "returned modules that stood in the model in the layers' places",
        "returns views made for the caller; layers keep their places, classes and names",
        "optimizers, checkpoints and `isinstance` then notice nothing"),
    "ties": Change(
        "pruning weights of equal score", "all weights at the threshold went, of a constant layer every one",
        "exactly the share that was asked for goes", "a layer must not vanish because its weights are equal"),
    "groups": Change(
        "pruning filters", "masked the layer's own filters",
        "masks also the norm after them and the inputs that read them",
        "a norm's shift that still flows is learnt, and gone when the model is shrunk"),
    "masks": Change(
        "`export_model(..., mask_path)`", "wrote float masks as large as the weights",
        "writes bool masks of size 1 along axes on which they do not vary, and those of whole groups",
        "they say the same in a thousandth of the bytes"),
    "apply": Change(
        "`apply_compression_results`", "its page says that the model becomes smaller; its code wrote zeros",
        "writes zeros; `ModelSpeedup` changes shapes", "one call does one thing"),
    "speedup": Change(
        "`ModelSpeedup.speedup_model()`", "returned None and compared nothing",
        "returns a report, and raises `ProofError` if small and masked model differ",
        "a wrong small model should be an error, not a surprise"),
    "speedup_v3": Change(
        "`ModelSpeedup.speedup_model()` of NNI 3", "returned the model and compared nothing",
        "returns the model, keeps the report as `report`, and raises `ProofError` if small and masked model differ",
        "a wrong small model should be an error, not a surprise"),
    "speedup_options": Change(
        "`batch_dim`, `batch_size`, `confidence` of `ModelSpeedup`", "random batches showed what is constant",
        "are not needed", "what hangs together is read off the operators, not guessed from samples"),
    "conflict": Change(
        "`fix_mask_conflict`", "returned `(masks, conv_prune_dim)` up to 2.3", "returns masks, as from 2.4 on",
        "masks say themselves along which axis they prune"),
    "dependencies": Change(
        "`ChannelDependency`, `GroupDependency`", "knew additions and concatenations; took the largest of the groups",
        "know every operator, products too; take the least common multiple",
        "a gate ties channels as an addition does, and 4 and 6 groups need 12"),
    "counter": Change(
        "`count_flops_params`", "counted calls of modules, masked ones wrongly, and left masks on them",
        "counts operators too, and masked weights as gone", "what runs is what counts"),
    "slim": Change(
        "`SlimPruner`", "might prune a whole layer", "each norm keeps one channel",
        "a model with an empty layer computes nothing"),
    "global_sort": Change(
        "`global_sort` of `TaylorFOWeightFilterPruner`", "counted a filter as many times as it has weights",
        "the share that was asked for is one of filters", "so it is with every other pruner"),
    "head_gradients": Change(
        '`ranking_criterion="taylorfo"` of `TransformerHeadPruner`',
        "multiplied what a head passes on by its gradient",
        "multiplies the weights that make and read a head by theirs",
        "every attention has these weights; torch's own does not show what its heads pass on"),
    "admm": Change(
        "`ADMMPruner`", "moved the weights past the optimizer, and began with Z the weights themselves",
        "adds the gradient of the penalty, and begins with a copy", "so it is written in the paper"),
    "movement": Change(
        "`MovementPruner` of NNI 3", "moved softly: a threshold, and a term in the loss",
        "moves hard: the largest scores stay", "then exactly the share that was asked for goes"),
    "statistics": Change(
        "gradual pruning by data", "collected statistics once for all iterations", "looks anew for each mask",
        "what a layer passes on changes with each mask"),
    "annealing": Change(
        "`SimulatedAnnealingPruner`", "accepted by the bare difference of scores, nearly all",
        "accepts by the share of the dense score that is lost", "so a temperature means the same for every metric"),
    "amc": Change(
        "`AMCPruner`", "pruned inputs of MobileNets, with an agent of its own",
        "prunes filters of any model, with an agent of Stable-Baselines3", "one agent that is tested elsewhere"),
    "search_model": Change(
        "pruners that search", "left the model of the caller wrapped, and returned another one",
        "mask the model that was passed", "one model, one state"),
    "rounds_speedup": Change(
        "`speedup=True` of pruners that go in rounds", "made the model small in each round",
        "masks in each round and makes the model small once, after the last one",
        "masks compose; an optimizer of the user stays valid until the end"),
    "rounds_log": Change(
        "`log_dir`, `keep_intermediate_result`", "wrote each round's model and masks to files",
        "nothing is written but what `export_model` writes", "files that nobody asked for fill a disk"),
    "scale": Change(
        "`layer.module.scale` of a layer with several quantized tensors", "was that of whatever was quantized last",
        "is the weight's; `layer.output_quantizer.scale` is the output's", "each tensor has its own range"),
    "grid": Change(
        "`QAT_Quantizer`", "quantized weights on one unsigned range, averaged ranges from zero on, and evaluated with "
        "the weights of the last training step",
        "weights have a symmetric grid for each channel, averages begin with the first batch, and evaluation uses the "
        "weights as they are", "that is what integer runtimes compute, and it is more exact"),
    "bnn": Change(
        "`quant_bits` of `BNNQuantizer`", "was ignored", "is read as 1, and recorded so", "a sign has one bit"),
    "naive": Change(
        "`NaiveQuantizer`", "cut weights off towards zero", "rounds them to the nearest integer",
        "cutting off costs twice the error"),
    "start_step": Change(
        "`quant_start_step` without an optimizer", "never began to quantize", "counts training passes instead",
        "a setting should have an effect"),
    "quant_export": Change(
        "`export_model` of a quantizer", "took the quantizers off, and left a key `steps` in the file",
        "leaves the model quantized and trainable; the file has the keys of the plain model",
        "exporting is no end of training"),
    "trace": Change(
        "`nni.trace`", "recorded arguments so that objects could be made again", "returns what it is given",
        "parameters stay the same objects, so optimizers need not be made again"),
    "first_wins": Change(
        "two entries of a `config_list` of NNI 3 that reach one layer", "the first one won, against what its pages say",
        "the last one wins", "so it is written, and so it was in all versions before"),
    "fused": Change(
        "`from_compressor` of a compressor that has not compressed yet", "let both do their work in one training",
        "lets the earlier one compress first, with a training of its own", "then each can be looked at by itself"),
    "distillation": Change(
        "distillers of NNI 3", "ran `teacher_predict`, and learnt maps where widths differ",
        "run the teacher on what the student was given, and compare the channels that the student kept",
        "which channels those are is recorded, so nothing has to be learnt to compare them"),
    "fuse_names": Change(
        "`fuse_names`", "named the norms to fold into layers", "norms are found by running the model on `dummy_input`",
        "names that are found cannot be forgotten"),
    "opset": Change(
        "`opset_version`", "chose the operator set of the ONNX file", "the exporter's own is used",
        "the file is checked by running it, in one version"),
}  # fmt: skip

_PACKAGE = f"{Path(__file__).parents[2]}{os.sep}"
_told: set[str] = set()
"""Which have been told in this process."""


def tell(key: str) -> None:
    """Warn of a difference, the first time that a process meets it."""
    if key in _told:
        return
    _told.add(key)
    change = CHANGES[key]
    message = f"{change.where}: NNI: {change.was}. Here: {change.now}. Why: {change.why}."
    warnings.warn(message.replace("`", ""), NNIChangeWarning, stacklevel=_depth())


def _depth() -> int:
    """How far up the first caller outside of torchpare is: the line of the script, which the warning is about."""
    level, frame = 1, sys._getframe(1)  # noqa: SLF001 - what warnings themselves use
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level


def as_table() -> str:
    """All differences as a table in Markdown."""
    rows = [f"| {one.where} | {one.was} | {one.now} | {one.why} |" for one in CHANGES.values()]
    return "\n".join(["| what | in NNI | here | why |", "|---|---|---|---|", *rows]) + "\n"
