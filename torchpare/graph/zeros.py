"""Which values are zero in a channel that goes.

Masks silence a channel where it is made: the filter, its bias, the scale and shift of its norm. If everything between
there and a layer that reads the channel keeps zero at zero, that layer may keep its weights: what it reads is zero. If
not (a sigmoid makes 0.5 of it, a norm without scale something else), the columns that read it must be masked too, or
the masked model would learn to use a constant that the small one does not have.
"""

from __future__ import annotations

from collections.abc import Sequence

from torchpare.graph.program import Op, Program

__all__ = ["silent_values"]

_MAKERS = frozenset(f"aten.{name}" for name in ("convolution", "linear", "embedding"))
_PRODUCTS = frozenset(f"aten.{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv"))
_VIEWS = frozenset(
    f"aten.{name}" for name in ("t", "transpose", "permute", "view", "expand", "alias", "detach", "clone")
)
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
    )
)
_SHIFTED = frozenset({"aten.hardtanh", "aten.clamp", "aten.clamp_min", "aten.clamp_max", "aten.constant_pad_nd"})


def silent_values(program: Program) -> set[int]:
    """Uids of values that are zero in every channel that goes, once its parameters are masked where it is made."""
    parameters = {value.uid for value in program.values if value.kind == "parameter"}
    silent = set(parameters)
    for op in program.ops:
        if op.name in _VIEWS and op.inputs[0].uid in parameters:
            parameters.update(op.outputs)
        made_here = op.name in _PRODUCTS and any(ref.uid in parameters for ref in op.inputs)
        quiet = made_here or _is_quiet(op, silent)
        for uid in op.outputs:
            if quiet:
                silent.add(uid)
            else:
                silent.discard(uid)  # written in place
    return silent


def _is_quiet(op: Op, silent: set[int]) -> bool:
    """Whether what an operator writes is zero in channels that go."""
    name = op.name if op.name in _FIRST else op.name.rstrip("_")
    quiet = [ref.uid in silent for ref in op.inputs]
    if name in _MAKERS:
        return True  # rows and bias are masked where they make the channel
    if name in _AFFINE_NORMS:
        return any(quiet[1:])  # a scale and shift of its own, both masked
    if name in _ANY:
        return any(quiet)
    if name in _EVERY or name in _PRODUCTS:
        numbers = [argument for argument in op.args[:2] if isinstance(argument, (int, float))]
        return all(quiet) and (name in ("aten.cat", "aten.stack") or not any(numbers))
    return name in _FIRST and quiet[:1] == [True] and (name not in _SHIFTED or _keeps_zero(name, op.args))


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
