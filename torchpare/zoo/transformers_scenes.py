"""The transformers suite: from an image to boxes or to another image. Data only; `transformers_suite` builds it."""

from __future__ import annotations

from typing import Any

from torchpare.zoo.transformers_case import Case, image, merged

__all__ = ["SCENES"]

_VIT: dict[str, Any] = {
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}
_BACKBONE = {"embedding_size": 12, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1], "layer_type": "basic"}
_DETECT: dict[str, Any] = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "num_channels": 3,
    "num_queries": 6,
    "d_model": 40,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 56,
    "decoder_ffn_dim": 64,
    "num_labels": 5,
}
_RESNET = {"backbone_config": ("ResNetConfig", merged(_BACKBONE, out_features=["stage4"]))}

SCENES: dict[str, Case] = {
    "vit-restore": Case("ViTForMaskedImageModeling", merged(_VIT, encoder_stride=8), image(), output="reconstruction"),
    "segformer": Case(
        "SegformerForSemanticSegmentation",
        {
            "num_encoder_blocks": 2,
            "depths": [1, 2],
            "hidden_sizes": [16, 24],
            "num_attention_heads": [2, 4],
            "sr_ratios": [4, 1],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "mlp_ratios": [2, 3],
            "decoder_hidden_size": 20,
            "num_labels": 5,
        },
        image(),
    ),
    "yolos": Case(
        "YolosForObjectDetection",
        merged(_VIT, image_size=[32, 48], num_detection_tokens=5),
        image(32, 48),
        output="logits",
    ),
    "detr": Case("DetrForObjectDetection", _DETECT, image(), output="logits", nested=_RESNET),
    "conditional-detr": Case("ConditionalDetrForObjectDetection", _DETECT, image(), output="logits", nested=_RESNET),
    "upernet": Case(
        "UperNetForSemanticSegmentation",
        {"hidden_size": 20, "pool_scales": [1, 2], "use_auxiliary_head": False, "num_labels": 5},
        image(64),
        nested={
            "backbone_config": (
                "ResNetConfig",
                merged(_BACKBONE, out_features=["stage1", "stage2", "stage3", "stage4"]),
            )
        },
    ),
    "dpt": Case(
        "DPTForDepthEstimation",
        merged(
            _VIT,
            num_hidden_layers=4,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[12, 16, 20, 24],
            fusion_hidden_size=16,
            is_hybrid=False,
            backbone_config=None,
        ),
        image(),
        output="predicted_depth",
    ),
    "swin2sr": Case(
        "Swin2SRForImageSuperResolution",
        {
            "image_size": 16,
            "patch_size": 1,
            "embed_dim": 24,
            "depths": [1, 2],
            "num_heads": [4, 4],
            "window_size": 4,
            "mlp_ratio": 3.0,
            "upscale": 2,
            "upsampler": "pixelshuffle",
        },
        image(16),
        output="reconstruction",
    ),
}
