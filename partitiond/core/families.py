"""From a Hugging Face `config.json` to the numbers that decide memory and speed.

Parameters are counted term by term as the model classes of transformers allocate them, so the
count is exact for the families known here: OPT, Llama (with Mistral and SmolLM, which share its
layout), Qwen2 and Qwen3, with any grouping of KV heads, tied or untied embeddings.
"""

from collections.abc import Mapping
from typing import Final

from partitiond.core.architecture import Architecture
from partitiond.core.errors import SpecError

_OPT_POSITION_OFFSET: Final = 2
"""OPT's learned positions start at 2 (transformers: OPTLearnedPositionalEmbedding)."""

FAMILIES: Final = ("opt", "llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` whose parameters can be counted."""


def architecture_from_config(config: Mapping[str, object]) -> Architecture:
    """The architecture a `config.json` describes, for 16-bit weights and KV cache.

    Raises:
        SpecError: the family is not known, a key is missing or has no sensible value, or the
            weights are quantised; the message names the key.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise SpecError(
            f"config key model_type is {family!r}, which is not supported.",
            hint=f"Supported are {', '.join(FAMILIES)}.",
            facts={"key": "model_type", "value": family},
        )
    if config.get("quantization_config"):
        raise SpecError(
            "config key quantization_config is set: quantised weights are not supported yet.",
            hint="Use the model's 16-bit weights.",
            facts={"key": "quantization_config"},
        )
    return _opt(config) if family == "opt" else _llama_like(str(family), config)


def _whole(config: Mapping[str, object], key: str, default: int | None = None) -> int:
    """A positive whole number; the default also stands in for null, as in transformers."""
    value = config.get(key)
    if value is None:
        value = default
    if value is None:
        raise SpecError(
            f"config key {key} is missing.",
            hint="Use the config.json that the model was published with.",
            facts={"key": key},
        )
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SpecError(
            f"config key {key} must be a positive whole number, got {value!r}.",
            hint="Use the config.json that the model was published with.",
            facts={"key": key, "value": value},
        )
    return value


def _flag(config: Mapping[str, object], key: str, default: bool) -> bool:
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise SpecError(
            f"config key {key} must be true or false, got {value!r}.",
            hint="Use the config.json that the model was published with.",
            facts={"key": key, "value": value},
        )
    return value


def _head_dim(config: Mapping[str, object], hidden: int, heads: int) -> int:
    if config.get("head_dim") is not None:
        return _whole(config, "head_dim")
    if hidden % heads:
        raise SpecError(
            f"config key hidden_size ({hidden}) is no multiple of num_attention_heads ({heads}).",
            hint="Give head_dim where they differ.",
            facts={"key": "hidden_size"},
        )
    return hidden // heads


def _kv_heads(config: Mapping[str, object], heads: int) -> int:
    kv_heads = _whole(config, "num_key_value_heads", heads)
    if heads % kv_heads:
        raise SpecError(
            f"config key num_key_value_heads ({kv_heads}) does not divide "
            f"num_attention_heads ({heads}).",
            hint="Use the config.json that the model was published with.",
            facts={"key": "num_key_value_heads"},
        )
    return kv_heads


def _opt(config: Mapping[str, object]) -> Architecture:
    """OPT: learned positions, biases everywhere, two-matrix MLP, tied embeddings."""
    hidden, layers = _whole(config, "hidden_size"), _whole(config, "num_hidden_layers")
    heads, inner = _whole(config, "num_attention_heads"), _whole(config, "ffn_dim")
    vocab, positions = _whole(config, "vocab_size"), _whole(config, "max_position_embeddings")
    embedded = _whole(config, "word_embed_proj_dim", hidden)
    bias = int(_flag(config, "enable_bias", True))

    attention = 4 * (hidden * hidden + bias * hidden)
    mlp = 2 * hidden * inner + bias * (inner + hidden)
    norms = 2 * 2 * hidden if _flag(config, "layer_norm_elementwise_affine", True) else 0
    final_norm = norms // 2 if _flag(config, "do_layer_norm_before", True) else 0
    projections = 2 * embedded * hidden if embedded != hidden else 0
    head = 0 if _flag(config, "tie_word_embeddings", True) else vocab * embedded
    embeddings = vocab * embedded + (positions + _OPT_POSITION_OFFSET) * hidden
    return Architecture(
        family="opt",
        parameters=embeddings
        + projections
        + layers * (attention + mlp + norms)
        + final_norm
        + head,
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=_head_dim(config, hidden, heads),
        intermediate_size=inner,
        vocab_size=vocab,
        max_position=positions,
    )


def _llama_like(family: str, config: Mapping[str, object]) -> Architecture:
    """Rotary positions, RMS norms, gated three-matrix MLP; biases and head norms by family."""
    hidden, layers = _whole(config, "hidden_size"), _whole(config, "num_hidden_layers")
    heads, inner = _whole(config, "num_attention_heads"), _whole(config, "intermediate_size")
    vocab, positions = _whole(config, "vocab_size"), _whole(config, "max_position_embeddings")
    kv_heads, head_dim = _kv_heads(config, heads), _head_dim(config, hidden, heads)

    queries, keys = heads * head_dim, kv_heads * head_dim
    matrices = hidden * (queries + 2 * keys) + queries * hidden
    mlp = 3 * hidden * inner
    if family == "llama" and _flag(config, "mlp_bias", False):
        mlp += 2 * inner + hidden
    head_norms = 2 * head_dim if family == "qwen3" else 0
    per_layer = (
        matrices + _attention_biases(family, config, hidden, queries, keys) + mlp + head_norms
    )
    head = 0 if _flag(config, "tie_word_embeddings", False) else vocab * hidden
    return Architecture(
        family=family,
        parameters=vocab * hidden + layers * (per_layer + 2 * hidden) + hidden + head,
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=inner,
        vocab_size=vocab,
        max_position=positions,
    )


def _attention_biases(
    family: str, config: Mapping[str, object], hidden: int, queries: int, keys: int
) -> int:
    """Qwen2 always has them on queries, keys and values; Llama and Qwen3 on all four if asked."""
    if family == "qwen2":
        return queries + 2 * keys
    if family in {"llama", "qwen3"} and _flag(config, "attention_bias", False):
        return queries + 2 * keys + hidden
    return 0
