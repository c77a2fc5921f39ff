"""Makes a tiny model of the same architecture: a family's special features stay, its size shrinks.

The config keeps the kind of attention, the width of a head (engines support only some), the pattern
of layers, rotary settings, biases and norms. Layers, widths, experts and the vocabulary shrink, so
that an engine starts the model in seconds.
"""

from collections.abc import Mapping
from typing import Any, Final

from partitiond.core.model.architecture import Architecture
from partitiond.core.model.families import architecture_from_config

_LAYERS: Final = 4
_PATTERN_LAYERS: Final = 6
"""Gemma 3's pattern repeats after six layers."""
_GROUP: Final = 4
"""Largest number of query heads that share a head of keys."""
_WIDTH: Final = 512
"""Width of an MLP: a multiple of the groups of 128 that quantised weights come in."""
_HIDDEN: Final = 256
_VOCAB: Final = 2048
_EXPERTS: Final = 8
_MAMBA_HEADS: Final = 8

_LAYER_KEYS: Final = ("num_hidden_layers", "n_layer", "num_layers")
_HEAD_KEYS: Final = ("num_attention_heads", "n_head", "num_heads")
_HIDDEN_KEYS: Final = (
    "hidden_size",
    "n_embd",
    "n_embed",
    "word_embed_proj_dim",
    "block_dim",
    "conv_dim",
    "conv_dim_out",
)
_WIDTH_KEYS: Final = (
    "intermediate_size",
    "ffn_dim",
    "n_inner",
    "block_ff_dim",
    "shared_intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
)
_EXPERT_KEYS: Final = ("num_experts", "num_local_experts", "n_routed_experts")
_PER_LAYER_KEYS: Final = ("layer_types", "no_rope_layers")


def shrunk(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a tiny model of the same architecture. Raises SpecError as counting
    does.
    """
    architecture = architecture_from_config(config)
    small = dict(config)
    layers = min(architecture.layers, _layers(config))
    heads, kv_heads = _heads(architecture)
    free = config.get("head_dim") is not None or architecture.latent_values_per_token
    hidden = _HIDDEN if free else heads * architecture.head_dim
    _put(small, _LAYER_KEYS, layers)
    _put(small, _HEAD_KEYS, heads)
    _put(small, ("num_key_value_heads", "num_kv_heads"), kv_heads)
    _put(small, _HIDDEN_KEYS, hidden)
    _put(small, _WIDTH_KEYS, _WIDTH)
    for key in _PER_LAYER_KEYS:
        if isinstance(small.get(key), list):
            small[key] = small[key][:layers]
    if isinstance(small.get("full_attn_idxs"), list):
        small["full_attn_idxs"] = [i for i in small["full_attn_idxs"] if i < layers]
    _shrink_experts(small)
    _shrink_mamba(small, hidden)
    _shrink_vocabulary(small)
    return small


def _layers(config: Mapping[str, Any]) -> int:
    return _PATTERN_LAYERS if config.get("model_type") == "gemma3_text" else _LAYERS


def _heads(architecture: Architecture) -> tuple[int, int]:
    """Query and KV heads, grouped in the same way as the model's."""
    if architecture.kv_heads == architecture.heads:
        return 2, 2
    group = min(_GROUP, architecture.heads // architecture.kv_heads)
    kv_heads = min(2, architecture.kv_heads)
    return group * kv_heads, kv_heads


def _put(config: dict[str, Any], keys: tuple[str, ...], value: int) -> None:
    """Set the keys that the config has; null and 0 have a meaning and stay."""
    for key in keys:
        if config.get(key):
            config[key] = value


def _shrink_experts(config: dict[str, Any]) -> None:
    if any(config.get(key) for key in _EXPERT_KEYS):
        _put(config, _EXPERT_KEYS, _EXPERTS)
        _put(config, ("num_experts_per_tok",), 2)


def _shrink_mamba(config: dict[str, Any], hidden: int) -> None:
    if config.get("mamba_n_heads"):
        inner = config.get("mamba_expand", 2) * hidden
        if config.get("mamba_d_ssm"):
            config["mamba_d_ssm"] = inner
        config["mamba_n_heads"] = _MAMBA_HEADS
        config["mamba_d_head"] = inner // _MAMBA_HEADS


def _shrink_vocabulary(config: dict[str, Any]) -> None:
    """Reduce the tokens; the special ones stay among them."""
    config["vocab_size"] = _VOCAB
    for key, identifier in (("pad", 0), ("bos", 1), ("eos", 2)):
        name = f"{key}_token_id"
        if config.get(name) is not None:
            several = isinstance(config[name], list) and len(config[name]) > 1
            config[name] = [identifier, identifier + 1] if several else identifier
