"""The pruning part of the well-known tutorial, its calls word for word and in its order, on the demo's net."""

from __future__ import annotations

from time import time

import pytest
import torch
import torch.nn.functional as F

from examples.resnet20 import ResNet20
from tests.support.vision import randomise
from torchpare import ModelSpeedup, apply_compression_results
from torchpare.pruning import FPGMPruner, L1FilterPruner, L2FilterPruner, LevelPruner

device = torch.device("cpu")
masks_file = "mask_vgg19_cifar10.pth"


@pytest.fixture
def model(generator):
    return randomise(ResNet20(width=8), generator)


@pytest.fixture
def dummy_input(generator):
    return torch.randn(2, 1, 28, 28, generator=generator)


@pytest.fixture(autouse=True)
def _files_go_to_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fine_tune(model, pruner, generator, epochs=2):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for epoch in range(epochs):
        pruner.update_epoch(epoch)
        model.train()
        for _ in range(2):
            data = torch.randn(8, 1, 28, 28, generator=generator)
            target = torch.randint(10, (8,), generator=generator)
            optimizer.zero_grad()
            F.cross_entropy(model(data), target).backward()
            optimizer.step()
            pruner.step()


def test_the_tutorial_runs_word_for_word(model, dummy_input, generator, tmp_path):
    config_list = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
    pruner = L1FilterPruner(model, config_list)
    model = pruner.compress()

    fine_tune(model, pruner, generator)

    pruner.export_model(model_path="pruned_vgg19_cifar10.pth", mask_path="mask_vgg19_cifar10.pth")
    state = torch.load("pruned_vgg19_cifar10.pth", weights_only=True)
    ResNet20(width=8).load_state_dict(state, strict=True)

    apply_compression_results(model, masks_file, device)
    masked = model.eval()(dummy_input).detach()

    pruner.export_model(
        model_path="pruned_vgg19_cifar10.pth",
        mask_path="mask_vgg19_cifar10.pth",
        onnx_path="model.onnx",
        input_shape=[1, 1, 28, 28],
    )

    m_speedup = ModelSpeedup(model, dummy_input.to(device), masks_file, device)
    m_speedup.speedup_model()

    dummy_input = dummy_input.to(device)
    start = time()
    out = model(dummy_input)
    assert time() - start >= 0

    torch.testing.assert_close(out, masked, rtol=1e-4, atol=1e-4 * float(masked.abs().max()))
    before, after = (sum(p.numel() for p in net.parameters()) for net in (ResNet20(width=8), model))
    assert before / after > 1.8  # layers joined by a residual were not asked to agree: see dependency_aware
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mask_vgg19_cifar10.pth",
        "model.onnx",
        "pruned_vgg19_cifar10.pth",
    ]


def test_what_the_tutorial_exports_runs_in_onnx_runtime(model, generator):
    pruner = L1FilterPruner(model, [{"sparsity": 0.5, "op_types": ["Conv2d"]}])
    model = pruner.compress()
    x = torch.randn(1, 1, 28, 28, generator=generator)
    expected = model.eval()(x).detach()

    pruner.export_model(
        model_path="model.pth", mask_path="mask.pth", onnx_path="model.onnx", input_shape=[1, 1, 28, 28]
    )

    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_the_tutorials_list_of_three_entries_is_read_in_order(model):
    config_list = [
        {"sparsity": 0.8, "op_types": ["default"]},
        {"sparsity": 0.6, "op_names": ["layer1.0.conv1", "layer1.0.conv2"]},
        {"exclude": True, "op_names": ["layer2.0.conv1"]},
    ]
    pruner = LevelPruner(model, config_list)
    model = pruner.compress()

    pruned = {
        name: float((module.weight == 0).float().mean())
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    }
    assert pruned["layer2.0.conv1"] == 0
    for name in ("layer1.0.conv1", "layer1.0.conv2"):
        assert pruned[name] == pytest.approx(0.6, abs=0.002)
    for name in ("conv1", "layer1.1.conv1", "layer3.2.conv2", "fc"):
        assert pruned[name] == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("algorithm", [L1FilterPruner, L2FilterPruner, FPGMPruner])
def test_the_tutorial_works_with_every_pruner_of_filters(algorithm, model, dummy_input):
    pruner = algorithm(
        model, [{"sparsity": 0.5, "op_types": ["Conv2d"]}], dependency_aware=True, dummy_input=dummy_input
    )
    model = pruner.compress()
    pruner.export_model(model_path="model.pth", mask_path="mask.pth")
    report = ModelSpeedup(model, dummy_input, "mask.pth", device).speedup_model()
    assert report.exact
    assert report.largest_difference <= 1e-10
    assert report.parameters_after < report.parameters_before / 3.5
