"""Which values are zero in a channel that goes.

Masks silence a channel where it is made: the filter, its bias, the scale and shift of its norm. If everything between
there and a layer that reads the channel keeps zero at zero, that layer may keep its weights: what it reads is zero. If
not (a sigmoid makes 0.5 of it, a norm without scale something else), the columns that read it must be masked too, or
the masked model would learn to use a constant that the small one does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torchpare.graph.flow import Flow
from torchpare.graph.program import Op, Program, Ref
from torchpare.graph.reduced import reduced_axes

__all__ = ["ALIASES", "silent_values", "steady_values"]

_PRODUCTS = frozenset(f"aten.{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv"))
_GROUPED = frozenset({"aten._grouped_mm", "transformers.grouped_mm_fallback"})
_VIEWS = frozenset(
    f"aten.{name}" for name in ("t", "transpose", "permute", "view", "expand", "alias", "detach", "clone")
)
ALIASES = (_VIEWS - {"aten.clone"}) | frozenset(
    f"aten.{name}"
    for name in (
        *("_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "slice", "select", "split", "unbind"),
        *("split_with_sizes", "as_strided"),
    )
)
"""Operators that show the memory of their first input."""
_AFFINE_NORMS = frozenset(
    f"aten.{name}"
    for name in (
        "native_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_functional",
        "_native_batch_norm_legit_no_training",
        "_batch_norm_with_update",
        "cudnn_batch_norm",
        "native_group_norm",
        "native_layer_norm",
    )
)
_EVERY = frozenset(
    f"aten.{name}" for name in ("add", "sub", "rsub", "cat", "stack", "maximum", "minimum", "where", "lerp")
)
_ANY = frozenset({"aten.mul"})
_ALIGNED = (_EVERY - {"aten.cat", "aten.stack"}) | _ANY | {"aten.div", "aten.expand", "aten.copy"}
"""Operators whose operands lie on top of each other, from the last axis on."""
_WRITES = frozenset(f"aten.{name}" for name in ("index_add", "index_copy", "scatter_add", "index_put", "scatter"))
_ZEROS = frozenset(f"aten.{name}" for name in ("zeros", "new_zeros", "zeros_like", "empty", "new_empty", "empty_like"))
"""Made of nothing; what is made without values is written before it is read."""
_FIRST = frozenset(
    f"aten.{name}"
    for name in (
        *(
            "relu",
            "relu6",
            "leaky_relu",
            "prelu",
            "_prelu_kernel",
            "silu",
            "gelu",
            "elu",
            "celu",
            "selu",
            "mish",
            "tanh",
        ),
        *(
            "hardswish",
            "hardtanh",
            "clamp",
            "clamp_min",
            "clamp_max",
            "sin",
            "tan",
            "atan",
            "sqrt",
            "abs",
            "neg",
            "sign",
        ),
        *(
            "div",
            "clone",
            "detach",
            "alias",
            "contiguous",
            "lift_fresh",
            "_to_copy",
            "native_dropout",
            "copy",
            "square",
        ),
        *(
            "view",
            "_unsafe_view",
            "reshape",
            "as_strided",
            "glu",
            "_reshape_alias",
            "permute",
            "transpose",
            "t",
            "unsqueeze",
            "squeeze",
        ),
        *(
            "expand",
            "slice",
            "split",
            "split_with_sizes",
            "unsafe_split",
            "unsafe_split_with_sizes",
            "select",
            "unbind",
        ),
        *("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d", "flip"),
        *("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d"),
        *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d", "sum", "mean"),
        *("amax", "amin", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d"),
        *("upsample_linear1d", "upsample_bicubic2d", "upsample_trilinear3d", "roll"),
        *("index", "_unsafe_index", "index_select", "gather", "repeat", "im2col", "col2im", "pixel_shuffle"),
        *("pixel_unshuffle", "unfold", "tril", "triu", "cumsum", "view_as_real", "view_as_complex", "_fft_c2c"),
        *("_fft_r2c", "_fft_c2r", "_pack_padded_sequence", "_pad_packed_sequence", "upsample_nearest_exact2d"),
    )
)
_REDUCED = frozenset({"aten.sum", "aten.mean", "aten.amax", "aten.amin"})
_SHIFTED = frozenset({"aten.hardtanh", "aten.clamp", "aten.clamp_min", "aten.clamp_max", "aten.constant_pad_nd"})


Judge = Callable[[Flow, Op, set[int]], bool]
Among = tuple[set[int], set[int]]


def silent_values(flow: Flow) -> set[int]:
    """Uids of values that are zero in every channel that goes, once its parameters are masked where it is made."""
    # A parameter that no channel runs along (a single scale, a shift by position) is not masked with any.
    known = {uid for uid in _parameters(flow.program) if _labelled(flow, uid)}
    return _settle(flow, known, _is_quiet)


def steady_values(flow: Flow, silent: set[int]) -> set[int]:
    """Uids of values that are constants, whatever the input, in every channel whose filters are masked.

    ``silent`` is what `silent_values` says.
    """
    known = {value.uid for value in flow.program.values if value.kind in ("parameter", "buffer", "constant")}
    return _settle(flow, known, _is_steady, silent)


def _settle(flow: Flow, known: set[int], judge: Judge, silent: set[int] | None = None) -> set[int]:
    """Walk through the program until no write into a view spoils what was read through another one.

    ``silent`` are the values that are zero in channels that go, where those are not what is asked for.
    """
    base = _bases(flow.program)
    loud: set[int] = set()
    while True:
        values, found = _walk(flow, base, loud, known, judge, silent)
        if found <= loud:
            return values
        loud |= found


def _walk(
    flow: Flow, base: dict[int, int], loud: set[int], known: set[int], judge: Judge, silent: set[int] | None
) -> tuple[set[int], set[int]]:
    """One walk: the values that pass, and the memory that is written with something that does not."""
    parameters = _parameters(flow.program)
    passing, found = set(known), set(loud)
    for op in flow.program.ops:
        if op.name in _VIEWS and op.inputs and op.inputs[0].uid in parameters:
            parameters.update(op.outputs)
        made = _is_made_here(flow, op, (parameters, passing if silent is None else silent), (parameters, passing))
        passes = made or judge(flow, op, passing)
        for uid in op.outputs:
            written_in_place = any(ref.uid == uid for ref in op.inputs)
            if not passes and written_in_place:
                found.add(base.get(uid, uid))
            if passes and base.get(uid, uid) not in loud:
                passing.add(uid)
            else:
                passing.discard(uid)
    return passing, found


def _parameters(program: Program) -> set[int]:
    return {value.uid for value in program.values if value.kind == "parameter"}


def _bases(program: Program) -> dict[int, int]:
    """The value whose memory each view shows."""
    base: dict[int, int] = {}
    for op in program.ops:
        if op.name in ALIASES and op.inputs:
            seen = op.inputs[0].uid
            for uid in op.outputs:
                if uid != seen:
                    base[uid] = base.get(seen, seen)
    return base


def _labelled(flow: Flow, uid: int) -> frozenset[int]:
    """The axes of a value along which something may go."""
    known = flow.free_axes.get(uid)
    if known is None:
        named = enumerate(flow.labels(uid))
        known = frozenset(axis for axis, labels in named if labels.any() and flow.store.find(labels).any())
        flow.free_axes[uid] = known
    return known


def _is_made_here(flow: Flow, op: Op, weights: Among, biases: Among) -> bool:
    """Whether an operator makes the channels of its output, from rows and a bias that are masked.

    A weight or a bias that was worked out from a parameter need not be zero where that parameter is: each must be
    among the given values.
    """
    out = _labelled(flow, op.outputs[0]) if op.outputs else frozenset[int]()
    if not out or not all(_is_among(ref, biases) for ref in _added(op)):
        return False
    last = len(flow.shape(op.outputs[0])) - 1 if op.outputs else 0
    if op.name == "aten.embedding":
        return _is_among(op.inputs[0], weights) and out <= {last}
    if op.name in ("aten.convolution", "aten.linear", *_GROUPED):
        return _is_among(op.inputs[1], weights) and out <= {1 if op.name == "aten.convolution" else last}
    if op.name in _PRODUCTS:
        left, right = op.inputs[-2:]
        return (_is_among(right, weights) and out <= {last}) or (_is_among(left, weights) and out <= {last - 1})
    return False


def _is_among(ref: Ref, groups: Among) -> bool:
    return any(ref.uid in group for group in groups)


def _added(op: Op) -> tuple[Ref, ...]:
    """What a layer's product is added to: its bias."""
    if op.name in ("aten.convolution", "aten.linear"):
        return tuple(op.inputs[2:3])
    return tuple(op.inputs[:1]) if op.name in ("aten.addmm", "aten.baddbmm", "aten.addmv") else ()


