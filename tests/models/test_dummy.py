"""The made-up tokenizer covers the vocabulary, and every byte of a prompt."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import ModelSourceError
from partitiond.models import dummy
from partitiond.models.catalog import CATALOG

# One model of each vocabulary and set of special tokens.
DIFFERENT = tuple(
    {
        (entry.config["vocab_size"], str(dummy.special_tokens(entry.config))): name
        for name, entry in CATALOG.items()
    }.values()
)


def test_ids_are_exactly_those_below_the_vocabulary_size_and_special_ones_among_them() -> None:
    for name in DIFFERENT:
        config = CATALOG[name].config
        vocab = dummy.tokenizer_json(config)["model"]["vocab"]
        assert sorted(vocab.values()) == list(range(config["vocab_size"])), name
        named = {k: v for k, v in dummy.tokenizer_config(config).items() if k.endswith("_token")}
        assert {"pad_token", "unk_token"} <= set(named), name
        assert ("eos_token" in named) == ("eos_token_id" in config), name
        assert set(named.values()) <= set(vocab), name


@given(st.integers(260, 2000), st.sets(st.integers(0, 259), max_size=4))
def test_no_two_tokens_share_a_text(size: int, special: set[int]) -> None:
    named = {identifier: f"<|s{identifier}|>" for identifier in special}
    vocab = dummy.vocabulary(size, named)
    assert len(vocab) == size
    assert set(dummy.byte_alphabet()) <= set(vocab)


def test_the_byte_alphabet_is_gpt2_s_and_the_first_id_readable() -> None:
    alphabet = dummy.byte_alphabet()
    assert len(set(alphabet)) == 256
    assert [alphabet[ord(char)] for char in "A \n"] == ["A", "Ġ", "Ċ"]
    vocab = dummy.vocabulary(1000, {})
    assert next(text for text, identifier in vocab.items() if identifier == 0) == "Ġba"
    with pytest.raises(ModelSourceError, match="100"):
        dummy.vocabulary(100, {})


def test_special_tokens_have_the_config_s_ids_and_chat_requests_a_template() -> None:
    assert dummy.special_tokens(CATALOG["opt-125m"].config) == {2: "<|end|>", 1: "<|pad|>"}
    llama = dummy.special_tokens(CATALOG["llama-3.2-1b"].config)
    assert [llama[n] for n in (128000, 128001, 128009)] == ["<|begin|>", "<|end|>", "<|end_2|>"]
    config = dummy.tokenizer_config(CATALOG["opt-125m"].config)
    assert "add_generation_prompt" in config["chat_template"]
    assert config["eos_token"] == "<|end|>"


def test_the_folder_holds_what_an_engine_reads_of_a_multimodal_config_too(tmp_path: Path) -> None:
    inner = {"model_type": "qwen2", "vocab_size": 500, "eos_token_id": 7}
    config = {"model_type": "qwen2_5_vl", "text_config": inner}
    dummy.write_dummy_folder(config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == config
    names = ("config", "generation_config", "special_tokens_map", "tokenizer", "tokenizer_config")
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.json" for name in names}
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    assert len(tokenizer["model"]["vocab"]) == 500
    assert tokenizer["added_tokens"][0]["id"] == 7
