"""Holds configs of public models outside the catalog: the keys that counting needs."""

from typing import Any


def config_of(family: str, *widths: int, **more: Any) -> dict[str, Any]:
    """A config in the keys that most families share.

    Widths: hidden, intermediate, layers, heads, KV heads, vocabulary.
    """
    hidden, inner, layers, heads, kv_heads, vocab = widths
    return {
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 4096,
        **more,
    }


PUBLIC: dict[str, dict[str, Any]] = {
    "aya-23-8b": config_of("cohere", 4096, 14336, 32, 32, 8, 256000),
    "deepseek-v3": config_of(
        "deepseek_v3", 7168, 18432, 61, 128, 128, 129280,
        q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64,
        v_head_dim=128, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8,
        moe_intermediate_size=2048, first_k_dense_replace=3,
    ),
    "exaone-3.5-2.4b": config_of(
        "exaone", 2560, 7168, 30, 32, 8, 102400,
        num_layers=30, head_dim=80, tie_word_embeddings=True,
    ),
    "falcon-7b": {
        "model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32,
        "num_attention_heads": 71, "vocab_size": 65024, "multi_query": True,
        "parallel_attn": True, "bias": False, "new_decoder_architecture": False,
    },
    "gemma-2b": config_of("gemma", 2048, 16384, 18, 8, 1, 256000, head_dim=256),
    "gpt-j-6b": {
        "model_type": "gptj", "n_embd": 4096, "n_layer": 28, "n_head": 16,
        "n_positions": 2048, "vocab_size": 50400,
    },
    # No grouped heads: num_key_value_heads may be left out.
    "llama-2-7b": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
        "num_attention_heads": 32, "num_hidden_layers": 32, "vocab_size": 32000,
        "max_position_embeddings": 4096,
    },
    "llama-3.1-405b": config_of("llama", 16384, 53248, 126, 128, 8, 128256),
    "mimo-7b": config_of("mimo", 4096, 11008, 36, 32, 8, 151680),
    "minicpm-2b": config_of("minicpm", 2304, 5760, 40, 36, 36, 122753),
    "mistral-7b-v0.1": config_of(
        "mistral", 4096, 14336, 32, 32, 8, 32000,
        max_position_embeddings=32768, sliding_window=4096, tie_word_embeddings=False,
    ),
    "mixtral-8x7b": config_of(
        "mixtral", 4096, 14336, 32, 32, 8, 32000, num_local_experts=8, num_experts_per_tok=2
    ),
    "olmo-1b": config_of("olmo", 2048, 8192, 16, 16, 16, 50304, tie_word_embeddings=True),
    "olmo-2-7b": config_of("olmo2", 4096, 11008, 32, 32, 32, 100352),
    "opt-13b": {
        "model_type": "opt", "hidden_size": 5120, "ffn_dim": 20480, "num_attention_heads": 40,
        "num_hidden_layers": 40, "vocab_size": 50272, "max_position_embeddings": 2048,
    },
    "opt-350m": {
        "model_type": "opt", "hidden_size": 1024, "ffn_dim": 4096, "num_attention_heads": 16,
        "num_hidden_layers": 24, "vocab_size": 50272, "max_position_embeddings": 2048,
        "word_embed_proj_dim": 512, "do_layer_norm_before": False,
    },
    "qwen1.5-moe-a2.7b": config_of(
        "qwen2_moe", 2048, 5632, 24, 16, 16, 151936, num_experts=60, num_experts_per_tok=4,
        moe_intermediate_size=1408, shared_expert_intermediate_size=5632,
    ),
    "qwen2.5-72b": config_of("qwen2", 8192, 29568, 80, 64, 8, 152064),
    "qwen3-30b-a3b": config_of(
        "qwen3_moe", 2048, 6144, 48, 32, 4, 151936,
        head_dim=128, num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768,
    ),
    "stablelm-3b-4e1t": config_of("stablelm", 2560, 6912, 32, 32, 32, 50304),
    "starcoderbase-1b": {
        "model_type": "gpt_bigcode", "n_embd": 2048, "n_layer": 24, "n_head": 16,
        "n_positions": 8192, "n_inner": 8192, "vocab_size": 49152,
    },
}  # fmt: skip
