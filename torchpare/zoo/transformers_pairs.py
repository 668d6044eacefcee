"""The transformers suite: text to text, text with images, series. Data only; `transformers_suite` builds it."""

from __future__ import annotations

from typing import Any

from torchpare.zoo.transformers_case import (
    VOCABULARY,
    Case,
    encoder_decoder,
    floats,
    image,
    image_and_text,
    merged,
    tokens,
)

__all__ = ["PAIRS"]

_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 40,
    "d_kv": 12,
    "d_ff": 56,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "use_cache": False,
}
# The decoder's MLP is wider than the encoder's, so that the two are not taken for each other.
_BART: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 40,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 56,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 32,
    "use_cache": False,
    "num_labels": 3,
}
_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 16,
    "projection_dim": 28,
    "eos_token_id": 98,
}
_VISION = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 28,
}
# Not here: Autoformer, which makes float32 tensors whatever its weights are, and so does not run in float64.
PAIRS: dict[str, Case] = {
    "t5": Case("T5ForConditionalGeneration", _T5, encoder_decoder()),
    "t5-logits": Case("T5ForConditionalGeneration", _T5, encoder_decoder(mask=True), output="logits"),
    "t5-encoder": Case("T5EncoderModel", _T5, tokens()),
    "t5-gated": Case(
        "T5ForConditionalGeneration",
        merged(_T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        encoder_decoder(),
        output="logits",
    ),
    "mt5": Case("MT5ForConditionalGeneration", _T5, encoder_decoder(), output="logits"),
    "umt5": Case("UMT5ForConditionalGeneration", _T5, encoder_decoder(), output="logits"),
    "longt5": Case("LongT5ForConditionalGeneration", merged(_T5, local_radius=3), encoder_decoder(), output="logits"),
    "switch-transformers": Case(
        "SwitchTransformersForConditionalGeneration",
        merged(
            _T5,
            num_decoder_layers=2,
            num_experts=3,
            num_sparse_encoder_layers=1,
            num_sparse_decoder_layers=1,
            experts_implementation="eager",
        ),
        encoder_decoder(),
        output="logits",
    ),
    "bart": Case("BartForConditionalGeneration", _BART, encoder_decoder()),
    "bart-logits": Case("BartForConditionalGeneration", _BART, encoder_decoder(mask=True), output="logits"),
    "mbart": Case("MBartForConditionalGeneration", _BART, encoder_decoder(), output="logits"),
    "pegasus": Case("PegasusForConditionalGeneration", _BART, encoder_decoder(), output="logits"),
    "blenderbot": Case("BlenderbotForConditionalGeneration", _BART, encoder_decoder(), output="logits"),
    "m2m-100": Case("M2M100ForConditionalGeneration", _BART, encoder_decoder(), output="logits"),
    "marian": Case("MarianMTModel", merged(_BART, pad_token_id=1), encoder_decoder(), output="logits"),
    "plbart": Case("PLBartForConditionalGeneration", _BART, encoder_decoder(), output="logits"),
    "led": Case(
        "LEDForConditionalGeneration",
        merged(_BART, attention_window=[4, 4], max_encoder_position_embeddings=32, max_decoder_position_embeddings=32),
        encoder_decoder(),
        output="logits",
    ),
    "prophetnet": Case(
        "ProphetNetForConditionalGeneration",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 40,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "num_encoder_attention_heads": 4,
            "num_decoder_attention_heads": 4,
            "encoder_ffn_dim": 56,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 32,
            "num_buckets": 8,
            "relative_max_distance": 16,
            "use_cache": False,
        },
        encoder_decoder(),
        output="logits",
    ),
    "nllb-moe": Case(
        "NllbMoeForConditionalGeneration",
        merged(_BART, num_experts=3, encoder_sparse_step=2, decoder_sparse_step=2, expert_capacity=16),
        encoder_decoder(),
        output="logits",
    ),
    "clip": Case(
        "CLIPModel",
        {"projection_dim": 28, "text_config": _TEXT, "vision_config": _VISION},
        image_and_text(),
        output="logits_per_image",
    ),
    "clip-vision": Case("CLIPVisionModelWithProjection", _VISION, image()),
    "siglip": Case(
        "SiglipModel",
        {"text_config": merged(_TEXT, projection_size=48), "vision_config": _VISION},
        image_and_text(mask=False),
        output="logits_per_image",
    ),
    "blip": Case(
        "BlipForConditionalGeneration",
        {
            "projection_dim": 28,
            "text_config": merged(
                _TEXT, encoder_hidden_size=48, use_cache=False, bos_token_id=97, sep_token_id=96, pad_token_id=0
            ),
            "vision_config": _VISION,
        },
        image_and_text(),
        output="logits",
    ),
    "patchtst": Case(
        "PatchTSTForPrediction",
        {
            "num_input_channels": 3,
            "context_length": 16,
            "patch_length": 4,
            "patch_stride": 4,
            "d_model": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 56,
            "prediction_length": 5,
            "loss": "mse",
        },
        floats(past_values=(16, 3)),
        output="prediction_outputs",
    ),
    "patchtsmixer": Case(
        "PatchTSMixerForPrediction",
        {
            "num_input_channels": 3,
            "context_length": 16,
            "patch_length": 4,
            "patch_stride": 4,
            "d_model": 12,
            "num_layers": 2,
            "expansion_factor": 2,
            "prediction_length": 5,
            "loss": "mse",
        },
        floats(past_values=(16, 3)),
        output="prediction_outputs",
    ),
    "perceiver-mlm": Case(
        "PerceiverForMaskedLM",
        {
            "vocab_size": VOCABULARY,
            "d_model": 40,
            "d_latents": 48,
            "num_latents": 6,
            "num_blocks": 1,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 4,
            "qk_channels": 32,
            "v_channels": 48,
            "max_position_embeddings": 7,
        },
        lambda g: {"inputs": tokens()(g)["input_ids"]},
        output="logits",
    ),
}
