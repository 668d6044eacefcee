"""torchvision: every classifier, and its models for segmentation, detection, video and optical flow.

Inputs are as small as a model allows, so that its float64 proof is quick: two samples of 64x64 for most.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from torchpare.zoo.vision import torchvision_models

__all__ = ["NAMES", "build", "training_inputs", "varying"]

_CLASSIFIERS = """
alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169 densenet201
efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6
efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5
mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf
regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_1_6gf
regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50
resnext101_32x8d resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5
shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13
vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
"""
_SEGMENTERS = """
deeplabv3_mobilenet_v3_large deeplabv3_resnet101 deeplabv3_resnet50 fcn_resnet101 fcn_resnet50 lraspp_mobilenet_v3_large
"""
_DETECTORS = """
fasterrcnn_mobilenet_v3_large_320_fpn fasterrcnn_mobilenet_v3_large_fpn fasterrcnn_resnet50_fpn
fasterrcnn_resnet50_fpn_v2 fcos_resnet50_fpn keypointrcnn_resnet50_fpn maskrcnn_resnet50_fpn maskrcnn_resnet50_fpn_v2
retinanet_resnet50_fpn retinanet_resnet50_fpn_v2 ssd300_vgg16 ssdlite320_mobilenet_v3_large
"""
_VIDEO = "mc3_18 mvit_v1_b mvit_v2_s r2plus1d_18 r3d_18 s3d swin3d_b swin3d_s swin3d_t"
_FLOW = "raft_large raft_small"

NAMES = tuple(f"{_CLASSIFIERS} {_SEGMENTERS} {_DETECTORS} {_VIDEO} {_FLOW}".split())

# What an image must measure where 64 is too small, and what the model must then be told.
_SIZES = {"inception_v3": 299, "maxvit_t": 224, "vit_h_14": 56}
_MORE: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},  # their own way of it takes a minute, and is overwritten anyway
    "inception_v3": {"init_weights": False},
}
_ONE_SAMPLE = ("maxvit_t", "regnet_y_128gf", "vit_h_14")  # large, and trainable on a single one


def build(name: str) -> tuple[nn.Module, Any]:
    """A model as torchvision makes it, in evaluation mode, and the smallest input that suits it."""
    models = torchvision_models()
    more = dict(_MORE.get(name, {}))
    size = _SIZES.get(name, 64)
    if name in _DETECTORS.split():
        return _detector(models.get_model_builder(name)), ([_images(1, size)[0], _images(1, size)[0]],)
    if name in _SEGMENTERS.split():
        more |= {"weights_backbone": None, "aux_loss": True} if "lraspp" not in name else {"weights_backbone": None}
    if re.match(r"vit_", name):
        more["image_size"] = size
    model = models.get_model_builder(name)(weights=None, **more).eval()
    if name in _VIDEO.split():
        frames, size = (16, 224) if name == "s3d" or name.startswith("mvit") else (8, 64)
        return model, torch.randn(1, 3, frames, size, size)
    if name in _FLOW.split():
        return model, (_images(1, 128), _images(1, 128))
    return model, _images(1 if name in _ONE_SAMPLE else 2, size)


def training_inputs(name: str, inputs: Any) -> Any:
    """A detector trains on images with an object in each; all others on what they evaluate."""
    if name not in _DETECTORS.split():
        return inputs
    (images,) = inputs
    return images, [_object(image) for image in images]


def varying(name: str) -> bool:
    """How many objects a detector finds hangs on its weights."""
    return name in _DETECTORS.split()


def _images(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size)


def _detector(builder: Any) -> nn.Module:
    """With few proposals of few classes, on small images: the code paths are those of many."""
    more: dict[str, Any] = {}
    if "rcnn" in builder.__name__:
        more = {"min_size": 64, "max_size": 64, "rpn_pre_nms_top_n_test": 50, "rpn_post_nms_top_n_test": 20}
        more |= {"rpn_pre_nms_top_n_train": 50, "rpn_post_nms_top_n_train": 20, "box_detections_per_img": 10}
    elif not builder.__name__.startswith("ssd"):
        more = {"min_size": 64, "max_size": 64, "topk_candidates": 50, "detections_per_img": 10}
    else:
        more = {"topk_candidates": 20, "detections_per_img": 10}
    return builder(weights=None, weights_backbone=None, **more).eval()


def _object(image: Tensor) -> dict[str, Tensor]:
    """One object of class 1, as all detectors take it: box, mask and key points."""
    height, width = image.shape[-2:]
    mask = torch.zeros(1, height, width, dtype=torch.uint8)
    mask[:, 8:40, 8:40] = 1
    points = torch.tensor([20.0, 20.0, 1.0]).expand(1, 17, 3).clone()
    box = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    return {"boxes": box, "labels": torch.ones(1, dtype=torch.int64), "masks": mask, "keypoints": points}
