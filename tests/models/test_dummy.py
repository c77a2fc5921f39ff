"""The made-up tokenizer covers the vocabulary, and every byte of a prompt."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import ModelSourceError
from partitiond.models.catalog import CATALOG
from partitiond.models.dummy import (
    byte_alphabet,
    special_tokens,
    tokenizer_config,
    tokenizer_json,
    vocabulary,
    write_dummy_folder,
)

# One model of each vocabulary and set of special tokens.
DIFFERENT = tuple(
    {
        (entry.config["vocab_size"], str(special_tokens(entry.config))): name
        for name, entry in CATALOG.items()
    }.values()
)


@pytest.mark.parametrize("name", DIFFERENT)
def test_ids_are_exactly_those_below_the_vocabulary_size(name: str) -> None:
    config = CATALOG[name].config
    vocab = tokenizer_json(config)["model"]["vocab"]
    assert sorted(vocab.values()) == list(range(config["vocab_size"]))


@given(st.integers(260, 2000), st.sets(st.integers(0, 259), max_size=4))
def test_no_two_tokens_share_a_text(size: int, special: set[int]) -> None:
    named = {identifier: f"<|s{identifier}|>" for identifier in special}
    vocab = vocabulary(size, named)
    assert len(vocab) == size
    assert set(byte_alphabet()) <= set(vocab)


def test_the_byte_alphabet_is_gpt2_s() -> None:
    alphabet = byte_alphabet()
    assert len(set(alphabet)) == 256
    assert alphabet[ord("A")] == "A"
    assert alphabet[ord(" ")] == "Ġ"
    assert alphabet[ord("\n")] == "Ċ"


def test_the_first_id_is_readable() -> None:
    vocab = vocabulary(1000, {})
    assert next(text for text, identifier in vocab.items() if identifier == 0) == "Ġba"


def test_special_tokens_have_the_config_s_ids() -> None:
    assert special_tokens(CATALOG["opt-125m"].config) == {2: "<|end|>", 1: "<|pad|>"}
    llama = special_tokens(CATALOG["llama-3.2-1b"].config)
    assert llama[128000] == "<|begin|>"
    assert llama[128001] == "<|end|>"
    assert llama[128009] == "<|end_2|>"


def test_chat_requests_find_a_template() -> None:
    config = tokenizer_config(CATALOG["opt-125m"].config)
    assert "add_generation_prompt" in config["chat_template"]
    assert config["eos_token"] == "<|end|>"


def test_a_vocabulary_without_room_for_bytes_is_refused() -> None:
    with pytest.raises(ModelSourceError, match="100"):
        vocabulary(100, {})


def test_the_folder_holds_what_an_engine_reads(tmp_path: Path) -> None:
    config = CATALOG["qwen2.5-0.5b"].config
    write_dummy_folder(config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == config
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize("name", DIFFERENT)
def test_no_special_token_lies_outside_the_vocabulary(name: str) -> None:
    config = CATALOG[name].config
    vocab = tokenizer_json(config)["model"]["vocab"]
    named = {k: v for k, v in tokenizer_config(config).items() if k.endswith("_token")}
    assert {"eos_token", "pad_token", "unk_token"} <= set(named)
    assert set(named.values()) <= set(vocab)


def test_a_multimodal_config_has_the_tokens_of_its_decoder(tmp_path: Path) -> None:
    inner = {"model_type": "qwen2", "vocab_size": 500, "eos_token_id": 7}
    write_dummy_folder({"model_type": "qwen2_5_vl", "text_config": inner}, tmp_path)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    assert len(tokenizer["model"]["vocab"]) == 500
    assert tokenizer["added_tokens"][0]["id"] == 7
    assert "text_config" in json.loads((tmp_path / "config.json").read_text())
