"""What fake quantization promises, kept by whole numbers: layers computed with int8 factors and an int64 sum."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchpare.numerics.affine import quantize
from torchpare.quantization import LsqQuantizer, ObserverQuantizer, PACTQuantizer, QAT_Quantizer

LAYERS = {
    "Conv1d": (lambda: nn.Conv1d(6, 8, 3, padding=1), (5, 6, 9)),
    "Conv2d": (lambda: nn.Conv2d(6, 8, 3, padding=1, stride=2, groups=2), (5, 6, 9, 8)),
    "Conv3d": (lambda: nn.Conv3d(3, 4, 2, padding=1, dilation=2, bias=False), (2, 3, 5, 6, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(6, 8, 3, stride=2, groups=2), (3, 6, 5, 5)),
    "Linear": (lambda: nn.Linear(24, 10), (4, 3, 24)),
}
QUANTIZERS = {
    "QAT": (QAT_Quantizer, {}),
    "QAT, symmetric, per tensor": (QAT_Quantizer, {"quant_scheme": "symmetric", "granularity": {"weight": "tensor"}}),
    "QAT, 4 bits": (QAT_Quantizer, {"quant_bits": 4}),
    "post-training": (ObserverQuantizer, {}),
    "LSQ": (LsqQuantizer, {}),
    "PACT": (PACTQuantizer, {}),
}


def whole_numbers(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The codes of a layer's output, by integer arithmetic; and those that fake quantization gives."""
    given, returned = layer.input_quantizer, layer.output_quantizer
    (s_x, z_x), (s_w, z_w), (s_y, z_y) = given.qparams(x), (layer.scale, layer.zero_point), returned.qparams(x)
    q_x = quantize(x, s_x, z_x, given.spec.grid).long()
    q_w = quantize(layer.old_weight.detach(), s_w, z_w, layer.weight_quantizer.spec.grid).long()
    total = applied(layer, q_x - z_x, q_w - z_w)
    # An axis of channels for the scales of channels; the bias is added as the runtime does, in steps of s_x * s_w.
    channels = [1] * total.dim()
    channels[-1 if isinstance(layer, nn.Linear) else 1] = -1
    step = (s_x.double() * s_w.double().flatten()).reshape(channels)
    if layer.bias is not None:
        total = total + (layer.bias.detach().double().reshape(channels) / step).round().long()
    grid = returned.spec.grid
    integer = (total * step / s_y.double() + z_y).round().clamp(grid.qmin, grid.qmax).long()
    return integer, quantize(layer(x).detach(), s_y, z_y, grid).long()


def applied(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The layer's sums of products, exact: float64 holds whole numbers up to 2**53."""
    x, weight = x.double(), weight.double()
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    more = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
    kind = type(layer).__name__
    function = {"Conv1d": F.conv1d, "Conv2d": F.conv2d, "Conv3d": F.conv3d, "ConvTranspose2d": F.conv_transpose2d}[kind]
    return function(x, weight, None, **more)


@pytest.mark.parametrize("chosen", QUANTIZERS)
@pytest.mark.parametrize("kind", LAYERS)
def test_the_integer_layer_differs_by_one_step_at_most(kind, chosen, generator):
    (make, shape), (quantizer, more) = LAYERS[kind], QUANTIZERS[chosen]
    if kind == "ConvTranspose2d" and quantizer is not LsqQuantizer:
        more = {**more, "granularity": {"weight": "tensor"}}  # the channels of groups lie in columns: one scale for all
    torch.manual_seed(0)
    model = nn.Sequential(make())
    asked = {"quant_types": ["weight", "input", "output"], "quant_bits": 8, "op_types": [kind], **more}
    method = quantizer(model, [asked])
    data = [torch.randn(shape, generator=generator) for _ in range(4)]
    if quantizer is ObserverQuantizer:
        method.calibrate(data)
    method.compress()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for x in data:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    model.eval()
    integer, faked = whole_numbers(model[0], data[0])
    assert len(faked.unique()) > 4  # there is something to compare
    assert int((integer - faked).abs().max()) <= 1
    assert float((integer == faked).double().mean()) > 0.97  # ties and the rounding of float32 alone
