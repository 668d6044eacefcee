from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
import digits


@pytest.fixture(scope="module")
def data():
    return digits.read_digits()


def test_every_scan_is_either_for_learning_or_for_testing(data):
    assert len(data.train_digits) + len(data.test_digits) == 1797
    assert data.train_pictures.shape == (1347, 1, 8, 8)
    learnt = {picture.numpy().tobytes() for picture in data.train_pictures}
    assert sum(picture.numpy().tobytes() in learnt for picture in data.test_pictures) == 0


def test_every_digit_has_its_share_of_the_test(data):
    assert data.test_digits.bincount().tolist() == pytest.approx([45] * 10, abs=2)


def test_the_split_is_the_same_every_time(data):
    assert torch.equal(digits.read_digits().test_pictures, data.test_pictures)


def test_pixels_are_normalised_by_what_is_learnt_alone(data):
    assert float(data.train_pictures.mean()) == pytest.approx(0, abs=1e-5)
    assert float(data.train_pictures.std()) == pytest.approx(1, abs=1e-5)


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))


def test_training_is_the_same_from_the_same_seed_and_tells_its_listener(data):
    class Listener:
        def __init__(self):
            self.epochs, self.steps = [], 0

        def update_epoch(self, epoch):
            self.epochs.append(epoch)

        def step(self):
            self.steps += 1

    histories, listener = [], Listener()
    for heard in (listener, None):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        histories.append(digits.train(Net(), data, 2, 0.1, generator, listener=heard))
    assert histories[0] == histories[1]
    assert histories[0][-1] > 0.7
    assert listener.epochs == [0, 1]
    assert listener.steps == 2 * (1347 // digits.BATCH)


def test_pictures_are_moved_one_by_one_and_by_one_pixel_at_most(generator):
    pictures = torch.zeros(200, 1, 8, 8)
    pictures[:, 0, 3, 4] = 1.0
    moved = digits._shifted(pictures, generator)
    places = {tuple(place[1:].tolist()) for place in moved[:, 0].nonzero()}
    assert moved.shape == pictures.shape
    assert places == {(row, column) for row in (2, 3, 4) for column in (3, 4, 5)}
