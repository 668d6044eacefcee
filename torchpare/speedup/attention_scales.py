"""Attentions that scale by the width of their heads, made to compute what they did although heads are narrower.

The default scale is ``1 / sqrt(d)`` (Vaswani et al., "Attention Is All You Need", NeurIPS 2017, equation 1). With
``d'`` entries left of a head, queries times ``sqrt(d' / d)`` give the scores they gave before; the factor goes into the
parameters that make them. So with any other power of any size that the model's code multiplies values with.
"""

# ruff: noqa: SLF001 - registered parameters are read where nn.Module keeps them

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from torchpare.errors import ShrinkError
from torchpare.graph import Removal
from torchpare.layers.parameters import renewed
from torchpare.speedup.transaction import Transaction

__all__ = ["query_factors", "scale_queries"]


def query_factors(removal: Removal) -> dict[int, tuple[int, np.ndarray]]:
    """By uid of a parameter that makes queries: the axis along which they lie, and what each entry is multiplied by.

    Raises:
        ShrinkError: a parameter serves attentions whose heads lose different shares.
    """
    space = removal.space
    factors: dict[int, tuple[int, np.ndarray]] = {}
    for scale, sinks in space.scale_makers:
        factor = (removal.size(scale.size) / scale.value) ** -scale.power
        if factor == 1:
            continue
        for sink in sinks:
            axis, known = factors.setdefault(sink.uid, (sink.axis, np.ones(len(sink.entries))))
            again = sink.entries & (known != 1)
            if axis != sink.axis or not np.allclose(known[again], factor):
                name = space.program.values[sink.uid].names[0]
                raise ShrinkError(f"'{name}' makes queries of heads that would lose different shares of their width")
            known[sink.entries] = factor
    return factors


def scale_queries(change: Transaction, removal: Removal, before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply what makes the queries; ``before`` are parameters that were rescaled already, exactly.

    Returns:
        The new parameters in float64, by qualified name (every alias of a tied one).
    """
    modules = dict(change.model.named_modules(remove_duplicate=False))
    scaled: dict[str, Tensor] = {}
    for uid, (axis, factors) in query_factors(removal).items():
        made: dict[int, nn.Parameter] = {}
        for name in removal.space.program.values[uid].names:
            path, _, key = name.rpartition(".")
            parameter = modules[path]._parameters[key]
            if parameter is None:
                continue
            shape = [1] * parameter.dim()
            shape[axis] = -1
            exact = before.get(name, parameter.detach().double()) * torch.from_numpy(factors).to(
                parameter.device
            ).reshape(shape)
            if id(parameter) not in made:
                new = renewed(parameter, exact.to(parameter.dtype))
                made[id(parameter)] = made[id(new)] = new
            scaled.setdefault(name, exact)
            change.set_tensor(modules[path], key, made[id(parameter)])
    return scaled
