"""What data says about importance: pure functions of weights, gradients, curvature and activations; larger stays.

Filters come with their output axis first, ``(O, ...)``. Sums run in float64 where the device has it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchpare.numerics.scores import rows

__all__ = ["activation_sums", "first_order", "first_order_of_activations", "second_order"]


def first_order(weight: Tensor, grad: Tensor) -> Tensor:
    """How much of the loss each filter answers for, to first order: ``(O, ...), (O, ...) -> (O,)``.

    The sum over a filter's weights of ``(w * g) ** 2``, the squared change of the loss if each of them alone were zero.

    Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance Estimation for Neural Network Pruning", CVPR 2019, section 3.1:
    the first-order criterion ``(g * w) ** 2``, summed over the members of a structure (not the square of their sum).
    """
    return (rows(weight) * rows(grad)).square().sum(dim=1)


def second_order(weight: Tensor, curvature: Tensor) -> Tensor:
    """How much the loss grows without each filter, to second order: ``(O, ...), (O, ...) -> (O,)``.

    The sum over a filter's weights of ``h * w ** 2 / 2``, ``h`` being the diagonal of the Hessian; at a minimum the
    first order is nothing.

    LeCun, Denker, Solla, "Optimal Brain Damage", NeurIPS 1989, equation 2, for one parameter the saliency
    ``s_k = h_kk * u_k ** 2 / 2``.
    """
    return (rows(curvature) * rows(weight).square()).sum(dim=1) / 2


def first_order_of_activations(activation: Tensor, grad: Tensor, axis: int) -> Tensor:
    """How much of the loss each channel answers for, by what it passes on: ``(N, C, ...), same -> (C,)``.

    For each example the mean over positions of ``z * g``, in absolute value; then the sum over the examples. It is
    divided by their number by whoever adds up batches.

    Molchanov, Tyree, Karras, Aila, Kautz, "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    ICLR 2017, equation 8.

    Args:
        activation: with the examples along axis 0.
        grad: of the loss by the activation.
        axis: where the channels lie.
    """
    product = (_double(activation) * _double(grad)).movedim(axis, -1)
    positions = list(range(1, product.dim() - 1))
    each = product.mean(dim=positions) if positions else product
    return each.abs().sum(dim=0)


def activation_sums(activation: Tensor, axis: int) -> tuple[Tensor, Tensor, int]:
    """Of each channel, how many entries are not zero and what all entries add up to: ``(..., C, ...) -> (C,), (C,)``.

    Divided by the third result, the number of entries of a channel, the first is one minus the average percentage of
    zeros (APoZ: Hu, Peng, Tai, Tang, "Network Trimming", 2016, equation 1), the second the mean activation (Molchanov,
    Tyree, Karras, Aila, Kautz, ICLR 2017, section 2.2, no numbered equation).

    Args:
        activation: after the activation function.
        axis: where the channels lie.
    """
    entries = activation.detach().movedim(axis, 0).flatten(1)
    return torch.count_nonzero(entries, dim=1), _double(entries).sum(dim=1), entries.shape[1]


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().float() if tensor.device.type == "mps" else tensor.detach().double()
