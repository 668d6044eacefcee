"""How far what a student computes is from what its teacher does: pure functions of two tensors, zero where they agree.

Numbers of 16 bits are compared in float32, all others in their own type. Equal tensors give exactly 0, with a gradient
of exactly 0: nothing here divides by a distance, or takes the root of one, without keeping away from zero. ``counted``
is a bool tensor that broadcasts: False, for padding, has no part in a mean, and whatever lies there, NaN too, has no
part in a gradient. Where nothing is counted the distance is 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["attention_score_error", "mean_squared_error", "relation_angles", "relation_distances", "soft_target_loss",
           "spatial_attention_error", "token_relation_loss"]  # fmt: skip

HIDDEN = -1e4
"""Scores of attention from here down are not scores: masks write such numbers, or minus infinity."""
_TINY = 1e-12


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float, counted: Tensor | None = None) -> Tensor:
    """How much the teacher's softened classes tell that the student's do not: ``(..., C), (..., C) -> ()``.

    ``T ** 2 * KL(softmax(teacher / T) || softmax(student / T))``, the mean over everything but the classes. The square
    keeps gradients of one size at any temperature. It is the paper's cross-entropy less the teacher's own entropy,
    which no student can change.

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2.

    Args:
        student: logits, classes last.
        teacher: logits of the same shape.
        temperature: above 0; 1 leaves the classes as they are.
        counted: bool, of the logits' shape without the classes.
    """
    student, teacher = _wide(student), _wide(teacher)
    if counted is not None:
        student, teacher = student[counted], teacher[counted]
    divergence = _divergence(student / temperature, teacher / temperature)
    return temperature**2 * divergence.sum() / max(divergence.numel(), 1)


def mean_squared_error(student: Tensor, teacher: Tensor, counted: Tensor | None = None) -> Tensor:
    """The mean of ``(student - teacher) ** 2`` over all entries that count.

    Romero, Ballas, Kahou, Chassang, Gatta, Bengio, "FitNets: Hints for Thin Deep Nets", ICLR 2015, equation 3, as a
    mean and without a regressor; Jiao et al., "TinyBERT: Distilling BERT for Natural Language Understanding", EMNLP
    2020, equation 8.

    Args:
        student: of any shape.
        teacher: of the same shape.
        counted: bool; broadcasts to that shape.
    """
    student, teacher = _wide(student), _wide(teacher)
    if counted is None:
        return (student - teacher).square().sum() / max(student.numel(), 1)
    counted = counted.expand(student.shape)
    difference = student.masked_fill(~counted, 0) - teacher.masked_fill(~counted, 0)
    return difference.square().sum() / counted.sum().clamp(min=1)


def spatial_attention_error(student: Tensor, teacher: Tensor, counted: Tensor | None = None) -> Tensor:
    """How differently two activations look at the places of a picture: ``(N, C, ...), (N, D, ...) -> ()``.

    The map of a picture is the mean square over channels, as one vector of length 1; the result is the mean over
    pictures and places of the squared difference of maps. Numbers of channels may differ.

    Zagoruyko, Komodakis, "Paying More Attention to Attention", ICLR 2017, equation 2 with p = 2, as the authors' code
    has it: a mean of squares.

    Args:
        student: activations, channels second.
        teacher: activations of the same pictures and places.
        counted: bool ``(N, ...)``, of the shape without channels: places that count.
    """
    maps = []
    for activation in (student, teacher):
        values = _wide(activation)
        values = values if counted is None else values.masked_fill(~counted.unsqueeze(1), 0)
        maps.append(F.normalize(values.square().mean(dim=1).flatten(1), dim=1, eps=_TINY))
    return mean_squared_error(maps[0], maps[1], None if counted is None else counted.flatten(1))


def attention_score_error(student: Tensor, teacher: Tensor, counted: Tensor | None = None) -> Tensor:
    """The mean squared difference of attentions, before a softmax or after it: ``(N, H, T, S) -> ()``.

    Jiao et al., "TinyBERT: Distilling BERT for Natural Language Understanding", EMNLP 2020, equation 7. As there, a
    place that a mask hides (a score of -10,000 or less) counts for 0 and not for what the mask wrote.

    Args:
        student: attentions, heads second.
        teacher: attentions of the same shape.
        counted: bool; broadcasts to that shape: the pairs of tokens that count.
    """
    student, teacher = _wide(student), _wide(teacher)
    return mean_squared_error(
        student.masked_fill(student <= HIDDEN, 0), teacher.masked_fill(teacher <= HIDDEN, 0), counted
    )


def relation_distances(student: Tensor, teacher: Tensor) -> Tensor:
    """How differently two representations place the examples of a batch apart: ``(N, D), (N, E) -> ()``.

    The distance of each pair of different examples, over the mean of all; the mean Huber loss between the student's
    and the teacher's. Widths may differ.

    Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, section 3.2, as a mean over pairs.
    """
    if len(student) < 2:
        return _nothing(student)
    apart = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    distances = []
    for given in (student, teacher):
        rows = _wide(given)
        # Not through a matrix product, which loses digits where examples are alike.
        squares = (rows[:, None] - rows[None]).square().sum(dim=2)[apart]
        lengths = squares.clamp(min=_TINY).sqrt()
        distances.append(lengths / lengths.mean())
    return F.smooth_l1_loss(distances[0], distances[1])


def relation_angles(student: Tensor, teacher: Tensor) -> Tensor:
    """How differently two representations see the angles between examples of a batch: ``(N, D), (N, E) -> ()``.

    The cosine of the angle at ``j`` between ``i`` and ``k``, for all triples of different examples; the mean Huber loss
    between the student's and the teacher's. Widths may differ. Memory grows with the cube of the batch.

    Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, section 3.2, as a mean over triples.
    """
    number = len(student)
    if number < 3:
        return _nothing(student)
    different = ~torch.eye(number, dtype=torch.bool, device=student.device)
    triples = different[:, :, None] & different[:, None, :] & different[None, :, :]  # (j, i, k)
    cosines = []
    for given in (student, teacher):
        rows = _wide(given)
        away = F.normalize(rows[None] - rows[:, None], dim=2, eps=_TINY)  # (j, i, D), from j to i
        cosines.append((away @ away.transpose(1, 2))[triples])
    return F.smooth_l1_loss(cosines[0], cosines[1])


def token_relation_loss(student: Tensor, teacher: Tensor, heads: int, counted: Tensor | None = None) -> Tensor:
    """How differently tokens look like each other, head by head: ``(N, T, D), (N, T, E) -> ()``.

    A head's relation is ``softmax(V @ V.T / sqrt(width of the head))`` over tokens; the result is the mean over
    examples, heads and tokens of ``KL(teacher || student)``. Widths may differ, and hold equally many heads each.

    Wang, Wei, Dong, Bao, Yang, Zhou, "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression", NeurIPS
    2020, section 3.2, of values; queries and keys in the same way: Wang, Bao, Huang, Dong, Wei, "MiniLMv2", 2021.

    Args:
        student: values, queries or keys of tokens.
        teacher: those of the same tokens.
        heads: into how many equal parts the widths are divided.
        counted: bool ``(N, T)``: tokens that count.
    """
    scores = []
    for given in (student, teacher):
        values = _wide(given)
        values = values if counted is None else values.masked_fill(~counted[:, :, None], 0)
        values = values.unflatten(2, (heads, -1)).transpose(1, 2)
        products = values @ values.transpose(2, 3) / values.shape[3] ** 0.5
        scores.append(products if counted is None else products.masked_fill(~counted[:, None, None, :], -torch.inf))
    if counted is None:
        return soft_target_loss(scores[0], scores[1], 1.0)
    return soft_target_loss(scores[0], scores[1], 1.0, counted[:, None].expand(scores[0].shape[:3]))


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of each row; a class of probability 0 to the teacher adds nothing."""
    told, learnt = F.log_softmax(teacher, dim=-1), F.log_softmax(student, dim=-1)
    possible = told > -torch.inf
    difference = told.masked_fill(~possible, 0) - learnt.masked_fill(~possible, 0)
    return (told.exp() * difference).sum(dim=-1)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _nothing(student: Tensor) -> Tensor:
    """Zero, that a gradient can pass through."""
    return _wide(student).flatten()[:0].sum()
