"""The stand-in for torchvision's compiled non-maximum suppression does what its definition says."""

from __future__ import annotations

import torch

from torchpare.zoo.vision import suppressed


def by_definition(boxes, scores, overlap):
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda index: -float(scores[index])):
        if all(intersection_over_union(boxes[index], boxes[other]) <= overlap for other in kept):
            kept.append(index)
    return kept


def intersection_over_union(a, b):
    width = max(0.0, float(min(a[2], b[2]) - max(a[0], b[0])))
    height = max(0.0, float(min(a[3], b[3]) - max(a[1], b[1])))
    area = sum(float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b))
    return width * height / (area - width * height)


def test_the_same_boxes_stay_as_by_definition(generator):
    for count in (0, 1, 2, 40):
        corners = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 10
        boxes = torch.cat([corners, corners + 1 + torch.rand(count, 2, generator=generator) * 5], 1)
        scores = torch.rand(count, generator=generator)
        for overlap in (0.1, 0.5, 0.9):
            assert suppressed(boxes, scores, overlap).tolist() == by_definition(boxes, scores, overlap)
