"""Calibrations: what is written is taken over exactly, NNI's forms too, and what is none is refused whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchpare.errors import FileError, QuantizationError
from torchpare.quantization import ObserverQuantizer, QAT_Quantizer

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0)) + 0.3


def entry(**more):
    return [{"quant_types": ["weight", "input", "output"], "quant_bits": 8, "op_types": ["Linear"], **more}]


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))


def calibrated(**more):
    model = net()
    quantizer = ObserverQuantizer(model, entry(**more))
    quantizer.calibrate([X])
    return model.eval(), quantizer


@pytest.mark.parametrize("observer", ["min_max", "percentile", "kl", "mse"])
@pytest.mark.parametrize("compress_first", [True, False])
def test_a_new_model_takes_a_post_training_calibration_over(observer, compress_first, tmp_path):
    more = {"observer": {"input": observer, "output": observer}}
    model, quantizer = calibrated(**more)
    quantizer.export_model(tmp_path / "model.pth", tmp_path / "calibration.pth")
    again = net()
    other = ObserverQuantizer(again, entry(**more))
    if compress_first:
        other.compress()
    other.load_calibration_config(tmp_path / "calibration.pth")
    other.compress()
    assert torch.equal(again.eval()(X), model(X))


def test_calibrating_again_fixes_activations_on_the_new_batches_alone():
    model, quantizer = calibrated()
    quantizer.calibrate([3 * X, 30 * X])
    expected = max(0.0, float(30 * X.max())) - min(0.0, float(30 * X.min()))
    torch.testing.assert_close(float(model[0].input_quantizer.scale), expected / 255)
    assert model[0].input_quantizer.active
    quantizer.calibrate([X])
    assert torch.equal(model[0].input_quantizer.scale, calibrated()[0][0].input_quantizer.scale)


def trained():
    quantizer = QAT_Quantizer(net(), entry())
    quantizer.compress()
    return quantizer


@pytest.mark.parametrize(
    "own",
    [
        {"tracked_min_input": -1.0, "tracked_max_input": 4.0},
        {"tracked_min_input": torch.tensor([-1.0]), "tracked_max_input": torch.tensor([4.0])},
        {"input_bits": 8, "input_scale": torch.tensor([5 / 255]), "input_zero_point": torch.tensor([51.0])},
        {"input_bits": torch.tensor([8]), "input_scale": 5 / 255, "input_zero_point": 51},
    ],
)
def test_the_forms_in_which_nni_writes_numbers_are_read(own):
    quantizer = trained()
    quantizer.load_calibration_config({"0": own})
    watching = quantizer.bound_model[0].input_quantizer
    torch.testing.assert_close(float(watching.scale), 5 / 255)
    assert (int(watching.zero_point), watching.scale.shape, watching.active) == (51, (), True)


@pytest.mark.parametrize(
    ("own", "error"),
    [
        ({"tracked_min_input": 3.0, "tracked_max_input": -3.0}, QuantizationError),
        ({"tracked_min_input": torch.zeros(3), "tracked_max_input": torch.ones(3)}, QuantizationError),
        ({"tracked_min_input": torch.tensor(torch.nan), "tracked_max_input": 1.0}, QuantizationError),
        ({"tracked_min_input": torch.tensor(-torch.inf), "tracked_max_input": 1.0}, QuantizationError),
        ({"input_scale": torch.tensor(0.1), "input_zero_point": torch.tensor(300)}, QuantizationError),
        ({"input_scale": torch.tensor(0.1), "input_zero_point": torch.tensor(1.5)}, QuantizationError),
        ({"input_scale": torch.tensor(0.1), "input_zero_point": torch.tensor(torch.nan)}, QuantizationError),
        ({"input_scale": torch.tensor(0.0), "input_zero_point": torch.tensor(3)}, QuantizationError),
        ({"input_scale": torch.tensor(1j), "input_zero_point": torch.tensor(3)}, QuantizationError),
        ({"input_scale": torch.ones(2), "input_zero_point": torch.ones(2)}, QuantizationError),
        ({"input_bits": torch.tensor([8, 8])}, QuantizationError),
        ({"input_bits": 4}, QuantizationError),
        ({"tracked_min_input": -torch.inf, "tracked_max_input": 1.0}, FileError),
        ({"tracked_min_input": 0, "tracked_max_input": 10**400}, FileError),
        ({"input_scale": torch.ones(1).to_sparse(), "input_zero_point": torch.ones(1)}, FileError),
        ({"weight": {"scale": 1.0}}, FileError),
    ],
)
def test_what_is_no_calibration_is_named_and_nothing_is_taken_over(own, error):
    quantizer = trained()
    before = {key: value.clone() for key, value in quantizer.bound_model.state_dict().items()}
    with pytest.raises(error, match=r"'0'|0\["):
        quantizer.load_calibration_config({"2": {"tracked_min_input": -1.0, "tracked_max_input": 1.0}, "0": own})
    assert all(torch.equal(value, before[key]) for key, value in quantizer.bound_model.state_dict().items())


def test_a_layer_that_is_not_quantized_is_named():
    with pytest.raises(QuantizationError, match="'1', which is not quantized"):
        trained().load_calibration_config({"1": {"input_bits": 8}})


class Payload:
    """Unpickled without care, this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_files_that_are_missing_cut_short_or_meant_to_harm_are_refused(tmp_path):
    path = tmp_path / "calibration.pth"
    with pytest.raises(FileError, match="no calibration file"):
        trained().load_calibration_config(path)
    calibrated()[1].export_model(tmp_path / "model.pth", path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError):
        trained().load_calibration_config(path)
    torch.save({"0": {"input_scale": Payload(tmp_path / "harm")}}, path)
    with pytest.raises(FileError):
        trained().load_calibration_config(path)
    assert not (tmp_path / "harm").exists()
