"""Converts text to simulated token ids and back, without a vocabulary file.

A piece of text of up to four characters is one token, about the rate of English; its id is its
UTF-8 bytes behind a leading 1, so that ids turn back into exactly the same text. Smaller ids are
the words of the engine's answers. Any id is some token, since prompts of random ids are usual.
"""

from collections.abc import Iterable, Sequence
from typing import Final

WORDS: Final = ("small", "models", "answer", "fast", "when", "each", "has", "just", "enough")

PIECE_CHARS: Final = 4
"""The usual rate of English text."""
PIECE_BYTES: Final = 6
"""Keeps ids below 2^53, so that they survive clients that read JSON numbers as floats."""
TEXT_IDS: Final = 1 << 8
"""Smallest id that stands for a text: one byte behind the leading 1."""


def encode(text: str) -> tuple[int, ...]:
    """Token ids of a text."""
    return tuple(_id_of(piece) for piece in pieces(text))


def pieces(text: str) -> tuple[str, ...]:
    """Cut the text into tokens."""
    if text.isascii():
        return tuple(text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS))
    found: list[str] = []
    piece, size = "", 0
    for char in text:
        width = len(char.encode("utf-8", "surrogatepass"))
        if piece and (len(piece) == PIECE_CHARS or size + width > PIECE_BYTES):
            found.append(piece)
            piece, size = "", 0
        piece += char
        size += width
    return (*found, piece) if piece else tuple(found)


def decode(ids: Iterable[int]) -> str:
    """Return the text of token ids."""
    return "".join(map(token_text, ids))


def token_text(token_id: int) -> str:
    """Return the text of one token."""
    if token_id >= TEXT_IDS:
        raw = token_id.to_bytes((token_id.bit_length() + 7) // 8, "big")
        if raw[0] == 1:
            return raw[1:].decode("utf-8", "replace")
    return " " + WORDS[token_id % len(WORDS)]


def answer_ids(prompt: Sequence[int], choice: int, count: int) -> tuple[int, ...]:
    """Return ids of an answer: the same for the same prompt, different for another prompt or
    choice.
    """
    start = sum(prompt) + len(prompt) + choice
    return tuple((start + position) % len(WORDS) for position in range(count))


def _id_of(piece: str) -> int:
    return int.from_bytes(b"\x01" + piece.encode("utf-8", "surrogatepass"), "big")
