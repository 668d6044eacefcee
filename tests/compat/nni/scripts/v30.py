"""A script of NNI 3: config of targets, an evaluator with a training step, and the model that comes back small."""
# isort: skip_file

import torchpare.compat.nni  # noqa: F401 - the added line

import copy

import nni
import torch
import torch.nn.functional as F
from digits import evaluator as evaluating_func
from digits import size, train_loader, trained
from nni.compression import TorchEvaluator
from nni.compression.distillation import DynamicLayerwiseDistiller
from nni.compression.pruning import AGPPruner, FPGMPruner, L1NormPruner, LinearPruner, MovementPruner, TaylorPruner
from nni.compression.quantization import LsqQuantizer, PtqQuantizer, QATQuantizer
from nni.compression.speedup import ModelSpeedup
from nni.compression.utils import auto_set_denpendency_group_ids

dummy_input = train_loader[0][0]
dense = trained()


def training_step(batch, model):
    data, target = batch
    return F.cross_entropy(model(data), target)


def training_func(model, optimizer, training_step, lr_scheduler=None, max_steps=None, max_epochs=None):
    steps = 0
    for _ in range(max_epochs or 2):
        model.train()
        for batch in train_loader:
            optimizer.zero_grad()
            training_step(batch, model).backward()
            optimizer.step()
            steps += 1
            if max_steps is not None and steps >= max_steps:
                return


def with_evaluator():
    model = copy.deepcopy(dense)
    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.02, momentum=0.9)
    return model, TorchEvaluator(
        training_func=training_func, optimizers=optimizer, training_step=training_step, dummy_input=dummy_input,
        evaluating_func=evaluating_func,
    )  # fmt: skip


# the quick start: prune, unwrap, speed up, fine-tune
model = copy.deepcopy(dense)
config_list = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5, "exclude_op_names": ["conv1"]}]
pruner = L1NormPruner(model, config_list)
_, masks = pruner.compress()
for name, mask in masks.items():
    print(name, " sparsity : ", "{:.2}".format(mask["weight"].sum() / mask["weight"].numel()))
pruner.unwrap_model()
before = size(model)
model = ModelSpeedup(model, torch.rand(3, 1, 8, 8), masks).speedup_model()
assert size(model) < 0.6 * before
training_func(model, torch.optim.SGD(model.parameters(), 1e-2), training_step, max_epochs=1)
assert evaluating_func(model) > 0.8

# schedules and criteria that look at data
targets = [{"op_names_re": ["conv.*"], "target_names": ["weight", "bias"], "sparse_ratio": 0.5}]
for make in (
    lambda model, evaluator: FPGMPruner(model, auto_set_denpendency_group_ids(model, targets, dummy_input)),
    lambda model, evaluator: TaylorPruner(model, targets, evaluator, training_steps=5),
    lambda model, evaluator: LinearPruner(L1NormPruner(model, targets, evaluator), interval_steps=5, total_times=3),
    lambda model, evaluator: AGPPruner(TaylorPruner(model, targets, evaluator, 5), interval_steps=5, total_times=3),
):
    model, evaluator = with_evaluator()
    pruner = make(model, evaluator)
    model, masks = pruner.compress(max_steps=None, max_epochs=2)
    assert masks["conv2"]["weight"].mean() == 0.5, type(pruner).__name__
    pruner.unwrap_model()
    model = ModelSpeedup(model, dummy_input, masks).speedup_model()
    assert size(model) < 0.6 * before
    assert evaluating_func(model) > 0.3

model, evaluator = with_evaluator()
pruner = MovementPruner(model, [{"op_types": ["Linear"], "sparse_ratio": 0.75}], evaluator, 5, 30)
model, masks = pruner.compress(max_steps=40)
assert abs(float(masks["fc1"]["weight"].mean()) - 0.25) < 0.01

# quantization
grids = [
    {"op_types": ["Conv2d", "Linear"], "target_names": ["_input_", "weight"], "quant_dtype": "int8",
     "quant_scheme": "symmetric", "target_settings": {"weight": {"granularity": "out_channel"}}},
    {"op_names": ["relu1", "relu2"], "target_names": ["_output_0"], "quant_dtype": "uint8", "quant_scheme": "affine"},
]  # fmt: skip
for make in (
    lambda model, evaluator: QATQuantizer(model, grids, evaluator, len(train_loader)),
    lambda model, evaluator: QATQuantizer(model, [{**grids[0], "fuse_names": [("conv1", "bn1")]}], evaluator),
    lambda model, evaluator: PtqQuantizer(model, grids, evaluator),
    lambda model, evaluator: LsqQuantizer(model, grids[:1], evaluator),
):
    model, evaluator = with_evaluator()
    quantizer = make(model, evaluator)
    model, calibration_config = quantizer.compress(None, max_epochs=2)
    assert calibration_config["conv1"]["weight_bits"] == 8
    quantizer.update_calibration_config(quantizer.get_calibration_config())
    assert evaluating_func(model) > 0.85, type(quantizer).__name__

# distillation: the pruned student learns from the dense model
model, evaluator = with_evaluator()
pruner = L1NormPruner(model, targets)
pruner.compress()
model(dummy_input)
links = [{"op_names": ["bn2"], "link": "auto", "lambda": 0.5, "apply_method": "mse"},
         {"op_names": ["fc2"], "link": "auto", "lambda": 0.9, "apply_method": "kl"}]  # fmt: skip
teacher = copy.deepcopy(dense).eval()
distiller = DynamicLayerwiseDistiller(model, links, evaluator, teacher, lambda batch, teacher: teacher(batch[0]), 0.1)
distiller.compress(max_steps=None, max_epochs=2)
assert evaluating_func(model) > 0.7

# one compressor on top of another
model, evaluator = with_evaluator()
pruner = L1NormPruner(model, targets, evaluator)
pruner.compress()
quantizer = QATQuantizer.from_compressor(pruner, grids)
model, _ = quantizer.compress(max_steps=None, max_epochs=2)
assert (model.conv2.weight.flatten(1) == 0).all(dim=1).sum() == 16
assert evaluating_func(model) > 0.7
print("done")
