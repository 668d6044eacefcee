"""A script of NNI 2.3: every pruner in the calls of its pages; export, masks written as zeros, and the speedup."""
# isort: skip_file

import torchpare.compat.nni  # noqa: F401 - the added line

import copy

import torch
from digits import evaluator, size, train_loader, trained, trainer
from nni.algorithms.compression.pytorch.pruning import (
    ADMMPruner, AGPPruner, ActivationAPoZRankFilterPruner, ActivationMeanRankFilterPruner, AutoCompressPruner,
    FPGMPruner, L1FilterPruner, L2FilterPruner, LevelPruner, LotteryTicketPruner, NetAdaptPruner, SensitivityPruner,
    SimulatedAnnealingPruner, SlimPruner, TaylorFOWeightFilterPruner,
)  # fmt: skip
from nni.compression.pytorch import Compressor, ModelSpeedup, Pruner, apply_compression_results
from nni.compression.pytorch.utils.mask_conflict import fix_mask_conflict
from nni.compression.pytorch.utils.sensitivity_analysis import SensitivityAnalysis
from nni.compression.pytorch.utils.shape_dependency import ChannelDependency, GroupDependency

device = torch.device("cpu")
dummy_input = train_loader[0][0]
dense = trained()
criterion = torch.nn.CrossEntropyLoss()
convolutions = [{"sparsity": 0.5, "op_types": ["Conv2d"]}]
weights = [{"sparsity": 0.5, "op_types": ["default"]}]


def made(pruner_class, config_list, *args, **kwargs):
    model = copy.deepcopy(dense)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    needs_training = (SlimPruner, TaylorFOWeightFilterPruner, ActivationAPoZRankFilterPruner,
                      ActivationMeanRankFilterPruner, AGPPruner)  # fmt: skip
    if pruner_class in needs_training:
        return pruner_class(model, config_list, optimizer, trainer, criterion, *args, **kwargs)
    return pruner_class(model, config_list, *args, **kwargs)


pruners = [
    made(LevelPruner, weights),
    made(L1FilterPruner, convolutions),
    made(L1FilterPruner, convolutions, True, dummy_input),
    made(L2FilterPruner, convolutions, dependency_aware=True, dummy_input=dummy_input),
    made(FPGMPruner, convolutions),
    made(SlimPruner, [{"sparsity": 0.5, "op_types": ["BatchNorm2d"]}], sparsifying_training_epochs=1),
    made(TaylorFOWeightFilterPruner, convolutions, sparsifying_training_batches=3),
    made(ActivationAPoZRankFilterPruner, convolutions, activation="relu", sparsifying_training_batches=3),
    made(ActivationMeanRankFilterPruner, convolutions, sparsifying_training_batches=3),
    made(AGPPruner, convolutions, num_iterations=2, epochs_per_iteration=1, pruning_algorithm="l1"),
    made(ADMMPruner, convolutions, trainer, num_iterations=2, epochs_per_iteration=1, base_algo="l1"),
    made(NetAdaptPruner, convolutions, lambda model: None, evaluator, base_algo="l1", sparsity_per_iteration=0.25),
    made(SimulatedAnnealingPruner, convolutions, evaluator, base_algo="l1", start_temperature=100,
         stop_temperature=85, experiment_data_dir="./"),
    made(SensitivityPruner, convolutions, evaluator, sparsity_per_iter=0.3, acc_drop_threshold=0.2),
]  # fmt: skip
for pruner in pruners:
    name = type(pruner).__name__
    assert isinstance(pruner, Pruner), name
    assert isinstance(pruner, Compressor), name
    arguments = {"eval_args": [pruner.bound_model]} if name == "SensitivityPruner" else {}
    model = pruner.compress(**arguments)
    model(dummy_input)
    pruner.get_pruned_weights()
    pruner.export_model(model_path="model.pth", mask_path="mask.pth", onnx_path=None, input_shape=[1, 1, 8, 8])
    state = torch.load("model.pth", weights_only=True)
    plain = copy.deepcopy(dense)
    plain.load_state_dict(state, strict=True)
    apply_compression_results(plain, "mask.pth", device)
    zeros = float((plain.conv2.weight == 0).float().mean())
    assert zeros > 0.2, (name, zeros)
    if name != "LevelPruner":
        before = size(plain)
        ModelSpeedup(plain, dummy_input, "mask.pth", device).speedup_model()
        assert size(plain) < 0.8 * before, name
        plain(dummy_input)

# the lottery ticket, in rounds of the user's
model = copy.deepcopy(dense)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
config_list = [{"prune_iterations": 2, "sparsity": 0.75, "op_types": ["default"]}]
pruner = LotteryTicketPruner(model, config_list, optimizer)
pruner.compress()
for _ in pruner.get_prune_iterations():
    pruner.prune_iteration_start()
    trainer(model, optimizer, criterion, epoch=0)
pruner.export_model("ticket.pth", "ticket_mask.pth")
assert abs(float((model.conv2.weight == 0).float().mean()) - 0.75) < 0.01

# searches that shrink: the result is small
model = copy.deepcopy(dense)
before = size(model)
pruner = AutoCompressPruner(
    model, convolutions, trainer, evaluator, dummy_input, num_iterations=1, base_algo="l1", start_temperature=100,
    stop_temperature=90, admm_num_iterations=1, admm_epochs_per_iteration=1,
)  # fmt: skip
model = pruner.compress()
assert size(model) < 0.9 * before

# tools
assert ChannelDependency(dense, dummy_input).dependency_sets
assert set(GroupDependency(dense, dummy_input).dependency_sets.values()) == {1}
analysis = SensitivityAnalysis(dense, evaluator, sparsities=[0.25, 0.75])
assert set(analysis.analysis(val_args=[dense])) == {"conv1", "conv2"}
assert "conv2" in fix_mask_conflict("mask.pth", dense, dummy_input)
print("done")
