"""Our counts equal what the engine allocated for each tiny model."""

import pytest

from partitiond.core.model.families import architecture_from_config
from partitiond.engines.install.install import VERSION
from partitiond.models.catalog import CATALOG, QUANTISED
from partitiond.models.start_results import (
    Start,
    load_starts,
    starts_from_json,
    starts_to_json,
    tiny_configs,
)

STARTS = load_starts()
TINY = tiny_configs()
CAME_UP = [key for key, start in STARTS.architectures.items() if start.started]


def start_of(key: str) -> Start:
    return STARTS.architectures[key]


def test_every_architecture_was_tried_on_the_pinned_engine() -> None:
    assert STARTS.engine_version == VERSION
    assert set(STARTS.architectures) == set(TINY)


def test_every_catalog_model_has_an_answer() -> None:
    for entry in (*CATALOG.values(), *QUANTISED.values()):
        start = STARTS.of(entry)
        assert start is not None, entry.name
        assert start.started or start.reason


@pytest.mark.parametrize("key", CAME_UP)
def test_kv_bytes_per_token_are_the_engine_s(key: str) -> None:
    architecture = architecture_from_config(TINY[key])
    assert architecture.kv_bytes_per_token == start_of(key).kv_bytes_per_token


@pytest.mark.parametrize("key", CAME_UP)
def test_layers_that_slide_or_keep_a_state_are_the_engine_s(key: str) -> None:
    architecture, start = architecture_from_config(TINY[key]), start_of(key)
    assert architecture.window_layers == start.window_layers
    own_state = (
        architecture.layers if key.startswith("falcon_h1") else architecture.stateless_layers
    )
    assert own_state == start.state_layers


@pytest.mark.parametrize("key", [key for key in CAME_UP if start_of(key).state_layers])
def test_state_is_the_engine_s_which_may_keep_it_in_32_bits(key: str) -> None:
    # The CPU build keeps Mamba's recurrent state in 32 bits, GPUs in 16 (vllm/platforms/cpu.py).
    counted = architecture_from_config(TINY[key]).state_bytes_per_sequence
    assert counted <= start_of(key).state_bytes_per_sequence <= 2 * counted


@pytest.mark.parametrize("key", CAME_UP)
def test_weights_are_the_engine_s(key: str) -> None:
    counted = architecture_from_config(TINY[key]).weights_bytes
    assert start_of(key).weights_bytes == pytest.approx(counted, rel=TOLERANCE.get(key, 5e-5))


TOLERANCE = {
    # vLLM's Transformers backend leaves the bias of the output matrix out.
    "phi / MHA": 2e-3,
}
"""Else a few values in 32 bits: scales of the KV cache, the decay of Mamba's heads."""


def test_reading_gives_what_was_written() -> None:
    assert starts_from_json(starts_to_json(STARTS)) == STARTS
