"""Hugging Face's Trainer with a callback: the same model as a loop with every call in it, interrupted or not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import SequentialSampler
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from tests.integrations.runs import ALL, CONVS, EPOCHS, LATE, by_hand, made, same, sgd
from tests.pruning.training import Small, batches
from torchpare.attach import masks_of
from torchpare.attach.loading import take_masks_from_states
from torchpare.errors import CheckpointError, ConfigError
from torchpare.integrations.transformers import CompressionCallback
from torchpare.pruning import AGPPruner, LevelPruner, MovementPruner
from torchpare.quantization import QATQuantizer

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:torch.utils.data.*"),  # of memory that no accelerator needs pinned
    pytest.mark.filterwarnings("ignore::UserWarning:transformers.*"),
]
every_case = pytest.mark.parametrize("case", ALL)


class WithLoss(nn.Module):
    """A net as the Trainer wants it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, labels):
        logits = self.net(x)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


class InOrder(Trainer):
    """Goes through the data in order, as the loops do that it is compared with."""

    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(self.train_dataset if dataset is None else dataset)


EXAMPLES = [{"x": x, "labels": y} for xs, ys in batches(0) for x, y in zip(xs, ys, strict=True)]


def every_epoch(_):
    return batches(0)


def trainer(folder, model, *callbacks, kind=InOrder, data=EXAMPLES, optimizer=None, eval_dataset=None,
            compute_metrics=None, **options):  # fmt: skip
    arguments = {
        "num_train_epochs": EPOCHS, "per_device_train_batch_size": 8, "max_grad_norm": 0.0, "use_cpu": True,
        "save_strategy": "no", "report_to": [], "disable_tqdm": True, "logging_strategy": "no", **options,
    }  # fmt: skip
    optimizer = optimizer or sgd(model)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    arguments = TrainingArguments(str(folder), **arguments)
    return kind(
        model, arguments, train_dataset=data, eval_dataset=eval_dataset, compute_metrics=compute_metrics,
        callbacks=list(callbacks), optimizers=(optimizer, constant),
    )  # fmt: skip


@every_case
def test_the_model_is_that_of_a_loop_with_every_call_in_it(case, tmp_path):
    model, compressors = made(case)
    trainer(tmp_path, WithLoss(model), CompressionCallback(*compressors)).train()
    assert same(model, by_hand(case, data=every_epoch))


@every_case
def test_gradients_accumulated_clipped_and_in_bfloat16(case, tmp_path):
    model, compressors = made(case)
    options = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1, "bf16": True}
    trainer(tmp_path, WithLoss(model), CompressionCallback(*compressors), **options).train()
    assert same(model, by_hand(case, accumulate=2, clip=0.1, bf16=True, data=every_epoch))


class PowerError(RuntimeError):
    """What fails."""


