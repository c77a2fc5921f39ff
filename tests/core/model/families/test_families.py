"""Parameter counts equal the published ones, and errors name the key that is to blame.

Counts are exact unless a test says otherwise. Each comes from a public source: the hub's API names
the parameters of a checkpoint (`safetensors.total`), model cards and papers name the others.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.model.families import FAMILIES, architecture_from_config
from partitiond.core.model.families.unlisted import STORED_BYTES
from partitiond.models.folder import read_config
from tests.core.model.families.configs import PUBLIC, RECENT, ROWS, config_of

KV_BYTES_PER_TOKEN = {
    # name: (bytes in 16 bits, attention, source)
    "deepseek-v3": (70_272, "MLA", "DeepSeek-AI 2025, Insights into DeepSeek-V3, table 1"),
    "qwen2.5-72b": (327_680, "GQA", "the same table: 327.680 KB"),
    "llama-3.1-405b": (516_096, "GQA", "the same table: 516.096 KB"),
    "opt-13b": (800 * 1024, "MHA", "Kwon et al. 2023 (PagedAttention), section 3: 800 KB"),
    "falcon-7b": (2 * 32 * 64 * 2, "MQA", "one head of 64 keys and values in each of 32 layers"),
}


@pytest.mark.parametrize("name", [*ROWS, *RECENT])
def test_parameters_are_the_published_ones_or_a_family_is_refused_in_words(name: str) -> None:
    row = (ROWS | RECENT)[name]
    if "refused" in row:
        with pytest.raises(SpecError, match=f"{row['refused']}.*is not counted") as caught:
            architecture_from_config(row["config"])
        assert "planned from a profile" in caught.value.hint
        return
    found = architecture_from_config(row["config"]).parameters
    assert found == row.get("parameters", found)


@pytest.mark.parametrize("name", KV_BYTES_PER_TOKEN)
def test_kv_bytes_per_token_are_the_published_ones(name: str) -> None:
    found = architecture_from_config(PUBLIC[name])
    assert (found.kv_bytes_per_token, found.attention) == KV_BYTES_PER_TOKEN[name][:2]


def test_of_a_mixture_some_billions_are_active() -> None:
    # DeepSeek-AI 2024, abstract. The 37 leave out the input embedding (0.93).
    deepseek = architecture_from_config(PUBLIC["deepseek-v3"])
    active = deepseek.parameters_per_token - 129280 * 7168
    assert [round(count / 1e9) for count in (deepseek.parameters, active)] == [671, 37]
    # Jiang et al. 2024, section 1: 47B, 13B active.
    mixtral = architecture_from_config(PUBLIC["mixtral-8x7b"])
    assert mixtral.parameters_per_token == 12_879_925_248
    assert (mixtral.experts, mixtral.experts_per_token) == (8, 2)
    shared = mixtral.parameters - mixtral.expert_parameters
    assert mixtral.parameters_per_token == shared + mixtral.expert_parameters * 2 // 8


def test_state_space_layers_keep_a_state_and_no_kv() -> None:
    config = config_of("granitemoehybrid", 256, 512, 4, 4, 2, 2048)
    mamba = {"mamba_n_heads": 8, "mamba_d_state": 64, "mamba_d_conv": 4, "mamba_expand": 2}
    types = ["mamba", "mamba", "mamba", "attention"]
    hybrid = architecture_from_config(
        {**config, **mamba, "num_local_experts": 0, "layer_types": types}
    )
    assert hybrid.stateless_layers == 3
    assert hybrid.kv_bytes_per_token == 1 * 2 * 2 * 64 * 2
    # Per layer (512 + 2 x 64) x 3 inputs of the convolution and 512 x 64 of the state, which fit
    # into nine blocks of 16 tokens x 256 values; the layer that attends has such a page, too.
    assert 8 * 16 * 256 < 640 * 3 + 512 * 64 <= 9 * 16 * 256
    assert hybrid.state_bytes_per_sequence == 4 * (9 * 16 * 256) * 2
    assert hybrid.kv_bytes(10) == hybrid.kv_bytes_per_token * 10 + hybrid.state_bytes_per_sequence
    assert hybrid.attention == "GQA, hybrid"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_names_the_key_it_misses(family: str) -> None:
    with pytest.raises(SpecError, match="config key") as caught:
        architecture_from_config({"model_type": family})
    assert caught.value.hint


@pytest.mark.parametrize("family", ["mamba", "t5", "deepseek_v4", "", None, 7])
def test_an_unknown_family_is_refused_and_the_known_ones_are_named(family: object) -> None:
    with pytest.raises(SpecError, match="model_type") as caught:
        architecture_from_config({**PUBLIC["llama-2-7b"], "model_type": family})
    assert "qwen3" in caught.value.hint


def without(config: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != key}


LLAMA, OPT = PUBLIC["llama-2-7b"], PUBLIC["opt-350m"]
MIXTRAL, DEEPSEEK = PUBLIC["mixtral-8x7b"], PUBLIC["deepseek-v3"]


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({}, "model_type"),
        (without(LLAMA, "hidden_size"), "hidden_size"),
        (without(OPT, "ffn_dim"), "ffn_dim"),
        ({**LLAMA, "num_hidden_layers": 0}, "num_hidden_layers"),
        ({**LLAMA, "num_hidden_layers": 10**8}, "num_hidden_layers"),
        ({**LLAMA, "hidden_size": 10**30}, "hidden_size"),
        ({**LLAMA, "vocab_size": "32000"}, "vocab_size"),
        ({**LLAMA, "vocab_size": True}, "vocab_size"),
        ({**LLAMA, "hidden_size": 4095}, "hidden_size"),
        ({**LLAMA, "model_type": "bert", "position_embedding_type": "alibi"}, "position_embedding"),
        ({**LLAMA, "num_key_value_heads": 5}, "num_key_value_heads"),
        ({**LLAMA, "tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({**LLAMA, "quantization_config": {"bits": 4}}, "quantization_config"),
        ({**LLAMA, "text_config": 7}, "text_config"),
        ({**LLAMA, "layer_types": ["full_attention"], "sliding_window": 9}, "layer_types"),
        ({**PUBLIC["mistral-7b-v0.1"], "sliding_window": -1}, "sliding_window"),
        (without(MIXTRAL, "num_local_experts"), "num_local_experts"),
        ({**MIXTRAL, "num_experts_per_tok": 9}, "num_experts_per_tok"),
        (without(DEEPSEEK, "kv_lora_rank"), "kv_lora_rank"),
        (without(DEEPSEEK, "v_head_dim"), "v_head_dim"),
        ({**DEEPSEEK, "n_routed_experts": -1}, "n_routed_experts"),
    ],
)
def test_a_config_that_cannot_be_counted_names_the_key(config: dict[str, Any], key: str) -> None:
    with pytest.raises(SpecError, match=key) as caught:
        architecture_from_config(config)
    assert caught.value.hint


def test_experts_are_counted_by_the_name_that_transformers_5_saves() -> None:
    config = PUBLIC["qwen3-30b-a3b"]
    saved = {**without(config, "num_experts"), "num_local_experts": config["num_experts"]}
    assert architecture_from_config(saved) == architecture_from_config(config)


def test_a_family_that_is_not_counted_is_bounded_by_its_files(tmp_path: Path) -> None:
    config = {**PUBLIC["llama-2-7b"], "model_type": "llama-but-new", "torch_dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SpecError, match="not counted"):
        architecture_from_config(read_config(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    assert architecture_from_config(read_config(tmp_path)).weights_bytes == 8
    index = {"metadata": {"total_size": 14_000_000_000}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = architecture_from_config(read_config(tmp_path))
    counted = architecture_from_config(PUBLIC["llama-2-7b"])
    assert found.weights_bytes == 14_000_000_000
    assert found.kv_bytes_per_token == counted.kv_bytes_per_token
    assert "Measure a profile" in found.note
    for key in ("num_attention_heads", "model_type"):  # the first: no attention bounds its state
        (tmp_path / "config.json").write_text(json.dumps(without(config, key)))
        with pytest.raises(SpecError, match="config key model_type is"):
            architecture_from_config(read_config(tmp_path))


def test_a_bound_needs_few_keys_and_takes_the_largest_of_a_list() -> None:
    renamed = {
        "num_layers": 28, "num_attention_heads": 32, "hidden_size": 4096, "seq_length": 8192,
        "ffn_hidden_size": 13696, "padded_vocab_size": 65024,
    }  # fmt: skip
    found = architecture_from_config({"model_type": "chatglm", STORED_BYTES: 10**10, **renamed})
    assert (found.layers, found.max_position, found.vocab_size) == (28, 8192, 65024)
    assert found.intermediate_size == 13696
    bare = {key: renamed[key] for key in ("num_layers", "num_attention_heads", "hidden_size")}
    bare["intermediate_size"] = [8192, 16384]  # type: ignore[assignment]
    found = architecture_from_config({"model_type": "new", STORED_BYTES: 10**10, **bare})
    assert found.intermediate_size == 16384
    assert found.max_position >= 131_072


@pytest.mark.parametrize(
    ("names", "modules", "pools"),
    [
        (["LlamaForCausalLM"], [], False),
        (["LlamaModel"], [], True),
        (["GPT2LMHeadModel"], [], False),
        (["Qwen3ForSequenceClassification"], [], True),
        (["Qwen2ForRewardModeling"], [], True),
        (["Qwen3ForCausalLM"], ["sentence_transformers.models.Pooling"], True),
        (["Qwen3ForCausalLM"], ["sentence_transformers.models.Normalize"], False),
        ([], [], False),
    ],
)
def test_who_pools_is_told_as_vllm_tells_it(
    names: list[str], modules: list[str], pools: bool, tmp_path: Path
) -> None:
    config = {**PUBLIC["llama-2-7b"], "architectures": names}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modules.json").write_text(json.dumps([{"type": kind} for kind in modules]))
    assert architecture_from_config(read_config(tmp_path)).pools is pools
