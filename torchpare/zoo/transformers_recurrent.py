"""The transformers suite: language models that carry a state along the text. Data; `transformers_suite` builds it."""

from __future__ import annotations

from typing import Any

from torchpare.zoo.transformers_case import VOCABULARY, Case, merged, tokens

__all__ = ["RECURRENT"]

_SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "use_cache": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

RECURRENT: dict[str, Case] = {
    "mamba": Case(
        "MambaForCausalLM",
        {
            **_SHARED,
            "state_size": 6,
            "expand": 2,
            "time_step_rank": 5,
        },
        tokens(),
    ),
    "mamba2": Case(
        "Mamba2ForCausalLM",
        {
            **_SHARED,
            "state_size": 6,
            "num_heads": 8,
            "head_dim": 10,
            "expand": 2,
            "n_groups": 2,
            "chunk_size": 4,
        },
        tokens(),
    ),
    "falcon-mamba": Case(
        "FalconMambaForCausalLM",
        {
            **_SHARED,
            "state_size": 6,
            "expand": 2,
            "time_step_rank": 5,
        },
        tokens(),
    ),
    "rwkv": Case(
        "RwkvForCausalLM",
        {
            **_SHARED,
            "attention_hidden_size": 48,
            "intermediate_size": 56,
        },
        tokens(),
    ),
    "recurrent-gemma": Case(
        "RecurrentGemmaForCausalLM",
        merged(
            _SHARED,
            num_hidden_layers=3,  # the third attends
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=56,
            lru_width=40,
            attention_window_size=4,
            conv1d_width=3,
        ),
        tokens(),
    ),
}
