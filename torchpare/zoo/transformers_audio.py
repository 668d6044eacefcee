"""The transformers suite: speech and sound. Data only; `transformers_suite` builds it."""

from __future__ import annotations

from typing import Any

from torchpare.zoo.transformers_case import VOCABULARY, Case, floats, merged, speech_to_text, tokens, wave

__all__ = ["AUDIO"]

_WAV2VEC2: dict[str, Any] = {
    "vocab_size": 21,
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "conv_dim": (12, 16, 20),
    "conv_kernel": (10, 4, 3),
    "conv_stride": (5, 4, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "num_codevectors_per_group": 8,
    "codevector_dim": 16,
    "proj_codevector_dim": 16,
    "num_labels": 3,
    "classifier_proj_size": 24,
}
_WHISPER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 40,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 56,
    "decoder_ffn_dim": 64,
    "num_mel_bins": 20,
    "max_source_positions": 15,
    "max_target_positions": 16,
    "use_cache": False,
    "num_labels": 3,
}

AUDIO: dict[str, Case] = {
    "whisper": Case(
        "WhisperForConditionalGeneration",
        merged(
            _WHISPER,
            num_mel_bins=20,
            max_source_positions=15,
            max_target_positions=16,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        ),
        speech_to_text(20, 30),
        output="logits",
    ),
    "whisper-classify": Case(
        "WhisperForAudioClassification",
        merged(_WHISPER, num_mel_bins=20, max_source_positions=15, classifier_proj_size=24),
        floats(input_features=(20, 30)),
        output="logits",
    ),
    "wav2vec2-ctc": Case("Wav2Vec2ForCTC", _WAV2VEC2, wave()),
    "wav2vec2-classify": Case(
        "Wav2Vec2ForSequenceClassification",
        merged(_WAV2VEC2, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True),
        wave(),
    ),
    "wav2vec2": Case("Wav2Vec2Model", _WAV2VEC2, wave()),
    "hubert-ctc": Case("HubertForCTC", _WAV2VEC2, wave()),
    "wavlm-ctc": Case("WavLMForCTC", merged(_WAV2VEC2, num_buckets=16, max_bucket_distance=32), wave()),
    "unispeech-ctc": Case("UniSpeechForCTC", merged(_WAV2VEC2, num_ctc_classes=21), wave()),
    "data2vec-audio-ctc": Case("Data2VecAudioForCTC", merged(_WAV2VEC2, conv_pos_kernel_size=5), wave()),
    "sew-ctc": Case("SEWForCTC", merged(_WAV2VEC2, squeeze_factor=2), wave()),
    "wav2vec2-conformer-ctc": Case(
        "Wav2Vec2ConformerForCTC",
        merged(_WAV2VEC2, position_embeddings_type="relative", conv_depthwise_kernel_size=5),
        wave(),
    ),
    "encodec": Case(
        "EncodecModel",
        {
            "num_filters": 6,
            "hidden_size": 20,
            "codebook_size": 16,
            "codebook_dim": 20,
            "upsampling_ratios": [4, 2],
            "num_lstm_layers": 1,
            "sampling_rate": 400,
            "target_bandwidths": [0.4],
        },
        floats(input_values=(1, 64)),
        output="audio_values",
    ),
    "vits": Case(
        "VitsModel",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 36,
            "flow_size": 12,
            "spectrogram_bins": 9,
            "prior_encoder_num_flows": 2,
            "prior_encoder_num_wavenet_layers": 2,
            "duration_predictor_flow_bins": 4,
            "duration_predictor_num_flows": 2,
            "upsample_initial_channel": 16,
            "upsample_rates": [4, 2],
            "upsample_kernel_sizes": [8, 4],
            "resblock_kernel_sizes": [3],
            "resblock_dilation_sizes": [[1, 3]],
            "noise_scale": 0.0,
            "noise_scale_duration": 0.0,
            "posterior_encoder_num_wavenet_layers": 2,
        },
        tokens(),
        output="waveform",
    ),
}
