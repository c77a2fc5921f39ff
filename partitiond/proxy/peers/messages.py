"""Defines what two proxies tell each other in headers and in the load that each tells.

Messages are arrays of JSON. A newer release may append fields, which an older one skips, and which
have defaults because an older one does not send them; what changes otherwise needs another
`PROTOCOL`. msgspec is C, so this is not compiled.

What is read is checked, because a peer may be broken: words that become parts of heads, of log
lines or of labels are of plain characters, and numbers are within bounds.
"""

import math
import re
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from partitiond.proxy.request.errors import TOLD_BY_HOSTS

PROTOCOL: Final = 4
"""Version of the protocol; proxies with another one are not talked to."""

Proofs = tuple[tuple[str, int], ...]
"""Failures by replica and number (`core.dispatch.reputation`)."""


class Open(msgspec.Struct, array_like=True):
    """A request that its entry has admitted.

    Attributes:
        model: registered name.
        request_id: in the logs of both hosts.
        stream: the client asked for a stream.
        sequences, kv_tokens: estimated cost.
        key: its owner's; weight and priority of it are read by an older release alone.
        wait_seconds: longest further wait for a place; None for the model's own limit.
        total_seconds: until the entry gives the request up.
        again: it was admitted before, so it goes first.
        prefer: replicas that it prefers, best first.
        tried: replicas that it avoids.
        prompt_bytes: of its prompts, for the learned tokens per byte.
        prompt_tokens, output_tokens, output_limit: estimated use (`core.dispatch.admission.Cost`).
        traced: header with its place in its trace, or empty.
        blocks: joined digests of the beginnings of its prompt.
        proved: failures of the owner's replicas whose requests others have answered since the last
            request.
    """

    model: str
    request_id: str
    stream: bool
    sequences: int
    kv_tokens: int
    key: str = ""
    weight: float = 1.0
    priority: int = 0
    wait_seconds: float | None = None
    total_seconds: float = 0.0
    again: bool = False
    prefer: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    prompt_bytes: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    traced: bytes = b""
    blocks: bytes = b""
    output_limit: int | None = None
    proved: Proofs = ()


class PlacedAt(msgspec.Struct, array_like=True):
    """Where a request runs.

    Attributes:
        sequences: that it runs at a time there; 0 if an older release does not tell.
        tokens_per_s: that the replica writes of one sequence, likewise.
    """

    replica_id: str
    sequences: int = 0
    tokens_per_s: float = 0.0


class Failed(msgspec.Struct, array_like=True):
    """Why a request has no answer.

    Attributes:
        status, code, message, retry_after_seconds: as a client would be told. Of another host only
            codes of `errors.TOLD_BY_HOSTS` are passed on.
        refused: the owner has no place for it: it was not sent to an engine.
        failure: number of the failure of the replica that had it; 0 if there is none.
    """

    status: int
    code: str
    message: str
    retry_after_seconds: int | None = None
    refused: bool = False
    failure: int = 0


class ReplicaCounts(msgspec.Struct, array_like=True):
    """Load of one replica: a `core.dispatch.balance.LoadView`."""

    replica_id: str
    sequences: int
    max_sequences: int
    kv_tokens: int = 0
    kv_cache_tokens: int = 0
    draining: bool = False
    ejected: bool = False
    doubt: int = 0

    @property
    def batch(self) -> int:
        """See `LoadView`."""
        return self.max_sequences


class ModelCounts(msgspec.Struct, array_like=True):
    """Load of one model on one host.

    Attributes:
        waiting, waiting_sequences: requests and sequences that wait for a place.
        service_seconds: mean stay of a sequence in an engine.
    """

    replicas: list[ReplicaCounts]
    waiting: int = 0
    waiting_sequences: int = 0
    service_seconds: float = 1.0


Counts = dict[str, ModelCounts]
"""By model. Models without a replica on the host are left out."""


class News(msgspec.Struct, array_like=True):
    """What an owner tells at a time.

    Attributes:
        counts: its load.
        lately: what was placed on its replicas since the last time, by model and replica: joined
            digests of beginnings of prompts (`Affinity.take_news`).
    """

    counts: Counts
    lately: dict[str, dict[str, bytes]] = {}


