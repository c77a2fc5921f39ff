"""Defines what is inside the frames. msgspec is C, so this is not compiled (`native`).

Messages are MessagePack arrays. A newer release may append fields, which an older one skips, and
which have defaults because an older one does not send them.
"""

from typing import Final

import msgspec

PROTOCOL: Final = 1
"""Version of the protocol; proxies with another one are not talked to."""


class Hello(msgspec.Struct, array_like=True):
    """Who speaks.

    Attributes:
        protocol: see `PROTOCOL`.
        host: name of the speaker's host.
        life: differs between two starts of a proxy on one host.
    """

    protocol: int
    host: str
    life: str = ""


class Open(msgspec.Struct, array_like=True):
    """A request that its entry has admitted.

    Attributes:
        model: registered name.
        path: of the route.
        request_id: in the logs of both hosts.
        body_bytes: size of the body for the engine, which follows.
        stream: the client asked for a stream.
        sequences, kv_tokens: estimated cost.
        key, weight, priority: its owner, for the fair queue.
        wait_seconds: longest further wait for a place; None for the model's own limit.
        total_seconds: until the entry gives the request up.
        again: it was admitted before, so it goes first.
        prefer: replicas that it prefers, best first.
        tried: replicas on which it failed.
        attempts: of them so far.
        session: name of its session, scoped by its key; or empty.
        prompt_bytes: of its prompts, for the learned tokens per byte.
        prompt_tokens, output_tokens, interval: estimated use (`core.keys.charging.Estimate`).
        traced: header with its place in its trace, or empty.
        load: header that asks for the engine's load, or empty.
    """

    model: str
    path: str
    request_id: str
    body_bytes: int
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
    attempts: int = 0
    session: str = ""
    prompt_bytes: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    interval: int = 1
    traced: bytes = b""
    load: bytes = b""


class PlacedAt(msgspec.Struct, array_like=True):
    """Where a request runs, and its attempts so far, this one included."""

    replica_id: str
    attempts: int = 1


class AnswerHead(msgspec.Struct, array_like=True):
    """The head of an answer.

    Attributes:
        status: as the client gets it.
        content_type: of the body.
        stream: events follow.
        metadata, load: values of the engine's headers `metadata` and `endpoint-load-metrics`.
    """

    status: int
    content_type: bytes
    stream: bool = False
    metadata: bytes = b""
    load: bytes = b""


class Failed(msgspec.Struct, array_like=True):
    """Why a request has no answer.

    Attributes:
        status, code, message, retry_after_seconds: as a client would be told.
        refused: the owner has no place for it: it was not sent to an engine.
        attempts: so far.
        tried: replicas on which it failed.
    """

    status: int
    code: str
    message: str
    retry_after_seconds: int | None = None
    refused: bool = False
    attempts: int = 0
    tried: tuple[str, ...] = ()


class ReplicaCounts(msgspec.Struct, array_like=True):
    """Load of one replica; see `core.dispatch.balance.LoadView`."""

    replica_id: str
    sequences: int
    max_sequences: int
    kv_tokens: int = 0
    kv_cache_tokens: int = 0
    draining: bool = False
    ejected: bool = False
    max_model_len: int = 0


class ModelCounts(msgspec.Struct, array_like=True):
    """Load of one model on one host.

    Attributes:
        waiting, waiting_sequences: requests and sequences that wait for a place.
        max_waiting: requests that may wait.
        service_seconds: mean stay of a sequence in an engine.
    """

    replicas: list[ReplicaCounts]
    waiting: int = 0
    waiting_sequences: int = 0
    max_waiting: int = 0
    service_seconds: float = 1.0


Counts = dict[str, ModelCounts]
"""By model. Models without a replica on the host are left out."""

encode: Final = msgspec.msgpack.Encoder().encode
read_hello: Final = msgspec.msgpack.Decoder(Hello).decode
read_open: Final = msgspec.msgpack.Decoder(Open).decode
read_placed: Final = msgspec.msgpack.Decoder(PlacedAt).decode
read_head: Final = msgspec.msgpack.Decoder(AnswerHead).decode
read_failed: Final = msgspec.msgpack.Decoder(Failed).decode
read_counts: Final = msgspec.msgpack.Decoder(Counts).decode
