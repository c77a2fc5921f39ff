"""Layers with sliding windows forget tokens, and the saving is counted."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.model.architecture import Architecture
from partitiond.core.model.families import architecture_from_config
from tests.core.model.families.configs import PUBLIC, config_of


def small(family: str, layers: int = 12, **more: Any) -> Architecture:
    return architecture_from_config(
        config_of(family, 256, 512, layers, 4, 2, 1000, head_dim=64, **more)
    )


def test_mistral_slides_in_every_layer() -> None:
    mistral = architecture_from_config(PUBLIC["mistral-7b-v0.1"])
    assert (mistral.window_tokens, mistral.window_layers) == (4096, 32)
    assert mistral.attention == "GQA, sliding window"
    assert mistral.kv_bytes(32768) == mistral.kv_bytes(4096) == 4096 * 131072


@pytest.mark.parametrize(
    ("family", "more", "sliding"),
    [
        ("gemma2", {"sliding_window": 64}, 6),
        ("gemma3_text", {"sliding_window": 64}, 10),
        ("gemma3_text", {"sliding_window": 64, "sliding_window_pattern": 3}, 8),
        ("gemma3_text", {"sliding_window": None}, 0),
        ("cohere2", {"sliding_window": 64}, 9),
        ("exaone4", {"sliding_window": 64, "sliding_window_pattern": "LLLG"}, 9),
        ("exaone4", {"sliding_window": None, "sliding_window_pattern": None}, 0),
        ("qwen2", {"sliding_window": 64, "max_window_layers": 8}, 0),
        ("qwen2", {"sliding_window": 64, "max_window_layers": 8, "use_sliding_window": True}, 4),
        ("qwen3", {"sliding_window": 64, "max_window_layers": 12, "use_sliding_window": True}, 0),
        ("phi3", {"sliding_window": 64}, 12),
        ("phi3", {"sliding_window": 0}, 0),
        ("starcoder2", {"sliding_window": 64}, 12),
        ("llama", {"sliding_window": 64}, 0),
        ("smollm3", {"sliding_window": 64}, 0),
        ("smollm3", {"sliding_window": 64, "use_sliding_window": True}, 3),
        ("olmo3", {"sliding_window": 64, "layer_types": ["sliding_attention"] * 12}, 12),
        ("gemma2", {"sliding_window": 64, "layer_types": ["full_attention"] * 12}, 0),
    ],
)
def test_layers_that_slide(family: str, more: dict[str, Any], sliding: int) -> None:
    assert small(family, **more).window_layers == sliding


def test_a_window_is_shorter_than_the_context_or_that_of_the_class() -> None:
    # Phi-3.5 mini names a window of 262144 tokens for a context of 131072.
    assert small("phi3", sliding_window=4096).window_layers == 0
    assert small("phi3", sliding_window=4095).window_layers == 12
    assert small("gemma2", max_position_embeddings=8192).window_tokens == 4096


@given(
    layers=st.integers(1, 40),
    interval=st.integers(2, 8),
    window=st.integers(1, 4000),
    context=st.integers(0, 10_000),
)
def test_kv_of_a_pattern_is_the_sum_over_its_layers(
    layers: int, interval: int, window: int, context: int
) -> None:
    architecture = small(
        "gemma3_text", layers, sliding_window=window, sliding_window_pattern=interval
    )
    kept = sum(
        context if (layer + 1) % interval == 0 else min(context, window) for layer in range(layers)
    )
    assert architecture.kv_bytes(context) == kept * 2 * 2 * 64 * 2


@pytest.mark.parametrize(
    ("more", "positions"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 8.0}}, 16384),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 4096),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, 8192),
        ({"rope_scaling": {"rope_type": "linear", "factor": None}}, 2048),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 2048),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 2048),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, 2048),
        ({"rope_scaling": None}, 2048),
    ],
)
def test_positions_are_scaled_by_the_kinds_of_scaling_that_name_the_unscaled_length(
    more: dict[str, Any], positions: int
) -> None:
    config = config_of("llama", 512, 1024, 3, 8, 2, 1000, max_position_embeddings=2048, **more)
    assert architecture_from_config(config).max_position == positions
    wrapped = {"model_type": "llava", "text_config": config}
    assert architecture_from_config(wrapped).max_position == positions
