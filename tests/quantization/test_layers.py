"""Every kind of layer that holds weights: what is quantized of it, with every number of bits, and that it learns."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from torchpare.attach import quantizers_of
from torchpare.errors import ConfigError
from torchpare.quantization import (
    LsqPlusQuantizer,
    LsqQuantizer,
    NaiveQuantizer,
    ObserverQuantizer,
    PACTQuantizer,
    QAT_Quantizer,
)


class Recurrent(nn.Module):
    """Two layers, both ways, with the state given and returned."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(5, 4, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output, state = self.layer(x)
        state = state[0] if isinstance(state, tuple) else state
        return output.mean(1) + state.mean((0, 2))[:, None]


class Attentive(nn.Module):
    """Self-attention; ``bare`` gives the three projections in one matrix, otherwise there are three."""

    def __init__(self, *, apart: bool) -> None:
        super().__init__()
        more = {"kdim": 8, "vdim": 8} if not apart else {"kdim": 7, "vdim": 6}
        self.layer, self.apart = nn.MultiheadAttention(8, 2, batch_first=True, **more), apart

    def forward(self, x: Tensor) -> Tensor:
        key, value = (x[..., :7], x[..., :6]) if self.apart else (x, x)
        return self.layer(x, key, value, need_weights=False)[0]


def images(*shape):
    return lambda generator: torch.randn(*shape, generator=generator)


def tokens(generator):
    return torch.randint(0, 11, (4, 6), generator=generator)


class Only(nn.Module):
    """A layer by the name ``layer``."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Twofold(nn.Module):
    """A bilinear layer, given the same twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x)