def _is_steady(_flow: Flow, op: Op, steady: set[int]) -> bool:
    """Whether what an operator writes is constant in channels that go: it is, if all that it reads is."""
    if op.name in _AFFINE_NORMS and not op.name.endswith(("_no_training", "native_batch_norm")):
        return False  # statistics of the batch, or taken over other channels
    return bool(op.inputs) and all(ref.uid in steady for ref in op.inputs)


def _is_quiet(flow: Flow, op: Op, silent: set[int]) -> bool:  # noqa: PLR0911 - a line for each family of operators
    """Whether what an operator writes is zero in channels that go, given what it reads."""
    name = op.name if op.name in _FIRST else op.name.rstrip("_")
    quiet = [ref.uid in silent and (name not in _ALIGNED or _covers(flow, op, ref)) for ref in op.inputs]
    if name in _AFFINE_NORMS:  # masked scale and shift, if they lie along the channels
        rank = len(flow.shape(op.outputs[0]))
        own = set(range(rank - len(op.args[1]), rank)) if name == "aten.native_layer_norm" else {1}
        return any(quiet[1:]) and _labelled(flow, op.outputs[0]) <= own
    if name in _ANY:
        return any(quiet)
    if name in _ZEROS:
        return True
    if name in _WRITES:  # what is written into, and what is written; places are numbers
        return quiet[:1] == [True] and quiet[-1:] == [True]
    if name in ("aten.copy", "aten.zero", "aten.fill"):
        return quiet[1:2] == [True] or name == "aten.zero" or (name == "aten.fill" and op.args[1] == 0)
    if name in _EVERY or name in _PRODUCTS:
        numbers = [argument for argument in op.args[:2] if isinstance(argument, (int, float))]
        return all(quiet) and (name in ("aten.cat", "aten.stack") or not any(numbers))
    if name in _REDUCED and _labelled(flow, op.args[0].uid) & _taken(flow, op):
        return False  # a sum over channels is none of them, and not zero
    shifted = name in _SHIFTED and (len(quiet) > 1 or not _keeps_zero(name, op.args))
    return name in _FIRST and quiet[:1] == [True] and not shifted


