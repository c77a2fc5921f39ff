"""Defines the faults of an answer between engine and proxy, their places and allowed outcomes."""

import dataclasses
import enum
import random
from collections.abc import Iterator

from tests.chaos.verdicts import Verdict


class Kind(enum.StrEnum):
    """What happens."""

    DELAY = "delay"
    """A pause; all goes on."""
    TRICKLE = "trickle"
    """From here on a byte at a time."""
    STALL = "stall"
    """Nothing more comes, on an open connection."""
    DEAF = "deaf"
    """Half open: nothing comes and nothing is read, as if the other machine were gone."""
    CLOSE = "close"
    """An orderly close, as by an engine that was told to exit: the answer is cut off."""
    HALF_CLOSE = "half_close"
    """Its sending side is closed, its reading side is not."""
    RESET = "reset"
    """The connection is aborted (over TCP with a reset)."""
    GARBAGE = "garbage"
    """Bytes that are neither HTTP nor JSON, then the rest."""
    BAD_CHUNK = "bad_chunk"
    """A chunk size that is no number."""
    TOO_LONG = "too_long"
    """A content length, or a chunk size, larger than what comes; then a close."""
    TOO_SHORT = "too_short"
    """A content length, or a chunk size, smaller than what comes."""
    NO_LENGTH = "no_length"
    """The head says no length, so the answer ends with the connection: a byte early."""
    TWO_HEADS = "two_heads"
    """The head comes twice."""
    SURPLUS = "surplus"
    """After the answer comes another one, of nobody's request."""


class Phase(enum.StrEnum):
    """Where it happens, in the order of an answer."""

    CONNECT = "connect"
    BEFORE_HEAD = "before_head"
    IN_HEAD = "in_head"
    AFTER_HEAD = "after_head"
    IN_BODY = "in_body"
    BEFORE_CONTENT = "before_content"
    IN_FIRST_CHUNK = "in_first_chunk"
    AFTER_EVENTS = "after_events"
    IN_CHUNK = "in_chunk"
    BEFORE_DONE = "before_done"
    AFTER_DONE = "after_done"
    AFTER_ANSWER = "after_answer"


EVENTS = 2
"""How many events `AFTER_EVENTS` and `IN_CHUNK` let through."""

_HEAD = (Phase.BEFORE_HEAD, Phase.IN_HEAD, Phase.AFTER_HEAD)
_LATE = (Phase.AFTER_EVENTS, Phase.IN_CHUNK, Phase.BEFORE_DONE)
STREAM_PHASES = (
    *_HEAD, Phase.BEFORE_CONTENT, Phase.IN_FIRST_CHUNK, *_LATE, Phase.AFTER_DONE,
    Phase.AFTER_ANSWER,
)  # fmt: skip
WHOLE_PHASES = (*_HEAD, Phase.IN_BODY, Phase.AFTER_ANSWER)
_STREAM_ONLY = {
    Kind.DEAF: STREAM_PHASES[:-1],
    Kind.BAD_CHUNK: (Phase.BEFORE_CONTENT, Phase.AFTER_EVENTS, Phase.BEFORE_DONE, Phase.AFTER_DONE),
    Kind.TOO_LONG: (Phase.BEFORE_CONTENT, Phase.AFTER_EVENTS),
    Kind.TOO_SHORT: (Phase.BEFORE_CONTENT, Phase.AFTER_EVENTS),
    Kind.NO_LENGTH: (),
    Kind.TWO_HEADS: (Phase.AFTER_HEAD,),
    Kind.SURPLUS: (Phase.AFTER_ANSWER,),
}
_WHOLE_ONLY = {
    Kind.DEAF: WHOLE_PHASES[:-1],
    Kind.BAD_CHUNK: (),
    Kind.TOO_LONG: (Phase.BEFORE_HEAD,),
    Kind.TOO_SHORT: (Phase.BEFORE_HEAD,),
    Kind.NO_LENGTH: (Phase.BEFORE_HEAD,),
    Kind.TWO_HEADS: (Phase.AFTER_HEAD,),
    Kind.SURPLUS: (Phase.AFTER_ANSWER,),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one request.

    Attributes:
        always: every attempt of the request meets it, not only the first.
    """

    kind: Kind
    phase: Phase
    always: bool = False

    def __str__(self) -> str:
        return f"{self.kind}@{self.phase}{':always' if self.always else ''}"

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """The inverse of `str`."""
        what, _, always = text.partition(":")
        kind, _, phase = what.partition("@")
        return cls(Kind(kind), Phase(phase), bool(always))


def phases_of(kind: Kind, *, stream: bool) -> tuple[Phase, ...]:
    """Where a fault can happen in a stream, or in a whole answer."""
    if stream:
        return _STREAM_ONLY.get(kind, STREAM_PHASES)
    return _WHOLE_ONLY.get(kind, WHOLE_PHASES)


def faults_of(kind: Kind, *, stream: bool) -> Iterator[Fault]:
    """All faults of a kind."""
    for phase in phases_of(kind, stream=stream):
        yield Fault(kind, phase)
        yield Fault(kind, phase, always=True)


def drawn(rng: random.Random, *, stream: bool) -> Fault:
    """Any fault. Those that cost the time of a time limit are rarer."""
    slow = {Kind.STALL, Kind.DEAF}
    kinds = [kind for kind in Kind if phases_of(kind, stream=stream)]
    kind = rng.choices(kinds, [0.1 if kind in slow else 1.0 for kind in kinds])[0]
    phase = rng.choice(phases_of(kind, stream=stream))
    return Fault(kind, phase, always=rng.random() < 0.3)


def may_end(fault: Fault, *, stream: bool) -> set[Verdict]:
    """How a request may end that meets this fault, where a retry has somewhere to go."""
    harmless = {Kind.DELAY, Kind.TRICKLE, Kind.SURPLUS}
    if fault.kind in harmless or fault.phase is Phase.AFTER_ANSWER:
        return {Verdict.COMPLETE}
    if fault.phase is Phase.AFTER_DONE:
        # The client has its end, unless the proxy saw the fault in the same moment.
        noisy = fault.kind in {Kind.GARBAGE, Kind.BAD_CHUNK}
        return {Verdict.COMPLETE, Verdict.BROKEN_OFF} if noisy else {Verdict.COMPLETE}
    if stream and fault.phase in _LATE:
        return {Verdict.BROKEN_OFF}
    if stream and fault.kind is Kind.TOO_LONG:
        # The first event is whole; that its chunk was not is seen in the next one, or with it.
        return {Verdict.BROKEN_OFF, Verdict.REFUSED if fault.always else Verdict.COMPLETE}
    if not stream and fault.kind in {Kind.STALL, Kind.DEAF}:
        return {Verdict.REFUSED}  # its only limit is the total one, after which nothing is retried
    return {Verdict.REFUSED} if fault.always else {Verdict.COMPLETE}


def most_sent(fault: Fault) -> int:
    """How often a request may be sent: two attempts, each once more on a fresh connection.

    The latter only where a kept connection ended without a byte, as engines end idle ones.
    """
    ends = fault.kind in {Kind.CLOSE, Kind.HALF_CLOSE, Kind.RESET}
    return 4 if ends and fault.phase is Phase.BEFORE_HEAD else 2
