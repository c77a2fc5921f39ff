"""Our counts equal what the engine allocated for each tiny model."""

import pytest

from partitiond.core.model.architecture import Architecture
from partitiond.core.model.families import FAMILIES, architecture_from_config
from partitiond.engines.install.install import VERSION
from partitiond.models import start_results as results
from partitiond.models.catalog import CATALOG, QUANTISED
from partitiond.models.shrink import shrunk

STARTS = results.load_starts()
TINY = results.tiny_configs()


def test_every_architecture_and_catalog_model_was_tried_on_the_pinned_engine() -> None:
    assert STARTS.engine_version == VERSION
    assert set(STARTS.architectures) == set(TINY)
    for entry in (*CATALOG.values(), *QUANTISED.values()):
        start = STARTS.of(entry)
        assert start is not None, entry.name
        assert start.started or start.reason
    assert results.starts_from_json(results.starts_to_json(STARTS)) == STARTS


TOLERANCE = {
    # vLLM's Transformers backend leaves the bias of the output matrix out.
    "phi / MHA": 2e-3,
}
"""Else a few values in 32 bits: scales of the KV cache, the decay of Mamba's heads."""


def test_counts_are_the_engine_s() -> None:
    for key, start in STARTS.architectures.items():
        if not start.started:
            continue
        counted = architecture_from_config(TINY[key])
        assert counted.kv_bytes_per_token == start.kv_bytes_per_token, key
        assert counted.window_layers == start.window_layers, key
        is_hybrid = key.startswith("falcon_h1")
        own_state = counted.layers if is_hybrid else counted.stateless_layers
        assert own_state == start.state_layers, key
        if start.state_layers:
            # The CPU build keeps Mamba's recurrent state in 32 bits, GPUs in 16
            # (vllm/platforms/cpu.py).
            state = counted.state_bytes_per_sequence
            assert state <= start.state_bytes_per_sequence <= 2 * state, key
        weights = pytest.approx(counted.weights_bytes, rel=TOLERANCE.get(key, 5e-5))
        assert start.weights_bytes == weights, key


def test_kind_of_attention_and_width_of_heads_stay_and_the_size_goes() -> None:
    """Special tokens lie inside the small vocabulary."""
    for entry in (*CATALOG.values(), *QUANTISED.values()):
        config = shrunk(entry.config)
        tiny, full = architecture_from_config(config), entry.architecture
        assert [kept(tiny), entry.name] == [kept(full), entry.name]
        assert tiny.parameters < 50e6
        assert tiny.layers <= 6
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = config.get(key)
            for identifier in value if isinstance(value, list) else [value]:
                assert identifier is None or identifier < config["vocab_size"], entry.name


def kept(model: Architecture) -> tuple[object, ...]:
    special = (model.expert_parameters, model.quantised_parameters)
    return model.attention, model.head_dim, model.latent_values_per_token, *map(bool, special)


def test_every_family_has_a_tiny_model_under_a_key_of_its_own() -> None:
    assert {architecture_from_config(c).family for c in TINY.values()} == set(FAMILIES)
    architecture = CATALOG["gemma-2-2b"].architecture
    assert results.start_key(architecture) == "gemma2 / GQA, alternating window"
    assert results.start_key(architecture, "fp8") == "gemma2 / GQA, alternating window / fp8"
