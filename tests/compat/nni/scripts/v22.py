"""A script of NNI 2.2: gradual pruning in the user's loop, `update_epoch` in each epoch, and the speedup behind it."""
# isort: skip_file

import torchpare.compat.nni  # noqa: F401 - the added line

import torch
import torch.nn.functional as F
from digits import evaluator, size, train_loader, trained
from nni.algorithms.compression.pytorch.pruning import AGPPruner, L1FilterPruner, TaylorFOWeightFilterPruner
from nni.compression.pytorch import ModelSpeedup, apply_compression_results
from nni.compression.pytorch.utils.counter import count_flops_params

device = torch.device("cpu")
dummy_input = train_loader[0][0]


def train(model, optimizer):
    model.train()
    for data, target in train_loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data), target)
        loss.backward()
        optimizer.step()


# automated gradual pruning of single weights, with an optimizer and a schedule in the config
model = trained()
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
config_list = [{
    "initial_sparsity": 0.0, "final_sparsity": 0.8, "start_epoch": 0, "end_epoch": 4, "frequency": 1,
    "op_types": ["default"],
}]  # fmt: skip
pruner = AGPPruner(model, config_list, optimizer, pruning_algorithm="level")
model = pruner.compress()
for epoch in range(5):
    pruner.update_epoch(epoch)
    train(model, optimizer)
pruner.export_model(model_path="agp.pth", mask_path="agp_mask.pth")
state = torch.load("agp.pth", weights_only=True)
assert abs(float((state["conv2.weight"] == 0).float().mean()) - 0.8) < 0.01
assert evaluator(model) > 0.6

# filters: the third argument is the optimizer, or `dependency_aware` further on
model = trained()
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
config_list = [
    {"sparsity": 0.5, "op_types": ["Conv2d"]},
    {"exclude": True, "op_names": ["conv1"]},
]
pruner = L1FilterPruner(model, config_list, optimizer, dependency_aware=True, dummy_input=dummy_input)
model = pruner.compress()
assert [wrapper.name for wrapper in pruner.get_modules_wrapper()] == ["conv2"]
for epoch in range(2):
    pruner.update_epoch(epoch)
    train(model, optimizer)
pruner.export_model("l1.pth", "l1_mask.pth", "l1.onnx", [1, 1, 8, 8])
masked = model.eval()(dummy_input).detach()
flops, params, _ = count_flops_params(model, (1, 1, 8, 8), verbose=False)
pruner._unwrap_model()  # as all examples did
before = size(model)
m_speedup = ModelSpeedup(model, dummy_input, "l1_mask.pth", device)
m_speedup.speedup_model()
assert size(model) < 0.6 * before
torch.testing.assert_close(model.eval()(dummy_input), masked, rtol=1e-4, atol=1e-4)
assert count_flops_params(model, (1, 1, 8, 8), verbose=False)[0] <= flops
assert evaluator(model) > 0.8

# a criterion that needs data: masks appear while the user trains
model = trained()
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
pruner = TaylorFOWeightFilterPruner(model, [{"sparsity": 0.5, "op_names": ["conv2"]}], optimizer, 5)
model = pruner.compress()
train(model, optimizer)
pruner.export_model("taylor.pth", "taylor_mask.pth")
model = trained()
apply_compression_results(model, "taylor_mask.pth", device)
assert int((model.conv2.weight.flatten(1) == 0).all(dim=1).sum()) == 16
print("done")
