"""The obvious loops, in float64, for how far a student is from its teacher."""

from __future__ import annotations

import math


def soft_target_loss(student, teacher, temperature, counted=None):
    """Row by row the sum of ``p * log(p / q)``; times T squared, over the rows that count."""
    counted = [True] * len(student) if counted is None else counted
    rows = [
        sum(p * math.log(p / q) for p, q in zip(soft(t, temperature), soft(s, temperature), strict=True) if p)
        for s, t, counts in zip(student.tolist(), teacher.tolist(), counted, strict=True)
        if counts
    ]
    return temperature**2 * sum(rows) / max(len(rows), 1)


def soft(row, temperature):
    """The softmax of one row."""
    top = max(row)
    powers = [math.exp((value - top) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def huber(one, other):
    """Half of the square within 1, behind it the distance less a half."""
    distance = abs(one - other)
    return distance**2 / 2 if distance < 1 else distance - 0.5


def spatial_attention_error(student, teacher):
    """One picture and one place at a time; activations are (N, C, P)."""
    total, places = 0.0, 0
    for one, other in zip(student.tolist(), teacher.tolist(), strict=True):
        for a, b in zip(map_of(one), map_of(other), strict=True):
            total += (a - b) ** 2
            places += 1
    return total / places


def map_of(channels):
    """The mean square over channels of each place, as a vector of length 1."""
    means = [sum(value**2 for value in place) / len(channels) for place in zip(*channels, strict=True)]
    length = math.sqrt(sum(value**2 for value in means))
    return [value / length for value in means]


def distances(rows):
    """Of every ordered pair of different rows, over their mean."""
    number = range(len(rows))
    found = [math.dist(rows[i], rows[j]) for i in number for j in number if i != j]
    mean = sum(found) / len(found)
    return [distance / mean for distance in found]


def angles(rows):
    """The cosine at j between i and k, of every ordered triple of different rows."""
    number = range(len(rows))
    found = []
    for j in number:
        for i in number:
            for k in number:
                if len({i, j, k}) == 3:
                    a = [p - q for p, q in zip(rows[i], rows[j], strict=True)]
                    b = [p - q for p, q in zip(rows[k], rows[j], strict=True)]
                    dot = sum(p * q for p, q in zip(a, b, strict=True))
                    found.append(dot / math.hypot(*a) / math.hypot(*b))
    return found


def mean_huber(student, teacher):
    """Of two lists of numbers."""
    return sum(map(huber, student, teacher)) / len(student)


def token_relation_loss(student, teacher, heads, counted):
    """One example, head and token at a time; only tokens that count are looked at, and look."""
    total, rows = 0.0, 0
    for one, other, tokens in zip(student.tolist(), teacher.tolist(), counted.tolist(), strict=True):
        real = [at for at, counts in enumerate(tokens) if counts]
        for head in range(heads):
            for token in real:
                q, p = (relation(values, real, token, head, heads) for values in (one, other))
                total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
                rows += 1
    return total / max(rows, 1)


def relation(values, real, token, head, heads):
    """How much one token's part for a head looks like that of each token that counts."""
    width = len(values[0]) // heads
    part = slice(head * width, (head + 1) * width)
    scores = [
        sum(a * b for a, b in zip(values[token][part], values[at][part], strict=True)) / math.sqrt(width) for at in real
    ]
    return soft(scores, 1.0)
