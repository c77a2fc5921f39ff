"""Holds small configs of every family, its switches on and off, for counting by an oracle."""

from typing import Any

Config = dict[str, Any]

BASE: Config = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 6,
    "num_hidden_layers": 5,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
GPT: Config = {"n_embd": 96, "n_layer": 5, "n_head": 6, "n_positions": 128, "vocab_size": 1000}
BIASES: Config = dict.fromkeys(("attention_bias", "mlp_bias", "use_bias", "use_qkv_bias"), True)
NO_BIASES: Config = dict.fromkeys(BIASES, False)
NORMS: Config = {"use_qk_norm": True, "qk_layernorm": True, "use_parallel_residual": True}

LLAMA_LIKE = (
    "arcee", "cohere", "cohere2", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text", "glm",
    "glm4", "granite", "llama", "ministral3", "mistral", "nemotron", "olmo", "olmo2", "olmo3",
    "phi3", "qwen2", "qwen3", "smollm3", "stablelm", "starcoder2",
)  # fmt: skip
OWN_HEAD_WIDTH = (
    "exaone4", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "granite", "llama", "ministral3",
    "mistral", "qwen3", "smollm3",
)  # fmt: skip
EXPERTS: Config = {"num_experts": 8, "num_local_experts": 8, "num_experts_per_tok": 2}
QWEN_EXPERTS: Config = {
    **EXPERTS, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 56
}  # fmt: skip
LATENT: Config = {
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 20,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "moe_intermediate_size": 48,
    "num_experts_per_tok": 3,
    "n_group": 2,
    "topk_group": 1,
}
MAMBA: Config = {
    "mamba_n_heads": 8,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "num_experts_per_tok": 2,
    "shared_intermediate_size": 72,
}
MIXED = ["mamba", "attention", "mamba", "mamba", "attention"]


def based(family: str, **more: Any) -> Config:
    return {"model_type": family, **BASE, **more}


def variants() -> list[Config]:
    """Every family but those whose code is not in transformers."""
    return [*_dense(), *_classic(), *_encoders(), *_experts(), *_latent(), *_hybrid()]


def _dense() -> list[Config]:
    found = []
    for family in LLAMA_LIKE:
        wide = {"head_dim": 24} if family in OWN_HEAD_WIDTH else {}
        found.append(based(family))
        found.append(based(family, tie_word_embeddings=True, **BIASES))
        found.append(based(family, tie_word_embeddings=False, **NO_BIASES, **NORMS, **wide))
    return found


def _classic() -> list[Config]:
    plain = {"enable_bias": False, "layer_norm_elementwise_affine": False}
    later = {"new_decoder_architecture": True, "num_kv_heads": 2}
    return [
        based("opt", ffn_dim=200),
        based("opt", ffn_dim=200, word_embed_proj_dim=48, do_layer_norm_before=False),
        based("opt", ffn_dim=200, tie_word_embeddings=False, **plain),
        {"model_type": "gpt2", **GPT},
        {"model_type": "gpt2", **GPT, "n_inner": 100},
        {"model_type": "gpt_bigcode", **GPT},
        {"model_type": "gpt_bigcode", **GPT, "multi_query": False},
        {"model_type": "gptj", **GPT, "rotary_dim": 8},
        {"model_type": "gptj", **GPT, "rotary_dim": 8, "tie_word_embeddings": True},
        based("gpt_neox"),
        based("gpt_neox", attention_bias=False, tie_word_embeddings=True),
        based("phi"),
        based("phi", qk_layernorm=True),
        {"model_type": "bloom", "hidden_size": 96, "n_layer": 5, "n_head": 6, "vocab_size": 1000},
        based("falcon"),
        based("falcon", **later),
        based("falcon", **later, num_ln_in_parallel_attn=1, bias=True),
        based("falcon", multi_query=False, parallel_attn=False, bias=True, ffn_hidden_size=100),
    ]


def _encoders() -> list[Config]:
    biases = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True)
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1)
    ranks = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    found = []
    for family, name in (
        ("bert", "Bert"),
        ("roberta", "Roberta"),
        ("xlm-roberta", "XLMRoberta"),
        ("modernbert", "ModernBert"),
    ):
        one = based(family, **special)
        found.append({**one, "architectures": [f"{name}Model"]})
        found.append({**one, "architectures": [f"{name}ForSequenceClassification"], **ranks})
        found.append({**one, "architectures": [f"{name}ForSequenceClassification"], **biases})
    return found


def _experts() -> list[Config]:
    found = []
    for family in ("granitemoe", "granitemoeshared", "mixtral", "olmoe"):
        found.append(based(family, **EXPERTS))
        found.append(
            based(
                family, **EXPERTS, attention_bias=True, tie_word_embeddings=True,
                shared_intermediate_size=40,
            )
        )  # fmt: skip
    for family in ("qwen2_moe", "qwen3_moe"):
        found.append(based(family, **QWEN_EXPERTS))
        found.append(based(family, **QWEN_EXPERTS, decoder_sparse_step=2, mlp_only_layers=[1]))
    return found


def _latent() -> list[Config]:
    return [
        config
        for family in ("deepseek_v2", "deepseek_v3")
        for config in (
            based(family, **LATENT, q_lora_rank=None, first_k_dense_replace=1),
            based(family, **LATENT, q_lora_rank=24, attention_bias=True),
        )
    ]


def _hybrid() -> list[Config]:
    types = ["conv", "full_attention", "conv", "conv", "full_attention"]
    granite = {**MAMBA, "layer_types": MIXED}
    falcon = {"mamba_d_ssm": 128, "mamba_n_heads": 8, "mamba_d_state": 16}
    return [
        based("lfm2", full_attn_idxs=[1, 3]),
        based("lfm2", layer_types=types, conv_bias=True, block_auto_adjust_ff_dim=False),
        based(
            "lfm2", block_ff_dim=200, block_multiple_of=32, block_ffn_dim_multiplier=1.3,
            full_attn_idxs=[0], conv_L_cache=4,
        ),
        based("granitemoehybrid", **granite, num_local_experts=0),
        based("granitemoehybrid", **granite, num_local_experts=4, mamba_n_groups=2),
        based("granitemoehybrid", **granite, num_local_experts=0, mamba_proj_bias=True),
        based("granitemoehybrid", **{**MAMBA, "layer_types": ["attention"] * 5},
              num_local_experts=0),
        based("falcon_h1", **falcon),
        based("falcon_h1", **falcon, **BIASES, mamba_rms_norm=True, mamba_proj_bias=True),
    ]  # fmt: skip
