"""A script of NNI 2.3: quantization-aware training, export with a calibration, and a reload into a new model."""
# isort: skip_file

import torchpare.compat.nni  # noqa: F401 - the added line

import torch
import torch.nn.functional as F
from digits import LeNet, evaluator, train_loader, trained
from nni.algorithms.compression.pytorch.quantization import (
    BNNQuantizer, DoReFaQuantizer, LsqQuantizer, NaiveQuantizer, ObserverQuantizer, QAT_Quantizer,
)  # fmt: skip
from nni.compression.pytorch import Quantizer

config_list = [
    {"quant_types": ["weight"], "quant_bits": {"weight": 8}, "op_types": ["Conv2d", "Linear"]},
    {"quant_types": ["output"], "quant_bits": 8, "quant_start_step": 10, "op_types": ["ReLU"]},
]


def train(model, quantizer, optimizer):
    model.train()
    for data, target in train_loader:
        optimizer.zero_grad()
        F.cross_entropy(model(data), target).backward()
        optimizer.step()


model = trained()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
quantizer = QAT_Quantizer(model, config_list, optimizer)
assert isinstance(quantizer, Quantizer)
quantizer.compress()
train(model, quantizer, optimizer)
assert evaluator(model) > 0.85
torch.save(model.state_dict(), "quantized_model.pth")

qmodel_load = LeNet()
optimizer = torch.optim.SGD(qmodel_load.parameters(), lr=0.01, momentum=0.5)
QAT_Quantizer(qmodel_load, config_list, optimizer).compress()
qmodel_load.load_state_dict(torch.load("quantized_model.pth"))
data = train_loader[0][0]
assert torch.equal(qmodel_load.eval()(data), model.eval()(data))
assert torch.equal(qmodel_load.conv1.module.scale, model.conv1.module.scale)

calibration_config = quantizer.export_model(
    "mnist_model.pth", "mnist_calibration.pth", "mnist_model.onnx", (1, 1, 8, 8), torch.device("cpu")
)
assert calibration_config["conv1"]["weight_bit"] == 8
assert calibration_config["relu1"]["tracked_max_activation"] > 0
plain = LeNet()
plain.load_state_dict(torch.load("mnist_model.pth"))

one_bit = [{"quant_types": ["weight"], "quant_bits": 1, "op_types": ["Conv2d"]}]
weight_alone = [{"quant_types": ["weight"], "quant_bits": 8, "op_types": ["default"]}]
for kind, asked in ((NaiveQuantizer, weight_alone), (DoReFaQuantizer, weight_alone), (LsqQuantizer, weight_alone),
                    (BNNQuantizer, one_bit)):  # fmt: skip
    model = trained()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    quantizer = kind(model, asked, optimizer)
    quantizer.compress()
    train(model, quantizer, optimizer)
    names = [wrapper.name for wrapper in quantizer.get_modules_wrapper()]
    assert names[:2] == ["conv1", "conv2"], names

model = trained().eval()
quantizer = ObserverQuantizer(model, [{"quant_types": ["weight", "input"], "quant_bits": 8, "op_types": ["Conv2d"]}])
with torch.no_grad():
    model(data)
quantizer.compress()
assert evaluator(model) > 0.85
print("done")
