"""Counts decoders with multi-head latent attention: DeepSeek V2 and V3, one latent per token.

A layer keeps the compressed latent and the rotary key that all heads share, kv_lora_rank +
qk_rope_head_dim values per token, in place of keys and values (DeepSeek-AI 2024, DeepSeek-V2,
section 2.1 and table 1).
"""

from collections.abc import Iterator
from typing import Final

from partitiond.core.model.families.blueprint import Blueprint, Matrix, mlp_matrices, output_matrix
from partitiond.core.model.families.experts import Experts, experts_per_token, mixture_matrices
from partitiond.core.model.families.reading import Config, flag, layer_count, whole

LATENT: Final = ("deepseek_v2", "deepseek_v3")
"""Values of `model_type`."""

_FIRST_DENSE: Final = {"deepseek_v2": 0, "deepseek_v3": 3}
"""Default of `first_k_dense_replace` in the configuration classes."""


def latent_attention(family: str, config: Config) -> Blueprint:
    """Return a decoder with latent attention, and experts from some layer on."""
    hidden, layers = whole(config, "hidden_size"), layer_count(config)
    heads, vocab = whole(config, "num_attention_heads"), whole(config, "vocab_size")
    latent, rotary = whole(config, "kv_lora_rank"), whole(config, "qk_rope_head_dim")
    inner, experts = whole(config, "intermediate_size"), _experts(config)
    first = whole(config, "first_k_dense_replace", default=_FIRST_DENSE[family], least=0)
    dense_layers = layers if experts is None else min(first, layers)
    step = whole(config, "moe_layer_freq", default=1)

    bias = flag(config, "mlp_bias", False)
    matrices: list[Matrix] = []
    width = 0
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        matrices += _attention(config, f"{prefix}.self_attn", hidden, heads)
        if experts is not None and layer >= dense_layers and layer % step == 0:
            matrices += mixture_matrices(f"{prefix}.mlp", hidden, experts)
            width = max(width, experts.width)
        else:
            matrices += mlp_matrices(f"{prefix}.mlp", hidden, inner, bias=bias)
            width = max(width, inner)
    query_rank = _query_rank(config)
    norms = 2 * hidden + latent + query_rank
    tied = flag(config, "tie_word_embeddings", False)
    return Blueprint(
        matrices=(*matrices, *output_matrix("lm_head", hidden, vocab, tied=tied)),
        others=vocab * hidden + layers * norms + hidden,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=whole(config, "qk_nope_head_dim") + rotary,
        intermediate=width,
        vocab=vocab,
        positions=whole(config, "max_position_embeddings"),
        latent_values=latent + rotary,
        experts=experts.count if experts else 0,
        experts_per_token=experts.used if experts else 0,
    )


def _query_rank(config: Config) -> int:
    """Return the width of the compressed query; 0 if queries are not compressed (null)."""
    return whole(config, "q_lora_rank", default=0, least=0)


def _attention(config: Config, prefix: str, hidden: int, heads: int) -> Iterator[Matrix]:
    plain, rotary = whole(config, "qk_nope_head_dim"), whole(config, "qk_rope_head_dim")
    latent, value = whole(config, "kv_lora_rank"), whole(config, "v_head_dim")
    bias = flag(config, "attention_bias", False)
    rank, queries = _query_rank(config), heads * (plain + rotary)
    if rank:
        yield Matrix(f"{prefix}.q_a_proj", hidden, rank, bias)
        yield Matrix(f"{prefix}.q_b_proj", rank, queries)
    else:
        yield Matrix(f"{prefix}.q_proj", hidden, queries)
    yield Matrix(f"{prefix}.kv_a_proj_with_mqa", hidden, latent + rotary, bias)
    yield Matrix(f"{prefix}.kv_b_proj", latent, heads * (plain + value))
    yield Matrix(f"{prefix}.o_proj", heads * value, hidden, bias)


def _experts(config: Config) -> Experts | None:
    """Return the routed and shared experts; None for a model without any (n_routed_experts
    null).
    """
    count = whole(config, "n_routed_experts", default=0, least=0)
    if not count:
        return None
    inner = whole(config, "moe_intermediate_size")
    return Experts(
        count=count,
        used=experts_per_token(config, count),
        inner=inner,
        shared=whole(config, "n_shared_experts", default=0, least=0) * inner,
    )
