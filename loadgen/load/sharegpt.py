"""Reads lengths from recorded conversations in the ShareGPT form: a JSON array or JSON lines.

Each conversation gives one pair, the first human turn and its answer, as in vLLM's benchmark.
Pairs with fewer than 4 tokens on either side are left out, also as there. Tokens are counted as
characters / 4 (near the ratio of the usual English tokenisers), or exactly with a tokeniser.
"""

import dataclasses
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TextIO

from loadgen.errors import InputError
from loadgen.load.lengths import Lengths, choice
from loadgen.load.traces import open_text

MIN_TOKENS: Final = 4
CHARACTERS_PER_TOKEN: Final = 4
_BLOCK_CHARACTERS: Final = 1 << 20
_MAX_ENTRY_CHARACTERS: Final = 1 << 26

TokenCount = Callable[[str], int]


def by_characters(text: str) -> int:
    """Number of tokens of a text, estimated from its length."""
    return round(len(text) / CHARACTERS_PER_TOKEN)


def by_tokenizer(path: str) -> TokenCount:
    """Count tokens exactly by a `tokenizer.json`, or by the directory that holds one.

    Raises:
        InputError: the package `tokenizers` is missing, or the file cannot be read.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise InputError(
            "--tokenizer needs the package 'tokenizers': install it, or leave the option out to "
            "count characters / 4."
        ) from error
    file = Path(path)
    file = file / "tokenizer.json" if file.is_dir() else file
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:
        # The package raises a bare Exception for every kind of unreadable file.
        raise InputError(f"cannot read the tokenizer {file}: {error}") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def read_sharegpt(
    path: Path | str,
    *,
    limit: int | None = None,
    longest_tokens: int | None = None,
    count: TokenCount = by_characters,
) -> Lengths:
    """Equally likely pairs from a file's conversations.

    Args:
        path: the file.
        limit: largest number of usable conversations to read.
        longest_tokens: leave out pairs whose lengths add up to more than this.
        count: returns the number of tokens of a text.

    Raises:
        InputError: the file cannot be read, an entry is malformed, or no conversation is usable.
    """
    path = Path(path)
    pairs: list[tuple[int, int]] = []
    number = 0
    try:
        with open_text(path) as file:
            for entry in _entries(file):
                number += 1
                pair = _pair(entry, count)
                if pair is None or (longest_tokens and sum(pair) > longest_tokens):
                    continue
                pairs.append(pair)
                if limit is not None and len(pairs) >= limit:
                    break
    except (ValueError, TypeError, EOFError, OSError, zlib.error) as error:
        # These are all errors that a malformed entry or file can cause in its parser.
        raise InputError(f"{path}, after conversation {number}: {error}") from error
    if not pairs:
        raise InputError(
            f"{path} holds no conversation with a question and an answer of {MIN_TOKENS} tokens "
            f"({number} read). Its entries need 'conversations' with at least two turns."
        )
    how = "characters / 4" if count is by_characters else "the tokenizer"
    description = f"drawn from {path.name} ({len(pairs)} conversations, tokens by {how})"
    return dataclasses.replace(choice(pairs), description=description)


def looks_like_sharegpt(path: Path) -> bool:
    """Whether the file begins like a ShareGPT file, rather than like a trace."""
    with open_text(path) as file:
        try:
            head = file.read(1 << 16).lstrip()
        except (UnicodeDecodeError, OSError, EOFError):
            return False
    return head.startswith("[") or (head.startswith("{") and '"conversations"' in head)


def _pair(entry: Any, count: TokenCount) -> tuple[int, int] | None:
    if not isinstance(entry, dict):
        raise TypeError("it is no JSON object")
    turns = entry.get("conversations") or entry.get("conversation") or []
    texts = [str(turn.get("value") or "") for turn in turns[:2] if isinstance(turn, dict)]
    if len(texts) < 2:
        return None
    prompt, output = (count(text) for text in texts)
    return (prompt, output) if min(prompt, output) >= MIN_TOKENS else None


def _entries(file: TextIO) -> Iterator[Any]:
    """Entries of an array, or of lines, read without ever holding the whole file."""
    decoder, text, at = json.JSONDecoder(), "", 0
    while True:
        while at < len(text) and text[at] in " \t\r\n,[":
            at += 1
        if text[at : at + 1] == "]":
            return
        try:
            entry, at = decoder.raw_decode(text, at)
        except ValueError as error:
            block = file.read(_BLOCK_CHARACTERS)
            text, at = text[at:] + block, 0
            if not block:
                if not text:
                    return
                raise ValueError(f"no JSON, or cut off: {error}") from error
            if len(text) > _MAX_ENTRY_CHARACTERS:
                raise ValueError(
                    f"no entry ends within {_MAX_ENTRY_CHARACTERS} characters"
                ) from error
        else:
            yield entry
