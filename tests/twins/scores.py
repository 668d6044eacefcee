"""The obvious loops, in float64, that the scores and selections must agree with."""

from __future__ import annotations

import math


def filter_norm(filters, p):
    """Sum up one filter after the other, element by element."""
    return [sum(abs(x) ** p for x in f.double().flatten().tolist()) ** (1 / p) for f in filters]


def geometric_median_distance(filters):
    """The double loop of the paper."""
    rows = [f.double().flatten().tolist() for f in filters]
    return [sum(math.dist(one, other) for other in rows) for one in rows]


def transposed_filter(weight, groups, output):
    """The weights that make one output channel of a transposed convolution, picked by hand."""
    inputs, per_group = weight.shape[:2]
    group, column = divmod(output, per_group)
    rows = range(group * inputs // groups, (group + 1) * inputs // groups)
    return [weight[row, column] for row in rows]


def keep_highest(scores, drop):
    """Look for the lowest one, again and again; the first one among equals."""
    scores = list(scores)
    left = set(range(len(scores)))
    for _ in range(drop):
        left.remove(min(sorted(left), key=lambda at: scores[at]))
    return [at in left for at in range(len(scores))]


def select_common(scores, sparsities, classes, cells):
    """Dependency-aware selection, one cell and one class at a time, with plain lists and dicts."""
    gone = set()
    every = sorted({cell for ids in cells.values() for cell in ids})
    for cell in every:
        members = [
            layer
            for layer in sorted(cells)
            if any(c == cell and k != 0 for c, k in zip(cells[layer], classes[layer], strict=True))
        ]
        if not members or any(layer not in scores for layer in members):
            continue
        totals = {}
        for layer in members:
            for channel, (c, k) in enumerate(zip(cells[layer], classes[layer], strict=True)):
                if c == cell and k != 0:
                    totals[k] = totals.get(k, 0.0) + scores[layer][channel]
        common = min(sparsities[layer] for layer in members)
        drop = min(int(len(totals) * common + 1e-6), len(totals) - 1)
        for _ in range(drop):
            lowest = min(sorted(totals), key=lambda k: totals[k])
            gone.add(lowest)
            del totals[lowest]
    keep = {}
    for layer, own in scores.items():
        kept = [classes[layer][channel] not in gone for channel in range(len(own))]
        target = min(int(len(own) * sparsities[layer] + 1e-6), len(own) - 1)
        while kept.count(False) < target:
            channel = min((c for c in range(len(own)) if kept[c]), key=lambda c: own[c])
            kept[channel] = False
        keep[layer] = kept
    return keep
