"""Evaluators of NNI 2.9 and 3.0: PyTorch loops, Lightning and Transformers train for pruners and quantizers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from nni.compression import LightningEvaluator, TorchEvaluator, TransformersEvaluator
from nni.compression.pruning import L1NormPruner, LinearPruner, MovementPruner, SlimPruner, TaylorPruner
from nni.compression.pytorch.pruning import ADMMPruner, AGPPruner, TaylorFOWeightPruner
from nni.compression.quantization import QATQuantizer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.support.vision import torchvision_models
from torchpare.errors import CompatError, ConfigError

FILTERS = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}]


def data():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(32, 3, 8, 8, generator=generator), torch.randint(4, (32,), generator=generator))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 4))  # fmt: skip


def torch_training(model, optimizers, criterion, lr_schedulers, max_steps, max_epochs):
    done = 0
    for _ in range(max_epochs or 2):
        for x, y in DataLoader(data(), batch_size=8):
            if done == max_steps:
                return
            optimizers.zero_grad()
            criterion(model(x), y).backward()
            optimizers.step()
            done += 1


def torch_case():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return model, TorchEvaluator(torch_training, optimizer, F.cross_entropy,
                                 evaluating_func=lambda model: {"default": 0.5, "other": 1})  # fmt: skip


def lightning_case():
    torchvision_models()  # which the library imports, and which does not load by itself on every machine
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return F.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, _):
            self.log("default", (self(batch[0]).argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    class Data(pl.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(data(), batch_size=8)

        val_dataloader = train_dataloader

    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    return Module(), LightningEvaluator(trainer, Data())


def transformers_case(folder):
    torchvision_models()
    from transformers import Trainer, TrainingArguments

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x, labels=None):
            logits = self.net(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    rows = [{"x": x, "labels": y} for x, y in data()]
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=8, num_train_epochs=2, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True, logging_strategy="no", dataloader_pin_memory=False,
    )  # fmt: skip
    model = Module()
    trainer = Trainer(
        model, arguments, train_dataset=rows, eval_dataset=rows,
        compute_metrics=lambda found: {"default": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )  # fmt: skip
    return model, TransformersEvaluator(trainer)


@pytest.fixture(params=["torch", "lightning", "transformers"])
def case(request, tmp_path):
    """A model, and who trains it: 4 steps an epoch, 2 epochs."""
    if request.param == "torch":
        return torch_case()
    return lightning_case() if request.param == "lightning" else transformers_case(tmp_path)


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*`isinstance.treespec, LeafSpec.` is deprecated.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore::UserWarning:lightning.*"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*"),
]


def filters_left(model):
    layer = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    return int(layer.weight.flatten(1).any(dim=1).sum())


def test_steps_and_epochs_are_as_many_as_asked_for(case):
    model, evaluator = case
    for limits, expected in (({}, 8), ({"max_steps": 3}, 3), ({"max_epochs": 1}, 4), ({"max_steps": 6}, 6)):
        seen = []
        before = {name: value.clone() for name, value in model.named_parameters()}
        evaluator.run(model, before=lambda: seen.append("before"), after=lambda: seen.append("after"), **limits)  # noqa: B023 - run at once
        assert seen == ["before", "after"] * expected, limits
        assert any(not torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_before_a_step_gradients_are_there(case):
    model, evaluator = case
    seen = []
    evaluator.run(model, max_steps=2, before=lambda: seen.append(all(p.grad is not None for p in model.parameters())))
    assert seen == [True, True]


def test_a_pruner_that_looks_at_data_sees_the_evaluator_s(case):
    model, evaluator = case
    _, masks = TaylorPruner(model, FILTERS, evaluator, training_steps=3).compress()
    assert filters_left(model) == 4
    assert len(masks) >= 1


def test_a_schedule_prunes_while_the_evaluator_trains(case):
    model, evaluator = case
    pruner = LinearPruner(L1NormPruner(model, FILTERS, evaluator), interval_steps=2, total_times=4)
    left = []
    evaluator.patch_optimizer_step([], [lambda: left.append(filters_left(model))])
    pruner.compress(max_epochs=2)
    assert left == [8, 7, 7, 6, 6, 5, 5, 4]


def test_scores_and_scales_are_trained_by_the_evaluator(case):
    model, evaluator = case
    MovementPruner(model, [{"op_types": ["Linear"], "sparse_ratio": 0.5}], evaluator, 1, 6).compress(max_epochs=2)
    linear = next(module for module in model.modules() if isinstance(module, nn.Linear))
    assert float((linear.weight == 0).float().mean()) == 0.5


def test_scales_become_smaller_by_the_evaluator_s_training():
    left = []
    for scale in (0.0, 8.0):
        model, evaluator = torch_case()
        SlimPruner(model, [{"op_types": ["BatchNorm2d"], "sparse_ratio": 0.25}], evaluator, 8, scale).compress()
        left.append(float(model[1].old_weight.detach().abs().sum()))
    assert left[1] < 0.9 * left[0]


def test_a_quantizer_learns_by_the_evaluator(case):
    model, evaluator = case
    grids = [{"op_types": ["Conv2d"], "target_names": ["_input_0", "weight"], "quant_dtype": "int8"}]
    _, calibration = QATQuantizer(model, grids, evaluator).compress(max_epochs=1)
    (own,) = calibration.values()
    assert own["tracked_max_input"] > 1
    assert own["weight_bits"] == 8


def test_the_bound_model_is_trained_and_evaluated(case):
    model, evaluator = case
    with pytest.raises(CompatError, match=r"is bound to no model: call bind_model\(model\) first"):
        evaluator.train()
    evaluator.bind_model(model)
    evaluator.train(max_steps=2)
    evaluator.finetune()
    score, metrics = evaluator.evaluate()
    assert 0 <= score <= 1
    assert score == evaluator.score(model)
    assert metrics
    evaluator.unbind_model()
    assert evaluator.model is None


def test_modes_are_as_they_were(case):
    model, evaluator = case
    model.eval()
    evaluator.run(model, max_steps=1)
    evaluator.measure(model)
    assert not any(module.training for module in model.modules())


def test_losses_are_not_patched():
    _, evaluator = torch_case()
    with pytest.raises(CompatError, match="changes no loss behind its author's back"):
        evaluator.patch_loss(lambda loss: loss)


def test_admm_needs_the_optimizer_beforehand():
    model, evaluator = lightning_case()
    with pytest.raises(CompatError, match="give it a TorchEvaluator"):
        ADMMPruner(model, [{"op_types": ["Conv2d"], "sparsity": 0.5}], evaluator, 1, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: TorchEvaluator(torch_training, "sgd", None), "optimizers are a torch optimizer"),
        (lambda m: TorchEvaluator(None, torch.optim.SGD(m.parameters(), 0.1)), "training_func is a function"),
        (lambda m: LightningEvaluator("trainer", None), "trainer is a str, and no Trainer of lightning"),
        (lambda m: TransformersEvaluator(3), "trainer is a int, and no Trainer of transformers"),
        (lambda m: TaylorFOWeightPruner(m, FILTERS, torch_case()[1]), r"missing a required argument: 'training_steps'"),
        (lambda m: TaylorFOWeightPruner(m, FILTERS, torch_training), r"it takes \(trainer: "),
        (lambda m: AGPPruner(m, FILTERS, "l1", 2, pruning_params={"depth": 3}), r"pruning_params\['depth'\]"),
        (lambda m: AGPPruner(m, [{"op_types": ["Conv2d"], "sparsity": 0.5}], "l1", 2, speedup=True), "dummy_input"),
    ],
)
def test_what_is_no_evaluator_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make(net())


def test_an_evaluation_that_is_no_number_is_told():
    model, evaluator = torch_case()
    evaluator.evaluating_func = lambda model: "good"
    with pytest.raises(ConfigError, match="the evaluation returned 'good'"):
        evaluator.score(model)
    evaluator.evaluating_func = None
    with pytest.raises(ConfigError, match="needs evaluating_func"):
        evaluator.score(model)
