"""The numbers of a decoder give the right sizes in bytes."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.model.architecture import Architecture

PLAIN = Architecture(
    family="llama",
    parameters=1000,
    hidden_size=8,
    layers=10,
    heads=4,
    kv_heads=2,
    head_dim=16,
    intermediate_size=32,
    vocab_size=100,
    max_position=1000,
)


def with_(**changes: object) -> Architecture:
    return dataclasses.replace(PLAIN, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "attention"),
    [
        ({}, "GQA"),
        ({"kv_heads": 4}, "MHA"),
        ({"kv_heads": 1}, "MQA"),
        ({"latent_values_per_token": 5}, "MLA"),
        ({"window_layers": 10, "window_tokens": 9}, "GQA, sliding window"),
        ({"window_layers": 5, "window_tokens": 9}, "GQA, alternating window"),
        ({"stateless_layers": 5, "state_values_per_sequence": 9}, "GQA, hybrid"),
    ],
)
def test_the_kind_of_attention(changes: dict[str, object], attention: str) -> None:
    assert with_(**changes).attention == attention


@given(
    context=st.integers(0, 5000),
    window=st.integers(1, 2000),
    sliding=st.integers(0, 10),
    state=st.integers(0, 1000),
)
def test_kv_of_a_sequence_never_shrinks_and_never_exceeds_all_of_it(
    context: int, window: int, sliding: int, state: int
) -> None:
    architecture = with_(
        window_tokens=window, window_layers=sliding, state_values_per_sequence=state
    )
    held = architecture.kv_bytes(context)
    assert held <= architecture.kv_bytes(context + 1)
    assert held - architecture.state_bytes_per_sequence <= PLAIN.kv_bytes(context)
    assert PLAIN.kv_bytes(context) == context * PLAIN.kv_bytes_per_token
