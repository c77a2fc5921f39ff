"""Parameter counts are exact, and a config that cannot be counted says which key is to blame."""

from typing import Any

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.families import architecture_from_config
from partitiond.models.catalog import CATALOG

# As the models' safetensors headers and model cards give them.
PUBLISHED_PARAMETERS = {
    "opt-125m": 125_239_296,
    "opt-1.3b": 1_315_758_080,
    "opt-2.7b": 2_651_596_800,
    "opt-6.7b": 6_658_473_984,
    "opt-13b": 12_853_473_280,
    "smollm2-135m": 134_515_008,
    "qwen2.5-0.5b": 494_032_768,
    "llama-3.2-1b": 1_235_814_400,
}

MISTRAL_7B: dict[str, Any] = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
QWEN3_06B: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
    "attention_bias": False,
}
OPT_350M: dict[str, Any] = {
    "model_type": "opt",
    "hidden_size": 1024,
    "ffn_dim": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "vocab_size": 50272,
    "max_position_embeddings": 2048,
    "word_embed_proj_dim": 512,
    "do_layer_norm_before": False,
}
LLAMA2_7B: dict[str, Any] = {  # no grouped heads: num_key_value_heads may be left out
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}


def test_every_catalog_model_has_a_published_count() -> None:
    assert set(PUBLISHED_PARAMETERS) == set(CATALOG)


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_parameters_of_catalog_models_are_the_published_ones(name: str) -> None:
    assert CATALOG[name].architecture.parameters == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        pytest.param(MISTRAL_7B, 7_241_732_096, id="mistral-7b"),
        pytest.param(QWEN3_06B, 596_049_920, id="qwen3-0.6b"),
        pytest.param(OPT_350M, 331_196_416, id="opt-350m"),
        pytest.param(LLAMA2_7B, 6_738_415_616, id="llama-2-7b"),
    ],
)
def test_parameters_of_other_families(config: dict[str, Any], parameters: int) -> None:
    assert architecture_from_config(config).parameters == parameters


def test_multi_query_attention_keeps_one_head_of_keys_and_values() -> None:
    architecture = architecture_from_config({**LLAMA2_7B, "num_key_value_heads": 1})
    assert architecture.kv_heads == 1
    assert architecture.kv_bytes_per_token == 2 * 32 * 1 * 128 * 2


def test_opt_13b_needs_800_kib_of_kv_cache_per_token() -> None:
    assert CATALOG["opt-13b"].architecture.kv_bytes_per_token == 2 * 2 * 5120 * 40


def test_tying_embeddings_removes_exactly_the_output_matrix() -> None:
    untied = architecture_from_config(MISTRAL_7B)
    tied = architecture_from_config({**MISTRAL_7B, "tie_word_embeddings": True})
    assert untied.parameters - tied.parameters == 32000 * 4096


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({}, "model_type"),
        ({**LLAMA2_7B, "model_type": "mamba"}, "model_type"),
        ({k: v for k, v in LLAMA2_7B.items() if k != "hidden_size"}, "hidden_size"),
        ({k: v for k, v in OPT_350M.items() if k != "ffn_dim"}, "ffn_dim"),
        ({**LLAMA2_7B, "num_hidden_layers": 0}, "num_hidden_layers"),
        ({**LLAMA2_7B, "vocab_size": "32000"}, "vocab_size"),
        ({**LLAMA2_7B, "vocab_size": True}, "vocab_size"),
        ({**LLAMA2_7B, "hidden_size": 4095}, "hidden_size"),
        ({**LLAMA2_7B, "num_key_value_heads": 5}, "num_key_value_heads"),
        ({**LLAMA2_7B, "tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({**LLAMA2_7B, "quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_a_config_that_cannot_be_counted_names_the_key(config: dict[str, Any], key: str) -> None:
    with pytest.raises(SpecError, match=key) as caught:
        architecture_from_config(config)
    assert caught.value.hint
