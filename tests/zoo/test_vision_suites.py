"""The suites of torchvision and timm leave out no family, and their models run on the inputs that come with them."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from torchpare.zoo import stages, timm_suite, torchvision_suite
from torchpare.zoo.suites import SUITES, case
from torchpare.zoo.vision import torchvision_models

needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")


def test_every_model_of_torchvision_is_there():
    models = torchvision_models()
    kinds = (models, models.segmentation, models.detection, models.video, models.optical_flow)
    assert sorted(torchvision_suite.NAMES) == sorted(name for kind in kinds for name in models.list_models(module=kind))


@needs_timm
def test_every_family_of_timm_is_there_and_none_twice():
    timm = timm_suite._timm()
    for family in timm.list_modules():
        assert set(timm.list_models(module=family)) & set(timm_suite.NAMES), family
    assert set(timm_suite.NAMES) <= set(timm_suite.all_names())
    assert len(set(timm_suite.NAMES)) == len(timm_suite.NAMES)


@needs_timm
@pytest.mark.parametrize(
    ("name", "settings", "shape"),
    [
        ("lcnet_035", {}, (3, 96, 96)),  # takes any size
        ("vit_tiny_patch16_224", {"img_size": 96}, (3, 96, 96)),  # takes the size it was built for
        ("halonet26t", {}, (3, 256, 256)),  # its blocks want to be filled
    ],
)
def test_images_are_as_small_as_the_model_allows(name, settings, shape):
    assert timm_suite._smallest(name) == (settings, shape)


@needs_timm
def test_a_model_of_timm_runs_on_its_images():
    model, images = case(SUITES["timm"].module, "lcnet_035").build()
    assert stages.healthy_shapes(model, images) == {"output": (2, 1000)}
    assert not model.training


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn"])
def test_a_detector_finds_something_and_trains_on_objects(name):
    detector = case(SUITES["torchvision"].module, name)
    model, images = detector.build()
    assert detector.varying
    shapes = stages.healthy_shapes(model, images)
    assert shapes["output[0]['boxes']"][0] > 0
    stages.check_training(model.train(), detector.training_inputs(images))


def test_a_classifier_trains_on_what_it_evaluates_and_is_the_same_each_time():
    net = case(SUITES["torchvision"].module, "squeezenet1_1")
    (one, images), (same, again), (other, _) = net.build(), net.build(), net.build(seed=1)
    assert net.training_inputs(images) is images
    assert not net.varying
    assert torch.equal(images, again)
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, same.get_parameter(name))
        assert not torch.equal(parameter, other.get_parameter(name))
