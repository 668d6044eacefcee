"""The transformers suite: language models that read from left to right. Data only; `transformers_suite` builds it."""

from __future__ import annotations

from typing import Any

from torchpare.zoo.transformers_case import VOCABULARY, Case, merged, tokens

__all__ = ["DECODERS"]

# 4 heads of 10: hidden 40, MLP 56. GPT-2's names, and LLaMA's.
_GPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 40,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 56,
    "n_positions": 32,
    "use_cache": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LLAMA: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 56,
    "max_position_embeddings": 32,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = merged(_LLAMA, num_key_value_heads=2)
_WIDE = merged(_GROUPED, head_dim=12)  # heads x width is 48, hidden is 40: families that allow it get it
# Mixtures run their experts one by one, and some in another variant as they do where nothing is said: together.
_EXPERTS = merged(_WIDE, num_experts_per_tok=2, experts_implementation="eager", output_router_logits=False)
_GROUPED_EXPERTS = merged(_EXPERTS, experts_implementation="grouped_mm")

# Not here: XGLM, which fills a float32 number with float64's smallest and so does not run in float64.
DECODERS: dict[str, Case] = {
    "gpt": Case("OpenAIGPTLMHeadModel", merged(_GPT, n_inner=None), tokens()),
    "gpt2": Case("GPT2LMHeadModel", _GPT, tokens()),
    "gpt2-model": Case("GPT2Model", _GPT, tokens(mask=True)),
    "gpt2-eager": Case("GPT2LMHeadModel", merged(_GPT, attn_implementation="eager"), tokens(mask=True)),
    "gpt2-classify": Case("GPT2ForSequenceClassification", merged(_GPT, num_labels=3, pad_token_id=0), tokens()),
    "gpt-bigcode": Case("GPTBigCodeForCausalLM", merged(_GPT, multi_query=True), tokens()),
    "gpt-neo": Case(
        "GPTNeoForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 40,
            "num_layers": 2,
            "num_heads": 4,
            "intermediate_size": 56,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "max_position_embeddings": 32,
            "use_cache": False,
        },
        tokens(),
    ),
    "gpt-neox": Case("GPTNeoXForCausalLM", merged(_LLAMA, rotary_pct=0.4), tokens()),
    "gptj": Case("GPTJForCausalLM", merged(_GPT, rotary_dim=4), tokens()),
    "codegen": Case("CodeGenForCausalLM", merged(_GPT, rotary_dim=4), tokens()),
    "opt": Case(
        "OPTForCausalLM",
        merged(_LLAMA, ffn_dim=56, word_embed_proj_dim=40, do_layer_norm_before=True, pad_token_id=1),
        tokens(),
    ),
    "opt-projected": Case(
        "OPTForCausalLM",
        merged(_LLAMA, ffn_dim=56, word_embed_proj_dim=24, do_layer_norm_before=False, pad_token_id=1),
        tokens(mask=True),
    ),
    "bloom": Case(
        "BloomForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 40, "n_layer": 2, "n_head": 4, "use_cache": False},
        tokens(),
    ),
    "mpt": Case(
        "MptForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "d_model": 40,
            "n_layers": 2,
            "n_heads": 4,
            "expansion_ratio": 3,
            "max_seq_len": 32,
            "use_cache": False,
        },
        tokens(),
    ),
    "llama": Case("LlamaForCausalLM", _LLAMA, tokens()),
    "llama-model": Case("LlamaModel", _WIDE, tokens()),
    "llama-eager": Case("LlamaForCausalLM", merged(_LLAMA, attn_implementation="eager"), tokens(mask=True)),
    "llama-grouped": Case("LlamaForCausalLM", _WIDE, tokens()),
    "llama-grouped-eager": Case("LlamaForCausalLM", merged(_WIDE, attn_implementation="eager"), tokens(mask=True)),
    "llama-tied": Case("LlamaForCausalLM", merged(_WIDE, tie_word_embeddings=True), tokens(mask=True)),
    "llama-classify": Case("LlamaForSequenceClassification", merged(_WIDE, num_labels=3), tokens()),
    "llama4": Case(
        "Llama4ForCausalLM",
        merged(
            _EXPERTS,
            num_local_experts=3,
            num_experts_per_tok=1,
            intermediate_size_mlp=64,
            interleave_moe_layer_step=2,
            attention_chunk_size=16,
        ),
        tokens(),
    ),
    "mistral": Case("MistralForCausalLM", merged(_WIDE, sliding_window=4), tokens()),
    "ministral": Case("MinistralForCausalLM", merged(_WIDE, sliding_window=4), tokens()),
    "mixtral": Case("MixtralForCausalLM", merged(_EXPERTS, num_local_experts=4), tokens()),
    "mixtral-grouped": Case("MixtralForCausalLM", merged(_GROUPED_EXPERTS, num_local_experts=4), tokens()),
    "mixtral-batched": Case(
        "MixtralForCausalLM", merged(_EXPERTS, num_local_experts=4, experts_implementation="batched_mm"), tokens()
    ),
    "qwen2": Case("Qwen2ForCausalLM", _GROUPED, tokens()),
    "qwen3": Case("Qwen3ForCausalLM", _WIDE, tokens()),
    "qwen2-moe": Case(
        "Qwen2MoeForCausalLM",
        merged(_EXPERTS, num_experts=4, moe_intermediate_size=28, shared_expert_intermediate_size=36),
        tokens(),
    ),
    "qwen3-moe-grouped": Case(
        "Qwen3MoeForCausalLM", merged(_GROUPED_EXPERTS, num_experts=4, moe_intermediate_size=28), tokens()
    ),
    "qwen3-moe": Case("Qwen3MoeForCausalLM", merged(_EXPERTS, num_experts=4, moe_intermediate_size=28), tokens()),
    "gemma": Case("GemmaForCausalLM", merged(_WIDE, num_key_value_heads=1), tokens()),
    "gemma2": Case("Gemma2ForCausalLM", merged(_WIDE, sliding_window=4, query_pre_attn_scalar=12), tokens()),
    "gemma3-text": Case("Gemma3ForCausalLM", merged(_WIDE, sliding_window=4, query_pre_attn_scalar=12), tokens()),
    "phi": Case("PhiForCausalLM", merged(_GROUPED, partial_rotary_factor=0.4), tokens()),
    "phi3": Case("Phi3ForCausalLM", _GROUPED, tokens()),
    "phimoe": Case("PhimoeForCausalLM", merged(_EXPERTS, num_local_experts=4, head_dim=10), tokens()),
    "falcon": Case("FalconForCausalLM", merged(_LLAMA, ffn_hidden_size=56, multi_query=True, alibi=False), tokens()),
    "falcon-new": Case(
        "FalconForCausalLM",
        merged(_LLAMA, ffn_hidden_size=56, new_decoder_architecture=True, num_kv_heads=2, bias=True),
        tokens(mask=True),
    ),
    "falcon-alibi": Case(
        "FalconForCausalLM",
        merged(_LLAMA, ffn_hidden_size=56, multi_query=False, alibi=True, parallel_attn=False),
        tokens(mask=True),
    ),
    "stablelm": Case("StableLmForCausalLM", merged(_GROUPED, partial_rotary_factor=0.4, use_qkv_bias=True), tokens()),
    "stablelm-norms": Case(
        "StableLmForCausalLM", merged(_GROUPED, qk_layernorm=True, partial_rotary_factor=0.4), tokens()
    ),
    "cohere": Case("CohereForCausalLM", merged(_GROUPED, use_qk_norm=True), tokens()),
    "cohere2": Case("Cohere2ForCausalLM", merged(_WIDE, sliding_window=4), tokens()),
    "olmo": Case("OlmoForCausalLM", _GROUPED, tokens()),
    "olmo2": Case("Olmo2ForCausalLM", _GROUPED, tokens()),
    "olmoe": Case("OlmoeForCausalLM", merged(_EXPERTS, num_experts=4, head_dim=10), tokens()),
    "granite": Case("GraniteForCausalLM", _GROUPED, tokens()),
    "granitemoe": Case("GraniteMoeForCausalLM", merged(_EXPERTS, head_dim=10, num_local_experts=4), tokens()),
    "starcoder2": Case("Starcoder2ForCausalLM", _GROUPED, tokens()),
    "glm": Case("GlmForCausalLM", _WIDE, tokens()),
    "glm4": Case("Glm4ForCausalLM", _WIDE, tokens()),
    "nemotron": Case("NemotronForCausalLM", _WIDE, tokens()),
    "persimmon": Case("PersimmonForCausalLM", merged(_LLAMA, partial_rotary_factor=0.4), tokens()),
    "helium": Case("HeliumForCausalLM", merged(_GROUPED, head_dim=10), tokens()),
    "smollm3": Case("SmolLM3ForCausalLM", merged(_GROUPED, no_rope_layers=[1, 0]), tokens()),
    "exaone4": Case("Exaone4ForCausalLM", merged(_WIDE, sliding_window=4), tokens()),
    "deepseek-v3": Case(
        "DeepseekV3ForCausalLM",
        merged(
            _LLAMA,
            moe_intermediate_size=28,
            n_routed_experts=4,
            n_shared_experts=1,
            num_experts_per_tok=2,
            n_group=2,
            topk_group=1,
            first_k_dense_replace=1,
            kv_lora_rank=16,
            q_lora_rank=20,
            qk_rope_head_dim=4,
            qk_nope_head_dim=6,
            v_head_dim=12,
            experts_implementation="eager",
        ),
        tokens(),
    ),
    "gpt-oss": Case("GptOssForCausalLM", merged(_EXPERTS, num_local_experts=4, sliding_window=4), tokens()),
    "gpt-oss-grouped": Case(
        "GptOssForCausalLM", merged(_GROUPED_EXPERTS, num_local_experts=4, sliding_window=4), tokens()
    ),
    "biogpt": Case("BioGptForCausalLM", merged(_LLAMA, pad_token_id=1), tokens()),
    "ctrl": Case(
        "CTRLLMHeadModel",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 40,
            "n_layer": 2,
            "n_head": 4,
            "dff": 56,
            "n_positions": 32,
            "use_cache": False,
        },
        tokens(),
    ),
    "modernbert-decoder": Case(
        "ModernBertDecoderForCausalLM", merged(_LLAMA, local_attention=4, global_attn_every_n_layers=2), tokens()
    ),
}
