"""Defines the message in which two hosts' proxies tell each other of keys. msgspec is C, so this is
not compiled (`native`).

As in `peers.messages`, messages are MessagePack arrays, and a newer release may append fields. All
lists and names are bounded: a message that exceeds a bound is none, and ends its connection.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Final

import msgspec

from partitiond.core.keys.portions import MOST_ABSENT, KeyWord, RelayedWord
from partitiond.core.keys.rates import BudgetOfHost, Usage

MAX_BYTES: Final = 192 * 1024
"""Words of one message; more words go in further messages. A frame may have 256 KiB."""
_Name = Annotated[str, msgspec.Meta(max_length=255)]
_Row = tuple[float, float, float, float, float]
"""A `core.keys.rates.Usage`."""
_Absent = Annotated[
    list[tuple[_Name, int, float, float]], msgspec.Meta(max_length=MOST_ABSENT)
]  # fmt: skip
_Missing = Annotated[list[_Name], msgspec.Meta(max_length=MOST_ABSENT)]
_Relayed = Annotated[
    list[tuple[_Name, int, int, _Row, _Row, bool]], msgspec.Meta(max_length=MOST_ABSENT)
]  # fmt: skip


class SentWord(msgspec.Struct, array_like=True):
    """A `core.keys.portions.KeyWord`, of the key of this id."""

    key: _Name
    incarnation: int
    number: int
    usage: _Row
    portion: _Row
    levels: tuple[float, float]
    active: bool = False
    heard_incarnation: int = -1
    heard_number: int = -1
    asks: bool = False
    absent: _Absent = []
    missing: _Missing = []
    relayed: _Relayed = []


class KeyWords(msgspec.Struct, array_like=True):
    """What one host tells another one of keys; also without words, to say that it hears.

    Attributes:
        incarnation: of the sender's counts.
        sent: when it was sent, by the sender's monotonic clock.
        heard_incarnation, heard_sent: of the receiver's last message that the sender has heard.
        words: about keys.
    """

    incarnation: int
    sent: float
    heard_incarnation: int = -1
    heard_sent: float = -1.0
    words: list[SentWord] = []

    def by_key(self) -> Iterator[tuple[str, KeyWord]]:
        """Return the words as the rules know them."""
        for one in self.words:
            yield one.key, _word(one)


encode: Final = msgspec.msgpack.Encoder().encode
read_words: Final = msgspec.msgpack.Decoder(KeyWords).decode


def messages(empty: KeyWords, words: Mapping[str, KeyWord]) -> Iterator[bytes]:
    """Return the encoded messages for these words, by key id; one even if there is no word.

    Args:
        empty: the message without words.
        words: one that is too large for a message is left out, and told of again later.
    """
    part: list[SentWord] = []
    size = 0
    for key, word in words.items():
        sent = _sent(key, word)
        more = len(encode(sent))
        if more > MAX_BYTES:
            continue
        if size + more > MAX_BYTES:
            yield encode(msgspec.structs.replace(empty, words=part))
            part, size = [], 0
        part.append(sent)
        size += more
    yield encode(msgspec.structs.replace(empty, words=part))


def _sent(key: str, word: KeyWord) -> SentWord:
    return SentWord(
        key, word.incarnation, word.number, word.usage.as_row(), word.portion.as_row(),
        word.levels, word.active, word.heard_incarnation, word.heard_number, word.asks,
        list(word.absent), list(word.missing),
        [
            (one.host, one.incarnation, one.number, one.usage.as_row(), one.portion.as_row(),
             one.active)
            for one in word.relayed
        ],
    )  # fmt: skip


def _word(sent: SentWord) -> KeyWord:
    absent: tuple[BudgetOfHost, ...] = tuple(sent.absent)
    return KeyWord(
        sent.incarnation, sent.number, Usage(*sent.usage), Usage(*sent.portion), sent.levels,
        sent.active, sent.heard_incarnation, sent.heard_number, sent.asks,
        absent, tuple(sent.missing),
        tuple(
            [
                RelayedWord(host, incarnation, number, Usage(*usage), Usage(*portion), active)
                for host, incarnation, number, usage, portion, active in sent.relayed
            ]
        ),
    )  # fmt: skip
