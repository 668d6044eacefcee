"""Activations that meet in a concatenation have one grid, which covers all of them; others keep their own."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.vision import torchvision_models
from torchpare.attach import quantizers_of
from torchpare.quantization import LsqPlusQuantizer, LsqQuantizer, ObserverQuantizer, PACTQuantizer, QAT_Quantizer


class Inception(nn.Module):
    """Two branches of very different size, side by side, and a third that is added."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large, self.third = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 2, 1)
        with torch.no_grad():
            self.large.weight.mul_(20)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.small(x), F.max_pool2d(self.large(x), 3, 1, 1)], 1)
        return self.last(y + self.third(y))


def asked(bits=8):
    return [{"quant_types": ["output"], "quant_bits": bits, "op_types": ["Conv2d"]}]


def outputs_of(model, names, x):
    found = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, __, y, name=name: found.setdefault(name, y))
        for name in names
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(
    ("quantizer", "observer"),
    [*((QAT_Quantizer, observer) for observer in ("min_max", "moving_average")),
     *((ObserverQuantizer, observer) for observer in ("min_max", "moving_average", "percentile", "kl", "mse"))],
)  # fmt: skip
def test_what_is_concatenated_has_one_grid_that_covers_both(quantizer, observer, generator):
    torch.manual_seed(0)
    model, x = Inception(), torch.randn(4, 3, 6, 6, generator=generator)
    apart = copy.deepcopy(model)
    for own, more in ((model, {"dummy_input": x}), (apart, {})):
        method = quantizer(own, [{**asked()[0], "observer": observer}], **more)
        if quantizer is ObserverQuantizer:
            method.calibrate([x, 0.5 * x])
        else:
            method.compress()
            own.train()
            for share in (1.0, 0.5):
                own(share * x)
        own.eval()
    assert torch.equal(model.small.scale, model.large.scale)
    assert torch.equal(model.small.zero_point, model.large.zero_point)
    assert not torch.equal(model.small.scale, model.third.scale)
    assert not torch.equal(apart.small.scale, apart.large.scale)
    # The large branch loses nothing; the small one is rounded as coarsely as the large one.
    torch.testing.assert_close(model.large.scale, apart.large.scale, rtol=0.02, atol=0)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(x), model(x))
        again.train()(10 * x) if quantizer is QAT_Quantizer else None
        assert torch.equal(again.small.scale, again.large.scale)


@pytest.mark.parametrize("quantizer", [LsqQuantizer, LsqPlusQuantizer, PACTQuantizer])
def test_a_grid_that_is_learnt_is_learnt_once(quantizer, generator):
    torch.manual_seed(0)
    model, x = Inception(), torch.randn(4, 3, 6, 6, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    groups = len(optimizer.param_groups)
    quantizer(model, asked(4), optimizer, dummy_input=x).compress()
    assert len(optimizer.param_groups) == groups + 1
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    assert model.small.output_quantizer is model.large.output_quantizer
    assert torch.equal(model.small.scale, model.large.scale)
    again = Inception()
    quantizer(again, asked(4), dummy_input=x).compress()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(x), model.eval()(x))


def test_dense_blocks_share_and_residuals_do_not(generator):
    models = torchvision_models()
    torch.manual_seed(0)
    model = models.DenseNet(num_init_features=8, growth_rate=4, block_config=(2, 2), num_classes=5).eval()
    x = torch.randn(1, 3, 32, 32, generator=generator)
    QAT_Quantizer(model, asked(), dummy_input=x).compress()
    model.train()(torch.cat([x, x]))
    scales = {path: own.scale for path, _, kind, own in quantizers_of(model) if kind == "output"}
    block = [path for path in scales if path.startswith("features.denseblock1") and path.endswith("conv2")]
    assert len(block) == 2
    assert len({float(scales[path]) for path in block}) == 1
    resnet = models.resnet18(num_classes=5)
    method = QAT_Quantizer(resnet, asked(), dummy_input=torch.randn(1, 3, 32, 32, generator=generator))
    assert method.joined == []
    with_cat = QAT_Quantizer(model_with_fire(), asked(), dummy_input=torch.randn(1, 4, 8, 8, generator=generator))
    assert [[place.name for place in group] for group in with_cat.joined] == [["a.output", "b.output", "c.output"]]


def model_with_fire():
    class Fire(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(width, 4, 1) for width in (4, 4, 8))

        def forward(self, x: Tensor) -> Tensor:
            y = torch.cat([self.a(x), self.b(x)], 1)
            halves = torch.cat([y, self.c(y)], 1).chunk(2, 1)
            return halves[0] * halves[1].sigmoid().repeat(1, 1, 1, 1)

    return Fire()