class Cell(nn.Module):
    """A step of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTMCell(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


def slopes() -> nn.PReLU:
    layer = nn.PReLU(3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.1, 0.237, -0.4]))
    return layer


NETS = {
    "Conv1d": (lambda: Only(nn.Conv1d(3, 4, 3)), images(2, 3, 8), {"weight"}),
    "Conv2d": (lambda: Only(nn.Conv2d(3, 4, 3)), images(2, 3, 8, 7), {"weight"}),
    "Conv3d": (lambda: Only(nn.Conv3d(3, 4, 3)), images(2, 3, 5, 6, 7), {"weight"}),
    "ConvTranspose1d": (lambda: Only(nn.ConvTranspose1d(3, 4, 3)), images(2, 3, 8), {"weight"}),
    "ConvTranspose2d": (lambda: Only(nn.ConvTranspose2d(3, 4, 3)), images(2, 3, 8, 7), {"weight"}),
    "ConvTranspose3d": (lambda: Only(nn.ConvTranspose3d(3, 4, 3)), images(2, 3, 3, 4, 5), {"weight"}),
    "Linear": (lambda: Only(nn.Linear(8, 4)), images(2, 8), {"weight"}),
    "Bilinear": (Twofold, images(2, 8), {"weight"}),
    "Embedding": (lambda: Only(nn.Embedding(11, 8)), tokens, {"weight"}),
    "EmbeddingBag": (lambda: Only(nn.EmbeddingBag(11, 8)), tokens, {"weight"}),
    "PReLU": (lambda: Only(slopes()), images(2, 3, 4), {"weight"}),
    "RNN": (lambda: Recurrent(nn.RNN), images(2, 6, 5), None),
    "LSTM": (lambda: Recurrent(nn.LSTM), images(2, 6, 5), None),
    "GRU": (lambda: Recurrent(nn.GRU), images(2, 6, 5), None),
    "LSTMCell": (Cell, images(2, 5), {"weight_ih", "weight_hh"}),
    "MultiheadAttention": (lambda: Attentive(apart=False), images(2, 5, 8), {"in_proj_weight", "weight"}),
    "MultiheadAttention, apart": (lambda: Attentive(apart=True), images(2, 5, 8),
                                  {"q_proj_weight", "k_proj_weight", "v_proj_weight", "weight"}),
}  # fmt: skip
QUANTIZERS = [NaiveQuantizer, QAT_Quantizer, LsqQuantizer, LsqPlusQuantizer, ObserverQuantizer]


def quantized(name, quantizer, bits, x, types=("weight",), **more):
    make, _, _ = NETS[name]
    torch.manual_seed(0)
    model = make()
    dense = copy.deepcopy(model)
    method = quantizer(model, [{"quant_types": list(types), "quant_bits": bits, "op_names": ["layer"], **more}])
    if quantizer is ObserverQuantizer:
        method.calibrate([x])
    return method.compress(), dense


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("name", NETS)
def test_its_weights_lie_on_a_grid_and_it_learns(name, quantizer, generator):
    x = NETS[name][1](generator)
    model, dense = quantized(name, quantizer, 4, x)
    wanted = NETS[name][2]
    found = {kind: (layer, own) for _, layer, kind, own in quantizers_of(model)}
    names = {key for key, _ in dense.layer.named_parameters() if key.startswith("weight")} if wanted is None else wanted
    assert set(found) == names
    for kind, (layer, own) in found.items():
        value = getattr(layer, kind)
        scale, zero_point = own.qparams(layer._parameters[kind])
        codes = value / scale + zero_point
        torch.testing.assert_close(codes, codes.round(), atol=2e-3, rtol=0)
        # Whatever rounds only parts with half a step, but what the start of a learnt step clips.
        if quantizer is not LsqQuantizer and quantizer is not LsqPlusQuantizer:
            assert bool(((value - layer._parameters[kind]).abs() <= scale / 2 * 1.001).all())
    assert not torch.equal(model(x), dense(x))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model.train()
    model(x).square().sum().backward()
    optimizer.step()
    assert any(not torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True))
    for kind, (layer, _) in found.items():
        assert layer._parameters[kind].grad is not None


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("name", ["Conv2d", "LSTM", "MultiheadAttention", "Embedding"])
def test_more_bits_are_closer_to_the_float_layer(name, bits, generator):
    x = NETS[name][1](generator)
    model, dense = quantized(name, QAT_Quantizer, bits, x)
    with torch.no_grad():
        error = (model(x) - dense(x)).abs().max() / dense(x).abs().max()
    assert float(error) < max(4 / 2 ** (bits - 1), 2e-4) * (2 if bits < 3 else 1)


@pytest.mark.parametrize("name", [name for name in NETS if "Embedding" not in name])
def test_what_it_is_given_and_returns_is_quantized_too(name, generator):
    x = NETS[name][1](generator)
    model, dense = quantized(name, QAT_Quantizer, 6, x, ("weight", "input", "output"))
    model.train()
    for _ in range(2):
        model(x)
    output = model.eval()(x)
    assert output.shape == dense(x).shape
    kinds = {kind for _, _, kind, _ in quantizers_of(model)}
    assert {"input", "output"} <= kinds
    own = next(own for _, _, kind, own in quantizers_of(model) if kind == "output")
    assert bool(own.seen)
    with torch.no_grad():
        assert float((output - dense(x)).abs().max()) < 0.35 * float(dense(x).abs().max())


def test_the_output_of_an_embedding_is_quantized_though_tokens_are_no_numbers(generator):
    model, _ = quantized("Embedding", QAT_Quantizer, 3, tokens(generator), ("weight", "output"))
    assert len(model.train()(tokens(generator)).unique()) <= 8


@pytest.mark.parametrize(("layer", "said"), [(nn.ReLU(), "has no weight to quantize"), (nn.LayerNorm(4), "no weight")])
def test_a_layer_without_matrices_is_named(layer, said):
    with pytest.raises(ConfigError, match=said):
        QAT_Quantizer(Only(layer), [{"quant_types": ["weight"], "quant_bits": 8, "op_names": ["layer"]}])


def test_a_weight_that_layers_share_has_one_grid_and_one_gradient(generator):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x))

    torch.manual_seed(0)
    model = Tied()
    QAT_Quantizer(model, [{"quant_types": ["weight"], "quant_bits": 4, "op_types": ["Embedding", "Linear"]}]).compress()
    assert torch.equal(model.embed.weight, model.head.weight)
    assert model.embed.old_weight is model.head.old_weight
    assert model.embed.weight_quantizer is model.head.weight_quantizer
    model(tokens(generator)).sum().backward()
    assert model.embed.old_weight.grad is not None


def test_a_layer_that_is_called_twice_observes_both_calls(generator):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(10 * self.layer(x))

    model = Twice()
    quantizer = ObserverQuantizer(model, [{"quant_types": ["input"], "quant_bits": 8, "op_names": ["layer"]}])
    x = torch.randn(64, 4, generator=generator)
    inner = 10 * model.layer(x).detach()
    quantizer.calibrate([x])
    scale = model.layer.scale
    low, high = min(float(x.min()), float(inner.min())), max(float(x.max()), float(inner.max()))
    torch.testing.assert_close(float(scale), (high - low) / 255)


@pytest.mark.parametrize("quantizer", [QAT_Quantizer, PACTQuantizer, ObserverQuantizer])
def test_the_quantizer_of_a_layer_without_parameters_lies_where_the_model_does(quantizer):
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).to("meta")  # stands for a GPU
    made = quantizer(model, [{"quant_types": ["output"], "quant_bits": 8, "op_types": ["ReLU"]}])
    if quantizer is not ObserverQuantizer:  # whose observers hang already
        made.compress()
    ((_, _, _, own),) = quantizers_of(model)
    assert {tensor.device.type for tensor in own.state_dict().values()} == {"meta"}
