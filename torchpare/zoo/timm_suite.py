"""timm: one or more of every architecture family, and all its default architectures.

Inputs are the smallest of a few sizes that a model can be built for and run on, tried on the meta device, where that
costs no arithmetic; two samples of them, or one for a giant.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import nn

from torchpare.errors import MissingExtraError
from torchpare.zoo.outputs import tensors
from torchpare.zoo.vision import torchvision_models

__all__ = ["NAMES", "all_names", "build"]

_FAMILIES = """
beit_base_patch16_224 botnet26t_256 halonet26t lambda_resnet26t bat_resnext26ts gernet_s mobileone_s0 regnetz_b16
repvgg_a0 gcresnet33ts cait_xxs24_224 coat_tiny coat_lite_tiny convit_tiny convmixer_768_32 convnext_atto
convnext_atto_rms convnextv2_atto cpubone_nano crossvit_9_240 csatv2 cspresnet50 cspdarknet53 cs3darknet_s cspnext_tiny
davit_tiny deepseek_vit_412m deit3_small_patch16_224 deit_tiny_distilled_patch16_224 densenet121 dla34 dla60_res2net
dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientnet_b0_gn mixnet_s
mobilenetv2_050 mnasnet_small fbnetc_100 tinynet_e spnasnet_100 tf_efficientnetv2_b0 efficientvim_m1 efficientvit_b0
efficientvit_l1 efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny
gemma4_vit_167m ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnet_tiny hgnetv2_b0 hiera_tiny_224
sam2_hiera_tiny hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4
lcnetv2_small levit_128s levit_conv_128s lowformer_b0 mambaout_femto coatnet_pico_rw_224 maxvit_pico_rw_256
maxxvit_rmlp_nano_rw_256 poolformer_s12 poolformerv2_s12 convformer_s18 caformer_s18 mixer_s32_224 gmlp_ti16_224
resmlp_12_224 mobilenetv3_small_050 fbnetv3_b lcnet_035 mobilenetv4_conv_small mobilenetv4_hybrid_medium
mobilenetv5_300m mobilevit_xxs mobilevitv2_050 mvitv2_tiny naflexvit_base_patch16_gap nasnetalarge nest_tiny
nextvit_small dm_nfnet_f0 eca_nfnet_l0 nf_regnet_b0 nf_resnet50 pit_ti_224 pit_ti_distilled_224 pnasnet5large pvt_v2_b0
pvt_v2_b2_li qwen3_vit_88m rdnet_tiny regnetx_002 regnety_002 repghostnet_050 repvit_m0_9 res2net50_14w_8s resnest14d
resnet18 resnext26ts resnet50 seresnet50 ecaresnet26t resnetaa50 resnetblur50 resnetv2_50 resnetv2_50x1_bit rexnet_100
selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
swin_s3_tiny_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m
twins_svt_small twins_pcpvt_small vgg11_bn visformer_tiny vit_tiny_patch16_224 flexivit_small vit_small_patch14_dinov2
vit_small_patch14_reg4_dinov2 vit_base_patch16_siglip_224 vit_base_patch16_clip_224 vit_tiny_r_s16_p8_224
vit_relpos_small_patch16_224 vit_srelpos_small_patch16_224 samvit_base_patch16_224 vitamin_small_224 volo_d1_224
vovnet39a ese_vovnet19b_dw eca_vovnet39b legacy_xception xception41 xcit_nano_12_p16_224 vit_small_patch16_rope_224
vit_small_patch16_dinov3
"""
NAMES = tuple(_FAMILIES.split())

_SIZES = (96, 112, 128, 160, 192, 224, 256)  # tried in this order, before a model's own
_GIANT = 200_000_000  # parameters, from which on one sample is enough


def all_names() -> tuple[str, ...]:
    """Every default architecture of the installed timm."""
    return tuple(_timm().list_models())


def build(name: str) -> tuple[nn.Module, Any]:
    """A model as timm makes it, in evaluation mode, and the smallest images that suit it."""
    settings, shape = _smallest(name)
    model = _timm().create_model(name, pretrained=False, **settings).eval()
    giant = sum(parameter.numel() for parameter in model.parameters()) > _GIANT
    return model, torch.randn(1 if giant else 2, *shape)


@cache
def _smallest(name: str) -> tuple[dict[str, int], tuple[int, int, int]]:
    """The settings for the smallest image that a model accepts, and the shape of that image."""
    channels, *native = _timm().get_pretrained_cfg(name, allow_unregistered=False).input_size
    for size in _SIZES:
        if size >= max(native):
            break
        shape = (channels, size, size)
        for settings in ({}, {"img_size": size}):  # many nets take any size, others must be told
            if _runs(name, settings, shape):
                return settings, shape
    return {}, (channels, *native)


def _runs(name: str, settings: dict[str, int], shape: tuple[int, int, int]) -> bool:
    """Whether the model evaluates and trains on such images, tried without data."""
    with suppress(Exception), torch.no_grad():  # whatever a model raises about a size
        with torch.device("meta"):
            model = _timm().create_model(name, pretrained=False, **settings)
            images = torch.empty(2, *shape)
        model.train()(images)
        return all(0 not in tensor.shape for _, tensor in tensors(model.eval()(images)))
    return False


@cache
def _timm() -> ModuleType:
    torchvision_models()  # timm imports torchvision, which may need our help for that
    try:
        import timm  # type: ignore[reportMissingImports] - installed by `make zoo` alone
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise MissingExtraError("timm is not installed; it comes with: pip install 'torchpare[zoo]'") from error
    return timm
