"""Makes a folder for dummy weights: a config and a tokenizer, without a hub or libraries.

The engine fills the weights itself (`--load-format dummy`), so it needs only `config.json` and a
tokenizer that covers the model's whole vocabulary. The tokenizer is byte-level: each byte of a
prompt is one token, and every other token decodes to an invented word, so that a streamed answer
has text for every token, as a real model's has. Answers mean nothing; timing is true.
"""

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import ModelSourceError
from partitiond.core.model.families.wrapped import unwrap

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
"""Plain "role: text" lines, so that dummy models take chat requests as well."""

_WORD_MARK: Final = "Ġ"
"""The character that stands for a space in byte-level tokenizers."""


def byte_alphabet() -> tuple[str, ...]:
    """Return the printable character that stands for each byte, as in GPT-2's `bytes_to_unicode`.

    Printable Latin-1 bytes stand for themselves; the others take the code points from 256 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(256, 512))
    return tuple(chr(byte) if byte in printable else chr(next(spare)) for byte in range(256))


def special_tokens(config: Mapping[str, Any]) -> dict[int, str]:
    """Return special tokens by id, from the config's bos, eos and pad ids (eos may be a list)."""
    found: dict[int, str] = {}
    for key, text in (("eos", "<|end|>"), ("bos", "<|begin|>"), ("pad", "<|pad|>")):
        value = config.get(f"{key}_token_id")
        identifiers = value if isinstance(value, list) else [value]
        for number, identifier in enumerate(identifiers):
            if isinstance(identifier, int) and identifier >= 0:
                found.setdefault(identifier, text if number == 0 else f"{text[:-2]}_{number}|>")
    return found


def vocabulary(size: int, special: Mapping[int, str]) -> dict[str, int]:
    """Token text to id for every id below `size`: specials, invented words, the 256 bytes.

    Bytes come last: if dummy weights prefer one token, that is id 0, which should be readable.
    """
    free = [identifier for identifier in range(size) if identifier not in special]
    if len(free) < 256:
        raise ModelSourceError(
            f"a vocabulary of {size} tokens is too small for a byte-level tokenizer.",
            hint="Dummy weights need a config with a vocab_size of at least 260.",
            facts={"vocab_size": size},
        )
    tokens = {text: identifier for identifier, text in special.items() if identifier < size}
    words, single_bytes = free[:-256], free[-256:]
    tokens.update((_word(number), identifier) for number, identifier in enumerate(words))
    tokens.update(zip(byte_alphabet(), single_bytes, strict=True))
    return tokens


def _word(number: int) -> str:
    """Make a word of letters from a number; two letters at least, so that it is no byte's token."""
    letters = string.ascii_lowercase
    text = ""
    number += len(letters)
    while number:
        number, digit = divmod(number, len(letters))
        text = letters[digit] + text
    return _WORD_MARK + text


def tokenizer_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `tokenizer.json` of the tokenizers library: byte-level BPE without merges."""
    size = config.get("vocab_size")
    if not isinstance(size, int):
        raise ModelSourceError(
            "config key vocab_size is missing.",
            hint="Dummy weights need the model's full config.json.",
        )
    special = special_tokens(config)
    added = [
        {
            "id": identifier,
            "content": text,
            "special": True,
            **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
        }
        for identifier, text in sorted(special.items())
    ]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {
        "version": "1.0",
        **dict.fromkeys(("truncation", "padding", "normalizer", "post_processor")),
        "added_tokens": added,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            **dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix")),
            "end_of_word_suffix": None,
            **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
            "vocab": vocabulary(size, special),
            "merges": [],
        },
    }


def tokenizer_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `tokenizer_config.json` that goes with it, including the chat template."""
    special = special_tokens(config)
    named: dict[str, Any] = {}
    for key in ("bos", "eos", "pad"):
        value = config.get(f"{key}_token_id")
        first = value[0] if isinstance(value, list) and value else value
        if first in special:
            named[f"{key}_token"] = special[first]
    stands_in = named.get("eos_token") or named.get("pad_token")  # an encoder may have no end
    if stands_in:
        # Without these, some tokenizer classes add a token beyond the model's vocabulary.
        named = {"unk_token": stands_in, "pad_token": stands_in, **named}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.get("max_position_embeddings", 2048),
        "chat_template": CHAT_TEMPLATE,
        **named,
    }


def write_dummy_folder(config: Mapping[str, Any], folder: Path) -> None:
    """Write config and tokenizer into the existing, empty `folder`.

    Raises:
        ModelSourceError: the config has no usable vocabulary.
    """
    decoder, _ = unwrap(config)  # a multimodal model's tokens are its decoder's
    files = {
        "config.json": dict(config),
        "tokenizer.json": tokenizer_json(decoder),
        "tokenizer_config.json": tokenizer_config(decoder),
        "special_tokens_map.json": {
            key: value
            for key, value in tokenizer_config(decoder).items()
            if key in {"bos_token", "eos_token", "pad_token", "unk_token"}
        },
        "generation_config.json": {
            key: decoder[key]
            for key in ("bos_token_id", "eos_token_id", "pad_token_id")
            if decoder.get(key) is not None
        },
    }
    for name, content in files.items():
        text = json.dumps(content, indent=None if name == "tokenizer.json" else 2)
        (folder / name).write_text(text + "\n", encoding="utf-8")
