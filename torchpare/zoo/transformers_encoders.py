"""The transformers suite: text encoders. Data only; `transformers_suite` builds it."""

from __future__ import annotations

from typing import Any

from torchpare.zoo.transformers_case import VOCABULARY, Case, boxes, documents, merged, tokens

__all__ = ["ENCODERS"]

# 4 heads of 10: hidden 40, MLP 56, positions 32.
_BERT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "num_labels": 3,
}

ENCODERS: dict[str, Case] = {
    "bert": Case("BertModel", _BERT, tokens()),
    "bert-mlm": Case("BertForMaskedLM", _BERT, tokens()),
    "bert-mlm-mask": Case("BertForMaskedLM", _BERT, tokens(mask=True, types=2)),
    "bert-mlm-eager": Case("BertForMaskedLM", merged(_BERT, attn_implementation="eager"), tokens(mask=True)),
    "bert-classify": Case("BertForSequenceClassification", _BERT, tokens(mask=True)),
    "bert-untied": Case("BertForMaskedLM", merged(_BERT, tie_word_embeddings=False), tokens()),
    "bert-answer": Case("BertForQuestionAnswering", merged(_BERT, num_labels=2), tokens()),
    "bert-decoder": Case("BertLMHeadModel", merged(_BERT, is_decoder=True, use_cache=False), tokens()),
    "roberta-mlm": Case("RobertaForMaskedLM", merged(_BERT, pad_token_id=1), tokens()),
    "roberta-classify": Case("RobertaForSequenceClassification", merged(_BERT, pad_token_id=1), tokens()),
    "xlm-roberta-tokens": Case("XLMRobertaForTokenClassification", merged(_BERT, pad_token_id=1), tokens(mask=True)),
    "camembert-mlm": Case("CamembertForMaskedLM", merged(_BERT, pad_token_id=1), tokens()),
    "deberta-mlm": Case(
        "DebertaForMaskedLM",
        merged(_BERT, relative_attention=True, pos_att_type=["c2p", "p2c"], max_relative_positions=8),
        tokens(mask=True),
    ),
    "deberta-v2-mlm": Case(
        "DebertaV2ForMaskedLM",
        merged(_BERT, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=6, share_att_key=True),
        tokens(mask=True),
    ),
    "deberta-v2-classify": Case(
        "DebertaV2ForSequenceClassification",
        merged(_BERT, relative_attention=True, pos_att_type=["c2p"], max_relative_positions=8),
        tokens(),
    ),
    "albert": Case("AlbertModel", merged(_BERT, embedding_size=24), tokens()),
    "albert-mlm": Case("AlbertForMaskedLM", merged(_BERT, embedding_size=24, num_hidden_layers=3), tokens()),
    "electra-mlm": Case("ElectraForMaskedLM", merged(_BERT, embedding_size=24), tokens()),
    "electra-detect": Case("ElectraForPreTraining", merged(_BERT, embedding_size=24), tokens(mask=True)),
    "distilbert-mlm": Case(
        "DistilBertForMaskedLM",
        {
            "vocab_size": VOCABULARY,
            "dim": 40,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 56,
            "max_position_embeddings": 32,
        },
        tokens(),
    ),
    "distilbert-classify": Case(
        "DistilBertForSequenceClassification",
        {
            "vocab_size": VOCABULARY,
            "dim": 40,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 56,
            "max_position_embeddings": 32,
        },
        tokens(mask=True),
    ),
    "mpnet-mlm": Case("MPNetForMaskedLM", _BERT, tokens()),
    "mobilebert-mlm": Case(
        "MobileBertForMaskedLM",
        merged(_BERT, embedding_size=24, intra_bottleneck_size=32, true_hidden_size=32, num_feedforward_networks=2),
        tokens(),
    ),
    "squeezebert-mlm": Case("SqueezeBertForMaskedLM", merged(_BERT, embedding_size=40), tokens()),
    "rembert-mlm": Case(
        "RemBertForMaskedLM", merged(_BERT, input_embedding_size=24, output_embedding_size=28), tokens()
    ),
    "roformer-mlm": Case("RoFormerForMaskedLM", merged(_BERT, embedding_size=24), tokens()),
    "nystromformer-mlm": Case(
        "NystromformerForMaskedLM", merged(_BERT, num_landmarks=7, segment_means_seq_len=7), tokens()
    ),
    "yoso-mlm": Case("YosoForMaskedLM", merged(_BERT, use_expectation=True), tokens()),
    "convbert-mlm": Case(
        "ConvBertForMaskedLM", merged(_BERT, embedding_size=24, head_ratio=2, conv_kernel_size=3), tokens()
    ),
    "fnet-mlm": Case("FNetForMaskedLM", _BERT, tokens()),
    "funnel-mlm": Case(
        "FunnelForMaskedLM",
        {
            "vocab_size": VOCABULARY,
            "block_sizes": [1, 1],
            "d_model": 40,
            "n_head": 4,
            "d_head": 12,
            "d_inner": 56,
            "num_decoder_layers": 1,
        },
        tokens(length=8),
    ),
    "ernie-mlm": Case("ErnieForMaskedLM", merged(_BERT, use_task_id=True, task_type_vocab_size=3), tokens()),
    "esm-mlm": Case(
        "EsmForMaskedLM",
        merged(_BERT, pad_token_id=1, mask_token_id=98, position_embedding_type="rotary", token_dropout=True),
        tokens(mask=True),
    ),
    "modernbert-mlm": Case(
        "ModernBertForMaskedLM",
        merged(_BERT, pad_token_id=0, local_attention=4, global_attn_every_n_layers=2, cls_token_id=1, sep_token_id=2),
        tokens(mask=True),
    ),
    "nomic-bert-mlm": Case("NomicBertForMaskedLM", _BERT, tokens()),
    "megatron-bert-mlm": Case("MegatronBertForMaskedLM", _BERT, tokens()),
    "xlm-mlm": Case(
        "XLMWithLMHeadModel",
        {"vocab_size": VOCABULARY, "emb_dim": 40, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 32},
        tokens(),
    ),
    "xlnet-lm": Case(
        "XLNetLMHeadModel",
        {"vocab_size": VOCABULARY, "d_model": 40, "n_layer": 2, "n_head": 4, "d_inner": 56, "use_mems_eval": False},
        tokens(),
    ),
    "canine-classify": Case(
        "CanineForSequenceClassification",
        merged(
            _BERT,
            num_hash_functions=4,
            num_hash_buckets=16,
            local_transformer_stride=8,
            downsampling_rate=2,
            upsampling_kernel_size=3,
        ),
        tokens(length=16),
    ),
    "longformer-mlm": Case(
        "LongformerForMaskedLM", merged(_BERT, attention_window=4, pad_token_id=1), tokens(length=8)
    ),
    "big-bird-mlm": Case("BigBirdForMaskedLM", merged(_BERT, attention_type="original_full"), tokens()),
    "layoutlm-mlm": Case("LayoutLMForMaskedLM", merged(_BERT, max_2d_position_embeddings=64), boxes()),
    "lilt-tokens": Case(
        "LiltForTokenClassification",
        merged(_BERT, hidden_size=48, channel_shrink_ratio=2, max_2d_position_embeddings=64, pad_token_id=1),
        boxes(),
    ),
    "layoutlmv3-tokens": Case(
        "LayoutLMv3ForTokenClassification",
        merged(
            _BERT,
            max_2d_position_embeddings=64,
            coordinate_size=6,
            shape_size=8,
            input_size=32,
            patch_size=8,
            rel_pos_bins=6,
            rel_2d_pos_bins=8,
            max_rel_pos=16,
            max_rel_2d_pos=16,
            has_relative_attention_bias=True,
            has_spatial_attention_bias=True,
            pad_token_id=1,
        ),
        documents(),
    ),
    "tapas-mlm": Case("TapasForMaskedLM", merged(_BERT, type_vocab_sizes=[3, 4, 4, 2, 4, 3, 3]), tokens()),
    "flaubert-mlm": Case(
        "FlaubertWithLMHeadModel",
        {"vocab_size": VOCABULARY, "emb_dim": 40, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 32},
        tokens(),
    ),
    "ibert-mlm": Case("IBertForMaskedLM", merged(_BERT, pad_token_id=1), tokens()),
}
