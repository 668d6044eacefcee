"""The obvious loops, in float64, for what data says about importance."""

from __future__ import annotations

import math


def first_order(weight, grad):
    """Each weight on its own, squared, then added up."""
    pairs = zip(weight.double(), grad.double(), strict=True)
    return [
        sum((w * g) ** 2 for w, g in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) for a, b in pairs
    ]


def second_order(weight, curvature):
    """Half of the curvature times the square, weight by weight."""
    pairs = zip(weight.double(), curvature.double(), strict=True)
    return [
        sum(h * w * w / 2 for w, h in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) for a, b in pairs
    ]


def first_order_of_activations(activation, grad):
    """One example and one channel at a time; channels along axis 1."""
    totals = [0.0] * activation.shape[1]
    for example, slope in zip(activation.double(), grad.double(), strict=True):
        for channel, (z, g) in enumerate(zip(example, slope, strict=True)):
            products = [a * b for a, b in zip(z.flatten().tolist(), g.flatten().tolist(), strict=True)]
            totals[channel] += abs(math.fsum(products) / len(products))
    return totals


def activation_sums(activation):
    """Count and add up, entry by entry; channels along axis 1."""
    active, total = [], []
    for channel in range(activation.shape[1]):
        entries = activation[:, channel].double().flatten().tolist()
        active.append(sum(entry != 0 for entry in entries))
        total.append(math.fsum(entries))
    return active, total, activation[:, 0].numel()


def select_global(scores, sparsity, most):
    """The lowest one of all layers, again and again, but for what each layer keeps in any case, its best ones."""
    left = {layer: set(range(len(own))) for layer, own in scores.items()}
    may = {layer: min(int(len(own) * most.get(layer, 1) + 1e-6), len(own) - 1) for layer, own in scores.items()}
    units = sum(map(len, scores.values()))
    drop = min(int(units * sparsity + 1e-6), sum(may.values()))
    for _ in range(drop):
        places = [(layer, at) for layer in scores for at in sorted(_droppable(scores[layer], may[layer], left[layer]))]
        layer, at = min(places, key=lambda place: scores[place[0]][place[1]])
        left[layer].remove(at)
    return {layer: [at in left[layer] for at in range(len(own))] for layer, own in scores.items()}


def _droppable(own, may, left):
    """Those that are left of a layer, but for its best ones; of two that are equal the first one is the better."""
    keeps = sorted(range(len(own)), key=lambda at: (-own[at], at))[: len(own) - may]
    return left - set(keeps)
