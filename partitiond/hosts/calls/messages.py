"""Writes and reads the messages between a control plane and an agent.

A message is JSON, and its `data` follow after a line feed: JSON has none. A reader ignores fields
that it does not know, and takes the defaults of fields that are missing.
"""

import dataclasses
import logging
import zlib
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from partitiond.core import errors
from partitiond.core.errors import InputError, PartitiondError
from partitiond.hosts.calls.fencing import HeadSession
from partitiond.ports.host_agent import MESSAGE_VERSION
from partitiond.serde import from_stored_json, to_json_bytes

log = logging.getLogger(__name__)

OLDEST_VERSION: Final = 1
"""Oldest version of messages that this release reads, and with whose readers it can talk."""


@dataclasses.dataclass(frozen=True, slots=True)
class Awaited:
    """The calls that a near side still waits for, of all that it has made.

    Attributes:
        upto: the largest number that it has given to a call.
        calls: how many words of its progress are known, by number of each awaited call.
    """

    upto: int = 0
    calls: Mapping[int, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message to an agent.

    Attributes:
        call: method of a port, or a question of the near side.
        head: who asks.
        host: whom it is for; another host refuses it.
        host_id: id of that host; a host with another one refuses it. Empty if it is not known yet.
        agent: the agent's start as known to the sender; another start of it begins nothing.
        number: of the call that it begins or cancels; 0 for a question.
        arguments: by name, as JSON.
        awaited: None in a message of a release before, from a thread that did not know.
        wait_seconds: how long the answer may wait for news.
        version: of the message.
        oldest: version that a reader needs at least.
        data: the argument that is bytes.
        crc32: checksum of the data.
    """

    call: str
    head: HeadSession
    host: str = ""
    host_id: str = ""
    agent: str = ""
    number: int = 0
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    awaited: Awaited | None = None
    wait_seconds: float = 0.0
    version: int = MESSAGE_VERSION
    oldest: int = OLDEST_VERSION
    data: bytes | None = None
    crc32: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ErrorRecord:
    """An error as it is carried.

    Attributes:
        kind: name of its class.
    """

    kind: str
    message: str
    hint: str = ""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class CallNews:
    """What has become of a call.

    Attributes:
        ended: whether it has a result or an error.
        value: its result, as JSON.
        error: why it failed.
        told: what its `progress` was told since: the number of the word, and the word.
    """

    ended: bool = False
    value: Any = None
    error: ErrorRecord | None = None
    told: tuple[tuple[int, tuple[Any, ...]], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentAnswer:
    """An agent's answer to a message.

    Attributes:
        agent: drawn at the agent's start: calls do not outlive it.
        host_id: of the agent's host; empty from a release that does not read `Message.host_id`.
        release: of the agent.
        value: of a question, as JSON.
        error: why the question has no value.
        refused: why the agent does nothing that this sender asks.
        restarted: the message was for another start of the agent, and nothing was begun.
        later: why nothing was begun yet; the message may be repeated. Of a release before.
        calls: what has become of calls, by number.
        version: newest version of messages that the agent reads.
        data: value of a question whose value is bytes.
        crc32: checksum of the data.
    """

    agent: str = ""
    host_id: str = ""
    release: str = ""
    value: Any = None
    error: ErrorRecord | None = None
    refused: ErrorRecord | None = None
    restarted: bool = False
    later: str = ""
    calls: Mapping[int, CallNews] = dataclasses.field(default_factory=dict)
    version: int = MESSAGE_VERSION
    data: bytes | None = None
    crc32: int | None = None


T = TypeVar("T", Message, AgentAnswer)


def write(message: Message | AgentAnswer) -> bytes:
    """Return the bytes of a message or an answer."""
    data = message.data
    if data is None:
        return to_json_bytes(message)
    head = dataclasses.replace(message, data=None, crc32=zlib.crc32(data))
    return b"".join((to_json_bytes(head), b"\n", data))


def _read(kind: type[T], body: bytes) -> T:
    """Return what was written. Raises InputError: it is nothing of the kind, or was damaged."""
    text, _, data = body.partition(b"\n")
    found = from_stored_json(kind, text)
    if found.crc32 is None:
        return found
    if zlib.crc32(data) != found.crc32:
        raise InputError(
            "a message was damaged on its way.", hint="Check the network between the hosts."
        )
    return dataclasses.replace(found, data=data)


def read_message(body: bytes) -> Message:
    """Return a message. Raises InputError: it is none, or of a version that is not read here."""
    message = _read(Message, body)
    if message.oldest > MESSAGE_VERSION or message.version < OLDEST_VERSION:
        side = "this host" if message.oldest > MESSAGE_VERSION else "the head"
        raise InputError(
            f"messages of version {message.version} are not read here, but those of "
            f"{OLDEST_VERSION} to {MESSAGE_VERSION}.",
            hint=f"Upgrade partitiond on {side}.",
            facts={
                "version": message.version,
                "oldest": OLDEST_VERSION,
                "newest": MESSAGE_VERSION,
            },
        )
    return message


def read_answer(body: bytes) -> AgentAnswer:
    """Return an answer. Raises InputError: it is none."""
    return _read(AgentAnswer, body)


def record_of(error: BaseException) -> ErrorRecord:
    """Return an error as it is carried; a defect is told to whoever asked, too."""
    if not isinstance(error, PartitiondError):
        log.error("a call broke", exc_info=error)
        error = PartitiondError(f"{type(error).__name__}: {error}")
    return ErrorRecord(type(error).__name__, error.message, error.hint, error.facts)


def error_of(record: ErrorRecord) -> PartitiondError:
    """Return the error of a record; of a kind that this release does not know, the base of all."""
    kind = getattr(errors, record.kind, PartitiondError)
    if not (isinstance(kind, type) and issubclass(kind, PartitiondError)):
        kind = PartitiondError
    try:
        return kind(record.message, hint=record.hint, facts=record.facts)
    except TypeError:  # a kind that needs more than a record has
        return PartitiondError(record.message, hint=record.hint, facts=record.facts)
