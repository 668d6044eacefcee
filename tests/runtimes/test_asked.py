"""What cannot be done is told before anything is made: no model, no batches, numbers and names of another kind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchpare.errors import ConfigError, ExportError, FileError, QuantizationError
from torchpare.runtimes import ModelSpeedupONNXRuntime, build_program

X = torch.randn(2, 8)


def engine(model=None, **options):
    return ModelSpeedupONNXRuntime(nn.Linear(8, 4) if model is None else model, dummy_input=X, **options)


def compiled():
    made = engine(calib_data_loader=[X])
    made.compress()
    return made


@pytest.mark.parametrize(
    ("model", "told"),
    [("net.pth", "a str"), (nn.Linear, "the class Linear"), (nn.Linear(8, 4).state_dict(), "a OrderedDict")],
)
def test_what_is_no_model_is_told(model, told):
    for make in (engine, lambda wrong: build_program(wrong, X)):
        with pytest.raises(ConfigError, match=f"model is {told}, not a torch.nn.Module"):
            make(model)


def test_a_model_or_an_input_without_values_is_told():
    for make in (engine, lambda wrong: build_program(wrong, X)):
        with pytest.raises(ExportError, match="no values to compute with: 'weight' is on the meta device; load"):
            make(nn.Linear(8, 4, device="meta"))
    for given, batches in ((X.to("meta"), [X]), (X, [X.to("meta")])):
        with pytest.raises((ExportError, QuantizationError), match=r"shape \(2, 8\) is on the meta device"):
            build_program(nn.Linear(8, 4), given, calibration=batches)
    with pytest.raises(ExportError, match="on the meta device"):
        compiled().inference(X.to("meta"))


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_a_number_of_threads_is_one_or_more(threads):
    with pytest.raises(ConfigError, match=f"threads is {threads!r}; it is a whole number, 1 or more"):
        engine(threads=threads)


@pytest.mark.parametrize("batches", [5, lambda: [X]])
def test_batches_that_cannot_be_gone_through_are_told(batches):
    with pytest.raises(ConfigError, match=rf"calibration is a {type(batches).__name__}; it is a list of batches"):
        engine(calib_data_loader=batches).compress()


def test_batches_that_somebody_has_gone_through_before_are_told():
    batches = iter([X])
    engine(calib_data_loader=batches).compress()
    with pytest.raises(QuantizationError, match="no batch, or was used up by who went through it before: give a list"):
        engine(calib_data_loader=batches).compress()
    with pytest.raises(QuantizationError, match="no batch: give some"):
        engine(calib_data_loader=[]).compress()


@pytest.mark.parametrize("names", ["0", None, 3])
def test_names_of_layers_are_a_list(names):
    with pytest.raises(ConfigError, match=f"exclude is {names!r}; it is a list of names of layers"):
        engine(exclude=names).compress()


def test_the_name_of_the_whole_model_excludes_all_of_it():
    program = build_program(nn.Sequential(nn.Linear(8, 4)), X, calibration=[X], exclude=[""])
    assert [str(place) for place in program.floats] == ["0: excluded"]


def test_a_switch_is_on_or_off():
    with pytest.raises(ConfigError, match="round_inputs is 'no'; it is True or False"):
        engine(round_inputs="no")


class Times(nn.Module):
    def forward(self, x, factor):
        return x * factor


def test_what_is_no_tensor_is_part_of_the_program_and_no_other_is_taken():
    made = ModelSpeedupONNXRuntime(Times(), dummy_input=(X, 2))
    made.compress()
    assert torch.equal(made.inference((X, 2))[0], 2 * X)
    with pytest.raises(ExportError, match="input 1 is 5, and the program was recorded with 2, which is part of it"):
        made.inference((X, 5))
    with pytest.raises(ExportError, match="input 0 is a ndarray, and the example has a tensor there"):
        made.inference((X.numpy(), 2))


@pytest.mark.parametrize("path", [None, 5, "\0"])
def test_what_is_no_path_is_told(path):
    made = compiled()
    with pytest.raises(FileError, match="it is not the name of a file"):
        made.export_quantized_model(path)
    with pytest.raises(ExportError, match=r"it is the name of a file|there is no file"):
        made.load_quantized_model(path)
    assert made.inference(X)[0].shape == (2, 4)
