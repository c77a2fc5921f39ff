"""A tiny model keeps what is special about its family."""

import pytest

from partitiond.core.model.families import FAMILIES, architecture_from_config
from partitiond.models.catalog import CATALOG, QUANTISED, CatalogEntry
from partitiond.models.shrink import shrunk
from partitiond.models.start_results import start_key, tiny_configs

EVERY = [*CATALOG.values(), *QUANTISED.values()]


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry.name)
def test_kind_of_attention_and_width_of_heads_stay_and_the_size_goes(entry: CatalogEntry) -> None:
    tiny, full = architecture_from_config(shrunk(entry.config)), entry.architecture
    assert tiny.attention == full.attention
    assert tiny.head_dim == full.head_dim
    assert tiny.latent_values_per_token == full.latent_values_per_token
    assert bool(tiny.expert_parameters) == bool(full.expert_parameters)
    assert bool(tiny.quantised_parameters) == bool(full.quantised_parameters)
    assert tiny.parameters < 50e6
    assert tiny.layers <= 6


@pytest.mark.parametrize("entry", EVERY, ids=lambda entry: entry.name)
def test_special_tokens_lie_inside_the_small_vocabulary(entry: CatalogEntry) -> None:
    config = shrunk(entry.config)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = config.get(key)
        for identifier in value if isinstance(value, list) else [value]:
            assert identifier is None or identifier < config["vocab_size"]


def test_every_family_has_a_tiny_model() -> None:
    assert {architecture_from_config(c).family for c in tiny_configs().values()} == set(FAMILIES)


def test_a_key_names_family_attention_and_form() -> None:
    architecture = CATALOG["gemma-2-2b"].architecture
    assert start_key(architecture) == "gemma2 / GQA, alternating window"
    assert start_key(architecture, "fp8") == "gemma2 / GQA, alternating window / fp8"
