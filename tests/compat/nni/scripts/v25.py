"""A script of NNI 2.5 to 2.8: the second framework, with traced optimizers and trainers, under both of its paths."""
# isort: skip_file

import torchpare.compat.nni  # noqa: F401 - the added line

import copy

import nni
import torch
from digits import evaluator, size, train_loader, trained, trainer
from nni.algorithms.compression.v2.pytorch.pruning import ADMMPruner, AGPPruner, L1NormPruner, LinearPruner
from nni.compression.pytorch import ModelSpeedup
from nni.compression.pytorch.pruning import (
    ActivationAPoZRankPruner, ActivationMeanRankPruner, AMCPruner, AutoCompressPruner, FPGMPruner, L2NormPruner,
    LevelPruner, LotteryTicketPruner, MovementPruner, PruningScheduler, SimulatedAnnealingPruner, SlimPruner,
    TaylorFOWeightPruner,
)  # fmt: skip
from nni.compression.pytorch.pruning.tools import AGPTaskGenerator

dummy_input = train_loader[0][0]
dense = trained()
criterion = torch.nn.CrossEntropyLoss()
config_list = [
    {"op_types": ["Conv2d"], "sparsity_per_layer": 0.5},
    {"op_names": ["conv1"], "exclude": True},
]


def train_func(model, optimizer, criterion):
    trainer(model, optimizer, criterion)


def finetuner(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    trainer(model, optimizer, criterion)


def made(pruner_class, config_list, *args, **kwargs):
    model = copy.deepcopy(dense)
    traced_optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.02, momentum=0.9)
    trained_by = (train_func, traced_optimizer, criterion)
    spread = [one for arg in args for one in (trained_by if arg is Ellipsis else [arg])]
    return pruner_class(model, config_list, *spread, **kwargs)


pruners = [
    made(LevelPruner, config_list),
    made(LevelPruner, [{"op_names": ["fc1"], "sparsity": 0.5}], mode="balance", balance_gran=[4, 4]),
    made(L1NormPruner, config_list, mode="dependency_aware", dummy_input=dummy_input),
    made(L2NormPruner, [{"op_partial_names": ["conv"], "sparsity": 0.5}]),
    made(FPGMPruner, config_list),
    made(SlimPruner, [{"op_types": ["BatchNorm2d"], "total_sparsity": 0.5}], ..., training_epochs=1, scale=1e-4,
         mode="global"),
    made(ActivationAPoZRankPruner, config_list, ..., training_batches=4, activation="relu"),
    made(ActivationMeanRankPruner, config_list, ..., 4),
    made(TaylorFOWeightPruner, config_list, ..., training_batches=4, mode="global"),
    made(ADMMPruner, config_list, ..., iterations=2, training_epochs=1),
    made(MovementPruner, config_list, ..., training_epochs=1, warm_up_step=2, cool_down_beginning_step=15),
    made(AGPPruner, config_list, "l1", total_iteration=3, finetuner=finetuner, evaluator=evaluator),
    made(LinearPruner, config_list, pruning_algorithm="level", total_iteration=2, log_dir="logs", finetuner=finetuner),
    made(LotteryTicketPruner, config_list, "l1", 2, finetuner=finetuner, evaluator=evaluator, reset_weight=True),
    made(SimulatedAnnealingPruner, [{"op_types": ["Conv2d"], "total_sparsity": 0.4}], evaluator, 100, 90, 0.9,
         pruning_algorithm="l1"),
]  # fmt: skip
for pruner in pruners:
    name = type(pruner).__name__
    model, masks = pruner.compress()
    model(dummy_input)
    pruner.show_pruned_weights()
    for layer, mask in masks.items():
        mask["weight"].sum() / mask["weight"].numel()  # as the quick start prints it
        assert mask["weight"].shape == dict(model.named_parameters())[f"{layer}.weight"].shape
    if hasattr(pruner, "get_best_result"):
        _, model, masks, _, _ = pruner.get_best_result()
    pruner.export_model("model.pth", mask_path="mask.pth")
    plain = copy.deepcopy(dense)
    plain.load_state_dict(torch.load("model.pth", weights_only=True), strict=True)
    before = size(plain)
    ModelSpeedup(plain, dummy_input, "mask.pth").speedup_model()
    small = name in ("LevelPruner", "ADMMPruner", "MovementPruner", "LinearPruner")
    assert small or size(plain) < 0.9 * before, name

# the quick start: prune, unwrap, speed up by the masks in memory, a new optimizer
model = copy.deepcopy(dense)
pruner = L1NormPruner(model, config_list)
_, masks = pruner.compress()
pruner._unwrap_model()
before = size(model)
ModelSpeedup(model, torch.rand(3, 1, 8, 8), masks).speedup_model()
assert size(model) < 0.6 * before
trainer(model, torch.optim.SGD(model.parameters(), 1e-2), criterion)
assert evaluator(model) > 0.8

# speedup inside of the pruner
model = copy.deepcopy(dense)
pruner = AGPPruner(model, config_list, "l1", 2, finetuner=finetuner, speedup=True, dummy_input=dummy_input,
                   evaluator=None, pruning_params={"mode": "dependency_aware", "dummy_input": dummy_input})  # fmt: skip
small, _ = pruner.compress()
assert size(small) < 0.6 * before

# a scheduler of parts
model = copy.deepcopy(dense)
optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.02)
task_generator = AGPTaskGenerator(total_iteration=3, origin_model=model, origin_config_list=config_list, log_dir=".")
pruner = TaylorFOWeightPruner(model, config_list, train_func, optimizer, criterion, training_batches=4)
scheduler = PruningScheduler(pruner, task_generator, finetuner=finetuner, speedup=True, dummy_input=dummy_input)
scheduler.compress()
_, model, masks, _, _ = scheduler.get_best_result()
assert size(model) < 0.6 * before

# searches that shrink
model = copy.deepcopy(dense)
admm_params = {
    "trainer": train_func,
    "traced_optimizer": None,
    "criterion": criterion,
    "iterations": 1,
    "training_epochs": 1,
}
sa_params = {"evaluator": evaluator, "start_temperature": 100, "stop_temperature": 90, "pruning_algorithm": "l1"}
pruner = AutoCompressPruner(model, [{"op_types": ["Conv2d"], "total_sparsity": 0.4}], 1, admm_params, sa_params,
                            dummy_input=dummy_input)  # fmt: skip
small, _ = pruner.compress()
assert size(small) < 0.9 * before

model = copy.deepcopy(dense)
pruner = AMCPruner(6, model, [{"op_types": ["Conv2d"], "total_sparsity": 0.4}], dummy_input, evaluator, log_dir="amc",
                   ddpg_params={"warmup": 3}, target="flops")  # fmt: skip
model, masks = pruner.compress()
assert "conv2" in masks
print("done")
