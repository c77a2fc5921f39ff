"""Hybrids of families that are not counted keep at least the state and pages of the engine."""

from typing import Any

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.model.families import architecture_from_config
from partitiond.core.model.families.state import State, paged
from partitiond.core.model.families.unlisted import STORED_BYTES

PLAIN = {
    "hidden_size": 4480, "num_hidden_layers": 56, "num_attention_heads": 40, "head_dim": 128,
    "num_key_value_heads": 8, "vocab_size": 131072, "max_position_embeddings": 131072,
    STORED_BYTES: 17_000_000_000,
}  # fmt: skip
NEMOTRON = {
    **PLAIN, "model_type": "nemotron_h", "mamba_num_heads": 128, "mamba_head_dim": 80,
    "ssm_state_size": 128, "n_groups": 8, "conv_kernel": 4, "mamba_ssm_cache_dtype": "float32",
    "hybrid_override_pattern": "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
}  # fmt: skip
JAMBA = {
    **PLAIN, "model_type": "jamba", "hidden_size": 4096, "num_attention_heads": 32,
    "num_hidden_layers": 32, "mamba_expand": 2, "mamba_d_state": 16, "mamba_d_conv": 4,
    "attn_layer_period": 8, "attn_layer_offset": 4,
}  # fmt: skip
DELTA = {
    **PLAIN, "model_type": "qwen3_next", "num_hidden_layers": 48, "hidden_size": 2048,
    "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
    "full_attention_interval": 4, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
    "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_value_head_dim": 128,
}  # fmt: skip
KIMI = {
    **PLAIN, "model_type": "kimi_linear", "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_attn_config": {"num_heads": 32, "head_dim": 128, "short_conv_kernel_size": 4},
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "layer_bytes", "layers", "attending"),
    [
        (NEMOTRON, 128 * 80 * 128 * 4 + (128 * 80 + 2 * 8 * 128) * 3 * 2, 27, 4),
        ({**NEMOTRON, "mamba_ssm_cache_dtype": "bfloat16"},
         128 * 80 * 128 * 2 + (128 * 80 + 2 * 8 * 128) * 3 * 2, 27, 4),
        (JAMBA, 8192 * 16 * 4 + 8192 * 3 * 2, 28, 4),
        (DELTA, 32 * 128 * 128 * 4 + (2 * 16 * 128 + 32 * 128) * 3 * 2, 36, 12),
        (KIMI, 32 * 128 * 128 * 4 + 3 * 32 * 128 * 3 * 2, 3, 1),
    ],
)  # fmt: skip
def test_a_sequence_takes_the_state_of_each_layer_and_whole_pages(
    config: dict[str, Any], layer_bytes: int, layers: int, attending: int
) -> None:
    """The bytes are those of the engine's shapes for these published values."""
    found = architecture_from_config(config)
    assert found.layers - found.stateless_layers == attending
    pages = layer_bytes * (layers + attending)
    # A group may be padded by a few layers, and a page by less than a block of 16 tokens.
    assert pages <= found.state_bytes_per_sequence <= 1.5 * pages


def test_pages_are_whole_blocks_of_tokens_in_groups_of_equally_many_layers() -> None:
    # 27 layers in groups of 4 are 7, and the four that attend are one more: 32 pages.
    assert paged(State(1000, 27, 4), kv_values=10) == 32 * 1120
    assert paged(State(1120, 27, 4), kv_values=10) == 32 * 1120
    assert paged(State(1000, 10, 9), kv_values=10) == (10 + 10) * 1120
    assert paged(State(1000, 9, 10), kv_values=10) == (10 + 10) * 1120
    assert paged(State(1000, 3, 0), kv_values=10) == 3 * 1000


def test_layers_are_known_by_any_list_and_without_one_all_keep_both() -> None:
    bare = {key: value for key, value in DELTA.items() if key != "full_attention_interval"}
    unknown = architecture_from_config(bare)
    assert unknown.stateless_layers == 0
    listed = ["full_attention" if i % 4 == 3 else "linear_attention" for i in range(48)]
    by_list = architecture_from_config({**bare, "layer_types": listed})
    by_blocks = architecture_from_config({**bare, "layers_block_type": listed})
    assert by_list == by_blocks == architecture_from_config(DELTA)
    assert unknown.state_bytes_per_sequence > by_list.state_bytes_per_sequence
    of_bamba = {**NEMOTRON, "hybrid_override_pattern": None, "attn_layer_indices": [9, 18, 27]}
    assert architecture_from_config(of_bamba).stateless_layers == 53
    both = architecture_from_config({**bare, "layers_block_type": ["hybrid"] * 48})
    assert both.stateless_layers == 0


@pytest.mark.parametrize(
    "more",
    [{"rwkv_size": 64}, {"layer_types": ["recurrent", "attention"] * 28}, {"mamba_expand": 2}],
)
def test_a_state_of_unknown_size_is_refused_in_words(more: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="keeps a state of each sequence"):
        architecture_from_config({**PLAIN, "model_type": "new", **more})


def test_a_decoder_without_such_keys_keeps_no_state() -> None:
    found = architecture_from_config({**PLAIN, "model_type": "new", "mamba_expand": None})
    assert (found.state_bytes_per_sequence, found.stateless_layers) == (0, 0)
