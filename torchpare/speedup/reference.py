"""How the reference of the proof is run: in one floating type, without chance, and with removed channels gone.

The reference is the masked model, with a removed channel contributing nothing, exactly. What
`torchpare.speedup.patches` found is run in place of the operators that would see that the channel is there; random
numbers, of which the small model draws fewer, are all one number. All else runs untouched, so that it is compared to
the last digit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from torchpare.speedup.float64_kernels import in_float64
from torchpare.speedup.patches import Patches

__all__ = ["ReferenceMode"]

_RANDOM = frozenset(
    f"aten.{name}"
    for name in (
        "rand",
        "randn",
        "rand_like",
        "randn_like",
        "normal",
        "normal_",
        "uniform_",
        "bernoulli_",
        "exponential_",
    )
)


class ReferenceMode(TorchDispatchMode):
    """Keeps a run in one floating type, draws no random numbers, and applies `Patches`.

    Half of all models say ``x.float()`` somewhere; taken at its word it would round away what the proof looks for.
    """

    def __init__(self, dtype: torch.dtype, patches: Patches | None, stack: Sequence[str]) -> None:
        super().__init__()
        self.dtype = dtype
        self.patches = patches or Patches()
        self.stack = stack
        self.seen: Counter[tuple[str, str, tuple[tuple[int, ...], ...]]] = Counter()
        self.calls = dict.fromkeys((key[:2] for key in self.patches.by_key), 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.replace("::", ".")  # noqa: SLF001 - an operator tells its name only so
        asked = kwargs.get("dtype")
        if isinstance(asked, torch.dtype) and asked.is_floating_point:
            kwargs["dtype"] = self.dtype
        if name in _RANDOM:
            return _constant(func(*args, **kwargs))
        func = in_float64(func, args)
        if (self.stack[-1], name) not in self.calls:
            return func(*args, **kwargs)
        self.calls[self.stack[-1], name] += 1
        shapes = tuple(tuple(leaf.shape) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        place = (self.stack[-1], name, shapes)
        key = (*place, self.seen[place])
        self.seen[place] += 1
        patch = self.patches.by_key.get(key)
        if patch is None:
            return func(*args, **kwargs)
        self.patches.met.add(key)
        return patch(func, list(args), kwargs)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """End the run; where it came as far as a patch but ran something else there, that could not be applied."""
        super().__exit__(kind, error, trace)
        for key in self.patches.by_key.keys() - self.patches.met:
            if kind is None and self.patches.numbers[key] < self.calls[key[:2]]:
                self.patches.unpatched.add(key[:2])


def _constant(drawn: Any) -> Any:
    return drawn.fill_(0.37) if isinstance(drawn, Tensor) and drawn.is_floating_point() else drawn
