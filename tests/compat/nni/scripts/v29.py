"""A script of NNI 2.9 and 2.10: pruners with an evaluator, and quantizers under the later path."""
# isort: skip_file

import torchpare.compat.nni  # noqa: F401 - the added line

import copy

import nni
import torch
from digits import evaluator as evaluating_func
from digits import size, train_loader, trained
from nni.compression.pytorch import TorchEvaluator
from nni.compression.pytorch.pruning import (
    ADMMPruner, ActivationAPoZRankPruner, AGPPruner, MovementPruner, SlimPruner, TaylorFOWeightPruner,
)  # fmt: skip
from nni.compression.pytorch.quantization import QAT_Quantizer
from nni.compression.pytorch.speedup import ModelSpeedup

dummy_input = train_loader[0][0]
dense = trained()
config_list = [{"op_types": ["Conv2d"], "sparsity": 0.5}]


def training_func(model, optimizers, criterion, lr_schedulers=None, max_steps=None, max_epochs=None):
    steps = 0
    for _ in range(max_epochs or 1):
        model.train()
        for data, target in train_loader:
            optimizers.zero_grad()
            criterion(model(data), target).backward()
            optimizers.step()
            steps += 1
            if max_steps is not None and steps >= max_steps:
                return
        if lr_schedulers is not None:
            lr_schedulers.step()


def with_evaluator():
    model = copy.deepcopy(dense)
    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.02, momentum=0.9)
    scheduler = nni.trace(torch.optim.lr_scheduler.StepLR)(optimizer, step_size=1)
    return model, TorchEvaluator(
        training_func=training_func, optimizers=optimizer, criterion=torch.nn.functional.cross_entropy,
        lr_schedulers=scheduler, dummy_input=dummy_input, evaluating_func=evaluating_func,
    )  # fmt: skip


for make in (
    lambda model, evaluator: SlimPruner(model, [{"op_types": ["BatchNorm2d"], "total_sparsity": 0.5}], evaluator, 1),
    lambda model, evaluator: ActivationAPoZRankPruner(model, config_list, evaluator, training_steps=5),
    lambda model, evaluator: TaylorFOWeightPruner(model, config_list, evaluator, training_steps=5),
    lambda model, evaluator: ADMMPruner(model, config_list, evaluator, iterations=2, training_epochs=1,
                                        granularity="coarse-grained"),
    lambda model, evaluator: MovementPruner(model, [{"op_names": ["fc1"], "sparsity": 0.8}], evaluator, warm_up_step=2,
                                            cool_down_beginning_step=15, training_epochs=1),
    lambda model, evaluator: AGPPruner(model, config_list, "taylorfo", 2, evaluator=evaluator,
                                       pruning_params={"evaluator": evaluator, "training_steps": 3}),
):  # fmt: skip
    model, evaluator = with_evaluator()
    pruner = make(model, evaluator)
    _, masks = pruner.compress()
    assert masks, type(pruner).__name__
    pruner._unwrap_model()
    if type(pruner).__name__ != "MovementPruner":
        before = size(model)
        ModelSpeedup(model, dummy_input, masks, batch_dim=0, confidence=8).speedup_model()
        assert size(model) < 0.8 * before, type(pruner).__name__
    assert evaluating_func(model) > 0.3

model, evaluator = with_evaluator()
evaluator.bind_model(model)
evaluator.train(max_epochs=1)
assert evaluator.evaluate()[0] > 0.85

model = copy.deepcopy(dense)
quantizer = QAT_Quantizer(
    model,
    [{"quant_types": ["weight"], "quant_bits": {"weight": 8}, "op_types": ["Conv2d"], "quant_dtype": {"weight": "int"},
      "quant_scheme": {"weight": "per_channel_symmetric"}},
     {"quant_types": ["output"], "quant_bits": {"output": 8}, "op_types": ["ReLU"]}],
    torch.optim.SGD(model.parameters(), lr=0.01),
    dummy_input=dummy_input,
)  # fmt: skip
quantizer.compress()
training_func(model, quantizer.optimizer, torch.nn.functional.cross_entropy, max_epochs=1)
calibration = quantizer.export_model("model.pth", "calibration.pth")
quantizer.load_calibration_config(calibration)
assert calibration["conv1"]["weight_bits"] == 8
print("done")
