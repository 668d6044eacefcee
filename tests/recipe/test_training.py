"""The training loop of recipes against loops that are written out."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from tests.recipe import parts
from torchpare.errors import ConfigError, FileError, TorchpareError
from torchpare.recipe.batches import arguments_of, default_loss, first_example, inputs_of
from torchpare.recipe.settings import FinetuneStage
from torchpare.recipe.training import Trainer
from torchpare.search.fingerprint import of_model


def settings(**more):
    return FinetuneStage.model_validate({"optimizer": {"name": "SGD", "lr": 0.1}, "schedule": "constant", **more})


def trainer(stage, batches=None):
    return Trainer(parts.train(128, shuffle=False) if batches is None else batches, default_loss, stage, "cpu", "a key")


def net():
    torch.manual_seed(3)
    return parts.net(4)


def test_plain_training_is_the_loop_one_would_write():
    model, by_hand = net(), net()
    trainer(settings(epochs=2)).run(model, 2, None)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for _ in range(2):
        by_hand.train()
        for pictures, labels in parts.train(128, shuffle=False):
            optimizer.zero_grad()
            F.cross_entropy(by_hand(pictures), labels).backward()
            optimizer.step()
    assert of_model(model) == of_model(by_hand)


def test_gradients_that_are_accumulated_are_those_of_the_whole_batch():
    pictures, labels = parts.digits()
    halves = [(pictures[start : start + 16], labels[start : start + 16]) for start in range(0, 64, 16)]
    wholes = [(pictures[start : start + 32], labels[start : start + 32]) for start in range(0, 64, 32)]
    torch.manual_seed(0)
    first = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()
    second = copy.deepcopy(first)
    for model, batches, count in ((first, halves, 2), (second, wholes, 1)):
        doubled = [(x.double(), y) for x, y in batches]
        trainer(settings(accumulate=count), doubled).run(model, 1, None)
    torch.testing.assert_close(first[1].weight, second[1].weight, rtol=1e-12, atol=1e-12)


def test_a_norm_of_gradients_is_cut():
    model = net()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    one = [next(iter(parts.train(32, shuffle=False)))]
    trainer(settings(clip_norm=1e-3), one).run(model, 1, None)
    moved = torch.stack([(value.detach() - before[name]).norm() for name, value in model.named_parameters()]).norm()
    assert float(moved) == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_an_average_of_weights_is_the_recursion():
    model, by_hand = net(), net()
    trainer(settings(ema=0.7)).run(model, 1, None)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    average = None
    by_hand.train()
    for pictures, labels in parts.train(128, shuffle=False):
        optimizer.zero_grad()
        F.cross_entropy(by_hand(pictures), labels).backward()
        optimizer.step()
        now = [value.detach().clone() for value in by_hand.parameters()]
        average = now if average is None else [0.7 * a + 0.3 * n for a, n in zip(average, now, strict=True)]
    assert average is not None
    for value, expected in zip(model.parameters(), average, strict=True):
        torch.testing.assert_close(value.detach(), expected)


class DiesError(RuntimeError):
    pass


@pytest.mark.parametrize(
    "more", [{"optimizer": {"name": "Adam", "lr": 1e-2}, "schedule": "one_cycle"}, {"ema": 0.9, "warmup": 0.3}]
)
@pytest.mark.parametrize("kind", ["plain", "generator", "sampler"])
def test_training_that_stopped_goes_on_bit_by_bit(tmp_path, more, kind):
    def batches():
        data = TensorDataset(*(each[:96] for each in parts.digits()))
        if kind == "generator":
            return DataLoader(data, 32, shuffle=True, generator=torch.Generator().manual_seed(9))
        if kind == "sampler":
            return DataLoader(data, 32, sampler=RandomSampler(data, generator=torch.Generator().manual_seed(9)))
        return DataLoader(data, 32, shuffle=True)

    def dies(number, _epoch):
        if number == 1:
            raise DiesError

    stage = settings(**more)
    whole = net()
    history = trainer(stage, batches()).run(whole, 4, None)
    with pytest.raises(DiesError):
        trainer(stage, batches()).run(net(), 4, tmp_path, after_epoch=dies)
    torch.manual_seed(99)  # another process, another state of things
    rest = net()
    seen = []
    again = trainer(stage, batches()).run(rest, 4, tmp_path, after_epoch=lambda number, _: seen.append(number))
    assert of_model(rest) == of_model(whole)
    assert [epoch.loss for epoch in again] == [epoch.loss for epoch in history]
    assert seen == [0, 1, 2, 3]


def test_a_spoilt_checkpoint_is_named(tmp_path):
    (tmp_path / "training.pth").write_bytes(b"PK nothing")
    with pytest.raises(FileError, match=r"training\.pth: the training cannot go on from it"):
        trainer(settings()).run(net(), 1, tmp_path)


def test_listeners_hear_every_epoch_and_step():
    class Ear:
        heard: list = []  # noqa: RUF012

        def update_epoch(self, epoch):
            self.heard.append(epoch)

        def step(self):
            self.heard.append("step")

    ear = Ear()
    trainer(settings(accumulate=2)).run(net(), 2, None, listeners=(ear,))
    assert ear.heard == [0, "step", "step", 1, "step", "step"]


def test_training_that_diverges_says_so():
    with pytest.raises(TorchpareError, match="training diverged: the mean loss of epoch 0 is"):
        trainer(settings(optimizer={"name": "SGD", "lr": 1e30})).run(net(), 1, None)


def test_data_that_is_empty_or_endless_is_refused():
    with pytest.raises(ConfigError, match="holds no batches"):
        trainer(settings(), []).run(net(), 1, None)

    class Endless:
        def __iter__(self):
            return iter([])

    with pytest.raises(ConfigError, match="without a length"):
        trainer(settings(), Endless()).run(net(), 1, None)


def test_random_numbers_of_the_process_are_left_alone():
    model = net()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer(settings(), parts.train(64)).run(model, 1, None)
    assert torch.equal(torch.rand(3), expected)


# ------------------------------------------------------------------------------------------------- what a batch is


def test_inputs_and_arguments_of_a_batch():
    x, mask, y = torch.ones(2, 3), torch.zeros(2), torch.tensor([0, 1])
    assert inputs_of(x) is x
    assert inputs_of((x, y)) is x
    assert inputs_of([x, mask, y]) == (x, mask)
    assert inputs_of({"input_ids": x, "labels": y}) == {"input_ids": x}
    assert arguments_of({"input_ids": x, "labels": y}) == ((), {"input_ids": x, "labels": y})
    assert arguments_of((x, mask, y)) == ((x, mask), {})
    assert first_example([(torch.ones(5, 3), torch.arange(5))]).shape == (2, 3)
    with pytest.raises(ConfigError, match="holds no batch"):
        first_example([])


def test_losses_that_need_no_word():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    expected = F.cross_entropy(logits, labels)
    own = torch.tensor(7.0)
    assert default_loss({"loss": own, "logits": logits}, {"labels": labels}) is own
    for output in (logits, {"logits": logits}, (logits, None)):
        torch.testing.assert_close(default_loss(output, (torch.ones(4), labels)), expected)
    torch.testing.assert_close(default_loss({"logits": logits}, {"x": logits, "labels": labels}), expected)
    words, said = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    torch.testing.assert_close(default_loss(words, (words, said)), F.cross_entropy(words.movedim(-1, 1), said))
    with pytest.raises(ConfigError, match="name a 'loss'"):
        default_loss(logits, logits)
