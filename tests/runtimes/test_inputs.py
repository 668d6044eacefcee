"""What a program is given: by name in any order, in the model's precision, and refused in words where it is wrong."""

from __future__ import annotations

import copy
from collections import UserDict

import pytest
import torch
from torch import nn

from torchpare.errors import ExportError, QuantizationError
from torchpare.runtimes import RUNTIMES, ModelSpeedupONNXRuntime, ModelSpeedupOpenVINO, build_program, verify
from torchpare.runtimes.verify import snr


class Two(nn.Module):
    """Two inputs of very different size."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.small, self.large = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x, y):
        return self.small(x) + self.large(y)


GIVEN = {"x": torch.randn(4, 8), "y": 100 * torch.randn(4, 8)}
TURNED = {"y": GIVEN["y"], "x": GIVEN["x"]}


def test_keywords_may_come_in_another_order_than_the_examples():
    straight, turned = (build_program(Two().eval(), GIVEN, calibration=[each]) for each in (GIVEN, TURNED))
    assert {site.name: site.step for site in straight.sites} == {site.name: site.step for site in turned.sites}
    outputs, _ = straight.values(TURNED)
    assert torch.equal(outputs[0], straight.values(GIVEN)[0][0])


class OfThree(nn.Module):
    """Reads two of its three inputs."""

    def __init__(self):
        super().__init__()
        self.both = Two()

    def forward(self, x, unread, y):
        return self.both(x, y)


@pytest.mark.parametrize("kind", [ModelSpeedupONNXRuntime, ModelSpeedupOpenVINO])
def test_an_input_that_nothing_reads_is_given_all_the_same(kind):
    x, y = GIVEN["x"], GIVEN["y"]
    given, model = (x, torch.randn(4, 3), y), OfThree().eval()
    engine = kind(model, dummy_input=given, calib_data_loader=[given])
    engine.compress()
    for fewer in (4, 3):
        part = tuple(each[:fewer] for each in given)
        with torch.no_grad():
            assert snr(model(*part), engine.inference(part)[0]) > 30
    assert verify(engine, given).ok


def test_what_openvino_cannot_compile_is_told_without_places_in_its_source():
    model = nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular")
    with pytest.raises(ExportError, match=r"OpenVINO cannot compile \S+: -- Conv"):
        ModelSpeedupOpenVINO(model, [1, 3, 6, 6]).compress()


def test_a_mapping_that_is_no_dict_holds_keywords_too():
    """As tokenizers of transformers return it."""
    engine = ModelSpeedupONNXRuntime(Two().eval(), dummy_input=UserDict(GIVEN), calib_data_loader=[UserDict(TURNED)])
    engine.compress()
    assert torch.equal(engine.inference(UserDict(TURNED))[0], engine.inference(GIVEN)[0])


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ((GIVEN["x"], torch.zeros(4)), r"2 positional inputs; like the example, give 1 positional input and no"),
        (
            {"z": GIVEN["x"], "label": GIVEN["x"]},
            r"the keywords 'z', 'label'; like the example, give 1 positional",
        ),
        (
            torch.randn(4, 9),
            r"a batch of shapes \[\(4, 9, 'float32'\)\], and the example's are \[\(4, 8, 'float32'\)\]",
        ),
        (torch.randn(8), r"a batch of shapes \[\(8, 'float32'\)\]"),
    ],
)
def test_a_calibration_batch_of_another_form_is_told(batch, told):
    with pytest.raises(QuantizationError, match=told):
        build_program(nn.Linear(8, 4), GIVEN["x"], calibration=[batch])


def test_values_that_are_not_finite_are_told_without_the_interpreters_own_words():
    with pytest.raises(QuantizationError) as caught:
        build_program(nn.Linear(8, 4), GIVEN["x"], calibration=[torch.full((4, 8), torch.nan)])
    assert "\n" not in str(caught.value)


def test_inputs_of_other_sizes_are_refused_wherever_a_program_is_run():
    engine = ModelSpeedupONNXRuntime(nn.Linear(8, 4), dummy_input=GIVEN["x"], calib_data_loader=[GIVEN["x"]])
    engine.compress()
    wrong = torch.randn(4, 9)
    for run in (engine.inference, engine.runner, lambda data: verify(engine, data)):
        with pytest.raises(ExportError, match=r"inputs of shapes \[\(4, 9, 'float32'\)\]"):
            run(wrong)
    with pytest.raises(ExportError, match="'float64'"):
        engine.runner(GIVEN["x"].double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_another_precision_takes_inputs_of_that_and_is_computed_in_float32(dtype):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).to(dtype).eval()
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    engine = ModelSpeedupONNXRuntime(model, dummy_input=x, calib_data_loader=[x])
    engine.compress()
    assert verify(engine, x).ok
    output, _ = engine.inference(x)
    assert output.dtype == torch.float32
    assert torch.equal(engine.inference(x.float())[0], output)
    wanted = copy.deepcopy(model).float()(x.float()).detach()
    assert float((output - wanted).norm() / wanted.norm()) < 0.05
    assert next(model.parameters()).dtype == dtype


class Cache:
    """What no program can return."""


class Remembering(nn.Module):
    def forward(self, x):
        return x, Cache()


def test_a_model_that_is_no_program_is_told_why():
    with pytest.raises(ExportError, match="Linear does not run on the example input: RuntimeError: mat1 and mat2"):
        build_program(nn.Linear(9, 4), GIVEN["x"])
    with pytest.raises(ExportError, match="it returns Cache, which programs do not know; let it return tensors alone"):
        build_program(Remembering(), GIVEN["x"])


class Starred(Two):
    def forward(self, *given):
        joined = [layer(x).view(x.shape[0], 2, 4) for layer, x in zip((self.small, self.large), given, strict=True)]
        return joined[0] @ joined[1].mT


def test_the_batch_of_starred_arguments_may_vary():
    batches = [(torch.randn(size, 8), torch.randn(size, 8)) for size in (2, 5)]
    program = build_program(Starred().eval(), batches[0], calibration=batches)
    assert program(*batches[1]).shape == (5, 2, 2)
    engine = ModelSpeedupONNXRuntime(Starred().eval(), dummy_input=batches[0], calib_data_loader=batches)
    engine.compress()
    assert verify(engine, batches[1]).ok


class Idle(Two):
    def forward(self, idle, y):
        return self.small(y)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_input_that_nothing_reads_may_be_given(runtime):
    pytest.importorskip(runtime)
    batches = [(torch.randn(size, 3), torch.randn(size, 8)) for size in (2, 5)]
    engine = RUNTIMES[runtime](Idle().eval(), dummy_input=batches[0], calib_data_loader=batches)
    engine.compress()
    for each in batches:
        assert verify(engine, each).ok
    with pytest.raises(ExportError, match="1 positional input"):
        engine.inference(batches[0][:1])
