"""The transformers suite: models of images. Data only; `transformers_suite` builds it."""

from __future__ import annotations

from typing import Any

from torchpare.zoo.transformers_case import Case, floats, image, merged

__all__ = ["VISION"]

# 4 heads of 10: hidden 40, MLP 56; 32 x 32 images in patches of 8.
_VIT: dict[str, Any] = {
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}
_SWIN: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 24,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "mlp_ratio": 3.0,
    "num_labels": 5,
}
_STAGES = {"num_labels": 5, "depths": [1, 2], "hidden_sizes": [16, 24]}
_BACKBONE = {"embedding_size": 12, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1], "layer_type": "basic"}

VISION: dict[str, Case] = {
    "vit": Case("ViTForImageClassification", _VIT, image()),
    "vit-model": Case("ViTModel", _VIT, image()),
    "vit-eager": Case("ViTForImageClassification", merged(_VIT, attn_implementation="eager"), image()),
    "vit-msn": Case("ViTMSNForImageClassification", _VIT, image()),
    "deit": Case("DeiTForImageClassification", _VIT, image()),
    "deit-teacher": Case("DeiTForImageClassificationWithTeacher", _VIT, image()),
    "beit": Case(
        "BeitForImageClassification", merged(_VIT, use_relative_position_bias=True, layer_scale_init_value=0.1), image()
    ),
    "data2vec-vision": Case(
        "Data2VecVisionForImageClassification", merged(_VIT, use_shared_relative_position_bias=True), image()
    ),
    "swin": Case("SwinForImageClassification", _SWIN, image()),
    "swinv2": Case("Swinv2ForImageClassification", _SWIN, image()),
    "dinov2": Case("Dinov2ForImageClassification", merged(_VIT, mlp_ratio=3), image()),
    "dinov2-swiglu": Case("Dinov2ForImageClassification", merged(_VIT, use_swiglu_ffn=True), image()),
    "dinov2-registers": Case(
        "Dinov2WithRegistersForImageClassification", merged(_VIT, mlp_ratio=3, num_register_tokens=2), image()
    ),
    "dinov3-vit": Case("DINOv3ViTModel", merged(_VIT, hidden_size=48, num_register_tokens=2), image()),
    "ijepa": Case("IJepaForImageClassification", _VIT, image()),
    "hiera": Case(
        "HieraForImageClassification",
        {
            "embed_dim": 16,
            "image_size": [32, 32],
            "patch_size": [7, 7],
            "patch_stride": [4, 4],
            "patch_padding": [3, 3],
            "depths": [1, 1, 2],
            "num_heads": [1, 2, 4],
            "embed_dim_multiplier": 2.0,
            "num_query_pool": 2,
            "query_stride": [2, 2],
            "masked_unit_size": [4, 4],
            "masked_unit_attention": [True, True, False],
            "num_labels": 5,
        },
        image(),
    ),
    "convnext": Case("ConvNextForImageClassification", merged(_STAGES, num_stages=2), image()),
    "convnextv2": Case("ConvNextV2ForImageClassification", merged(_STAGES, num_stages=2), image()),
    "resnet": Case("ResNetForImageClassification", merged(_BACKBONE, num_labels=5), image()),
    "resnet-bottleneck": Case(
        "ResNetForImageClassification", merged(_BACKBONE, layer_type="bottleneck", num_labels=5), image()
    ),
    "regnet": Case(
        "RegNetForImageClassification",
        merged(_BACKBONE, layer_type="y", groups_width=8, num_labels=5),
        image(),
    ),
    "mobilenet-v1": Case("MobileNetV1ForImageClassification", {"depth_multiplier": 0.25, "num_labels": 5}, image()),
    "mobilenet-v2": Case("MobileNetV2ForImageClassification", {"depth_multiplier": 0.35, "num_labels": 5}, image()),
    "efficientnet": Case(
        "EfficientNetForImageClassification",
        {
            "image_size": 32,
            "width_coefficient": 0.25,
            "depth_coefficient": 0.3,
            "hidden_dim": 320,
            "num_labels": 5,
        },
        image(),
    ),
    "mobilevit": Case(
        "MobileViTForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [24, 32, 40],
            "neck_hidden_sizes": [8, 8, 12, 16, 20, 24, 48],
            "num_attention_heads": 4,
            "mlp_ratio": 1.5,
            "expand_ratio": 2.0,
            "num_labels": 5,
        },
        image(64),
    ),
    "mobilevitv2": Case(
        "MobileViTV2ForImageClassification", {"image_size": 64, "width_multiplier": 0.25, "num_labels": 5}, image(64)
    ),
    "poolformer": Case(
        "PoolFormerForImageClassification",
        {"hidden_sizes": [12, 16, 20, 24], "depths": [1, 1, 1, 1], "mlp_ratio": 3.0, "num_labels": 5},
        image(),
    ),
    "pvt": Case(
        "PvtForImageClassification",
        {
            "image_size": 32,
            "hidden_sizes": [16, 24, 32, 40],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [2, 2, 4, 4],
            "sequence_reduction_ratios": [4, 2, 1, 1],
            "mlp_ratios": [2, 2, 3, 3],
            "num_labels": 5,
        },
        image(),
    ),
    "cvt": Case(
        "CvtForImageClassification",
        {"embed_dim": [16, 24, 40], "num_heads": [1, 2, 4], "depth": [1, 2, 3], "num_labels": 5},
        image(),
    ),
    "levit": Case(
        "LevitForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [4, 4, 4],
            "down_ops": [["Subsample", 4, 4, 4, 2, 2], ["Subsample", 4, 6, 4, 2, 2], [""]],
            "num_labels": 5,
        },
        image(64),
    ),
    "swiftformer": Case(
        "SwiftFormerForImageClassification",
        {"image_size": 32, "depths": [1, 1, 1, 1], "embed_dims": [12, 16, 24, 32], "mlp_ratio": 3, "num_labels": 5},
        image(),
    ),
    "focalnet": Case(
        "FocalNetForImageClassification",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 16,
            "hidden_sizes": [16, 32],
            "depths": [1, 2],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
            "num_labels": 5,
        },
        image(),
    ),
    "vit-mae": Case(
        "ViTMAEModel", merged(_VIT, mask_ratio=0.0), floats(pixel_values=(3, 32, 32), noise=(16,)), "last_hidden_state"
    ),
    "videomae": Case(
        "VideoMAEForVideoClassification",
        merged(_VIT, num_frames=4, tubelet_size=2),
        floats(pixel_values=(4, 3, 32, 32)),
    ),
    "timesformer": Case(
        "TimesformerForVideoClassification", merged(_VIT, num_frames=3), floats(pixel_values=(3, 3, 32, 32))
    ),
    "audio-spectrogram": Case(
        "ASTForAudioClassification",
        merged(_VIT, max_length=24, num_mel_bins=16, frequency_stride=8, time_stride=8),
        floats(input_values=(24, 16)),
    ),
}