class Failing(TrainerCallback):
    """Pulls the plug."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **given):
        if state.global_step == self.step:
            raise PowerError


@every_case
@pytest.mark.parametrize("every", [4, 3], ids=["between epochs", "within an epoch"])
def test_resumed_from_a_checkpoint_with_new_objects_it_ends_with_the_same_model(case, every, tmp_path):
    kept = {"save_strategy": "steps", "save_steps": every}
    model, compressors = made(case)
    first = trainer(tmp_path, WithLoss(model), CompressionCallback(*compressors), Failing(10), **kept)
    with pytest.raises(PowerError):
        first.train()
    model, compressors = made(case, seed=1)
    second = trainer(tmp_path, WithLoss(model), CompressionCallback(*compressors), **kept)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 4 * EPOCHS
    assert same(model, by_hand(case, data=every_epoch))


def bert(seed):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=2,
        max_position_embeddings=16,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def sentences():
    words = torch.randint(1, 32, (32, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": own, "labels": int(own[0] > 16)} for own in words]


def test_a_bert_with_dropout_in_shuffled_order_is_resumed_from_its_own_checkpoint(tmp_path):
    def run(folder, seed, *more, **train):
        model = bert(seed)
        layers = [{"sparsity": 0.5, "op_types": ["Linear"]}, {"exclude": True, "op_names": ["classifier"]}]
        pruner = MovementPruner(model, layers, warm_up_step=2, cool_down_beginning_step=10)
        quantizer = QATQuantizer(model, [{**LATE[0], "op_types": ["Linear"]}])
        pruner.compress()
        quantizer.compress()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        trainer(
            folder, model, CompressionCallback(pruner, quantizer), *more, kind=Trainer, data=sentences(),
            optimizer=optimizer, save_strategy="epoch",
        ).train(**train)  # fmt: skip
        return model

    whole = run(tmp_path / "whole", 0)
    with pytest.raises(PowerError):
        run(tmp_path / "part", 0, Failing(10))
    resumed = run(tmp_path / "part", 1, resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-8"))
    assert same(resumed, whole)
    assert int((~masks_of(whole)["bert.pooler.dense"]["weight"]).sum()) == 128


@pytest.mark.parametrize("best", [1, 3])
def test_the_best_checkpoint_is_loaded_with_its_masks(tmp_path, best):
    model, compressors = made("AGP of filters")
    asked = []

    def metric(_):
        asked.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"good": float(len(asked) == best)}

    trainer(
        tmp_path, WithLoss(model), CompressionCallback(*compressors), save_strategy="epoch", eval_strategy="epoch",
        load_best_model_at_end=True, metric_for_best_model="good", eval_dataset=EXAMPLES[:8], compute_metrics=metric,
    ).train()  # fmt: skip
    x = torch.randn(4, 1, 6, 6)
    model.eval()
    expected = Small().eval()
    handle = take_masks_from_states(expected)
    expected.load_state_dict(asked[best - 1])
    handle.remove()
    assert torch.equal(model(x), expected(x))


# ------------------------------------------------------------------------------------------------------------- errors


def test_what_cannot_be_told_of_training_is_an_error_that_says_so(tmp_path):
    with pytest.raises(ConfigError, match="CompressionCallback needs a pruner or a quantizer"):
        CompressionCallback()
    with pytest.raises(ConfigError, match="argument 0 is a Small"):
        CompressionCallback(Small())
    with pytest.raises(ConfigError, match=r"call compress\(\) of LevelPruner first"):
        CompressionCallback(LevelPruner(Small(), CONVS))
    _, compressors = made("AGP")
    with pytest.raises(ConfigError, match="AGPPruner compresses a Small that is neither the WithLoss that trains"):
        trainer(tmp_path, WithLoss(Small()), CompressionCallback(*compressors)).train()
    model = Small()
    quantizer = QATQuantizer(model, LATE, sgd(model))
    quantizer.compress()
    with pytest.raises(ConfigError, match="QATQuantizer was given another optimizer"):
        trainer(tmp_path, WithLoss(model), CompressionCallback(quantizer)).train()


def test_a_checkpoint_without_the_compressors_state_is_an_error_unless_they_begin_now(tmp_path):
    trainer(tmp_path, WithLoss(Small()), save_strategy="epoch", num_train_epochs=2).train()

    def resumed(**options):
        model = Small()
        pruner = AGPPruner(model, CONVS, num_iterations=4)
        pruner.compress()
        callback = CompressionCallback(pruner, **options)
        trainer(tmp_path, WithLoss(model), callback).train(resume_from_checkpoint=True)
        return model

    with pytest.raises(CheckpointError, match=r"there is no .*checkpoint-8/compression\.pt"):
        resumed()
    (tmp_path / "checkpoint-8" / "compression.pt").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(CheckpointError, match=r"checkpoint-8/compression\.pt is truncated"):
        resumed()
    assert int((~masks_of(resumed(resume=False))["b"]["weight"]).sum()) == 288


def test_a_checkpoint_somewhere_else_is_named(tmp_path):
    model, compressors = made("AGP")
    trainer(tmp_path / "a", WithLoss(model), CompressionCallback(*compressors), save_strategy="epoch").train()
    there = tmp_path / "a" / "checkpoint-8"
    model, compressors = made("AGP", seed=1)
    callback = CompressionCallback(*compressors, resume=there)
    trainer(tmp_path / "b", WithLoss(model), callback).train(resume_from_checkpoint=str(there))
    assert same(model, by_hand("AGP", data=every_epoch))