MessageT = TypeVar("MessageT")
MOST: Final = 1 << 40
"""Bound of numbers in messages: more tokens or bytes than any request has. Chosen so."""
RENAMED: Final = {"model_sleeping": "model_asleep"}
"""Codes by what a host of an earlier release calls them."""
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_REPLICA_ID: Final = re.compile(r"[A-Za-z0-9._:/@+-]{1,256}")
_TRACED: Final = re.compile(rb"(?:\r\ntraceparent: [0-9a-f-]{1,64})?")


def read_open(data: bytes) -> Open:
    """Return what a peer asks; numbers beyond bounds count as the bound. Raises ValueError."""
    asked = _decoded(_decode_open, data)
    _check(_REQUEST_ID.fullmatch(asked.request_id), "the id of a request")
    _check(_TRACED.fullmatch(asked.traced), "a header")
    waits = 0.0 if asked.wait_seconds is None else asked.wait_seconds
    _check(waits >= 0.0 and asked.total_seconds >= 0.0, "a time")
    _check(math.isfinite(asked.weight) and asked.weight >= 0.0, "a weight")
    asked.sequences = _bounded(asked.sequences)
    asked.kv_tokens = _bounded(asked.kv_tokens)
    asked.prompt_bytes = _bounded(asked.prompt_bytes)
    asked.prompt_tokens = _bounded(asked.prompt_tokens)
    asked.output_tokens = _bounded(asked.output_tokens)
    if asked.output_limit is not None:
        asked.output_limit = _bounded(asked.output_limit)
    return asked


def read_placed(data: bytes) -> PlacedAt:
    """Return where a request runs. Raises ValueError."""
    placed = _decoded(_decode_placed, data)
    _check(_REPLICA_ID.fullmatch(placed.replica_id), "the name of a replica")
    _check(0 <= placed.sequences <= MOST and 0.0 <= placed.tokens_per_s <= MOST, "a number")
    return placed


def read_failed(data: bytes) -> Failed:
    """Return why there is no answer: with a code that this host knows, that code's status, and a
    short message. Raises ValueError.
    """
    failed = _decoded(_decode_failed, data)
    failed.code = RENAMED.get(failed.code, failed.code)
    status = TOLD_BY_HOSTS.get(failed.code)
    if status is None:
        failed.code, failed.message = "upstream_bad_response", _NOT_KNOWN
        status = TOLD_BY_HOSTS[failed.code]
    failed.status, failed.message = status, failed.message[:MOST_MESSAGE]
    if failed.retry_after_seconds is not None:
        failed.retry_after_seconds = min(
            max(1, failed.retry_after_seconds), _MOST_RETRY_AFTER_SECONDS
        )
    return failed


def read_news(data: bytes) -> News:
    """Return what an owner tells. Raises ValueError."""
    return _decoded(_decode_news, data)


def _decoded(decode: Callable[[bytes], MessageT], data: bytes) -> MessageT:
    """Decode a message. Raises ValueError."""
    try:
        return decode(data)
    except RecursionError as error:
        raise ValueError("it sent a message of endless depth") from error


def _check(sound: object, what: str) -> None:
    if not sound:
        raise ValueError(f"it sent {what} that no proxy sends")


def _bounded(number: int) -> int:
    return min(max(0, number), MOST)


_MOST_RETRY_AFTER_SECONDS: Final = 3600
MOST_MESSAGE: Final = 500
"""Most characters of another host's message that a client is shown. Chosen: more than any of the
proxy's own has."""
_NOT_KNOWN: Final = "The host of the model's engine answered with an error that is not known here."
encode: Final = msgspec.json.Encoder().encode
_decode_open: Final = msgspec.json.Decoder(Open).decode
_decode_placed: Final = msgspec.json.Decoder(PlacedAt).decode
_decode_failed: Final = msgspec.json.Decoder(Failed).decode
_decode_news: Final = msgspec.json.Decoder(News).decode