def _covers(flow: Flow, op: Op, ref: Ref) -> bool:
    """Whether an operand has an axis of its own wherever the result may lose channels: a broadcast one has none."""
    out, own = flow.shape(op.outputs[0]), flow.shape(ref)
    lead = len(out) - len(own)
    return all(axis >= lead and own[axis - lead] == out[axis] for axis in _labelled(flow, op.outputs[0]))


def _taken(flow: Flow, op: Op) -> set[int]:
    """The axes that a reduction takes."""
    rank = len(flow.shape(op.args[0]))
    return reduced_axes(op, rank, flow.shape(op.outputs[0]))[0] if rank else set()


def _keeps_zero(name: str, args: Sequence[object]) -> bool:
    """Whether bounds include zero, and padding is done with it."""
    numbers = [argument for argument in args[1:] if isinstance(argument, (int, float))]
    if name == "aten.constant_pad_nd":
        return all(number == 0 for number in numbers)
    low, high = (*args[1:3], None, None)[:2]
    if name == "aten.hardtanh":
        low, high = (-1 if low is None else low), (1 if high is None else high)
    if name == "aten.clamp_max":
        low, high = None, low
    above = not isinstance(low, (int, float)) or low <= 0
    below = not isinstance(high, (int, float)) or high >= 0
    return above and below
