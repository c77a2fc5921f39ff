"""Defines the faults of an answer between engine and proxy, their places and allowed outcomes.

`steps_of` plays an answer of the echo engine with a fault; a scripted engine takes the steps.
"""

import dataclasses
import enum
import random
import re
from collections.abc import Iterator, Sequence

from tests.proxy.answers import Verdict
from tests.proxy.echo import Wish, answer_pieces
from tests.proxy.scripted import Step


class Kind(enum.StrEnum):
    """What happens."""

    DELAY = "delay"
    """A pause; all goes on."""
    TRICKLE = "trickle"
    """From here on a byte at a time."""
    STALL = "stall"
    """Nothing more comes, on an open connection."""
    CLOSE = "close"
    """An orderly close, as by an engine that was told to exit: the answer is cut off."""
    HALF_CLOSE = "half_close"
    """Its sending side is closed, its reading side is not."""
    RESET = "reset"
    """The connection is aborted."""
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
    Kind.BAD_CHUNK: (Phase.BEFORE_CONTENT, Phase.AFTER_EVENTS, Phase.BEFORE_DONE, Phase.AFTER_DONE),
    Kind.TOO_LONG: (Phase.BEFORE_CONTENT, Phase.AFTER_EVENTS),
    Kind.TOO_SHORT: (Phase.BEFORE_CONTENT, Phase.AFTER_EVENTS),
    Kind.NO_LENGTH: (),
    Kind.TWO_HEADS: (Phase.AFTER_HEAD,),
    Kind.SURPLUS: (Phase.AFTER_ANSWER,),
}
_WHOLE_ONLY = {
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


def may_end(fault: Fault, *, stream: bool) -> set[Verdict]:
    """How a request may end that meets this fault, where a retry has somewhere to go."""
    if fault.kind in {Kind.DELAY, Kind.TRICKLE}:
        return {Verdict.COMPLETE}
    if fault.phase is Phase.AFTER_ANSWER:
        # Whether a whole answer's length was right is uncertain if more comes with it.
        more = fault.kind in {Kind.GARBAGE, Kind.SURPLUS}
        return {Verdict.REFUSED if more and fault.always and not stream else Verdict.COMPLETE}
    if fault.phase is Phase.AFTER_DONE:
        # The client has its end, unless the proxy saw the fault in the same moment.
        noisy = fault.kind in {Kind.GARBAGE, Kind.BAD_CHUNK}
        return {Verdict.COMPLETE, Verdict.BROKEN_OFF} if noisy else {Verdict.COMPLETE}
    if stream and fault.phase in _LATE:
        return {Verdict.BROKEN_OFF}
    if stream and fault.kind is Kind.TOO_LONG:
        # The first event is whole; that its chunk was not is seen in the next one, or with it.
        return {Verdict.BROKEN_OFF, Verdict.REFUSED if fault.always else Verdict.COMPLETE}
    if not stream and fault.kind is Kind.STALL:
        return {Verdict.REFUSED}  # its only limit is the total one, after which nothing is retried
    return {Verdict.REFUSED} if fault.always else {Verdict.COMPLETE}


def most_sent(fault: Fault) -> int:
    """How often a request may be sent: two attempts, each once more on a fresh connection.

    The latter only where a kept connection ended without a byte, as engines end idle ones.
    """
    ends = fault.kind in {Kind.CLOSE, Kind.HALF_CLOSE, Kind.RESET}
    return 4 if ends and fault.phase is Phase.BEFORE_HEAD else 2


# --- on the wire

READ_SECONDS = 0.01
"""On the virtual loop: all that was sent before is read."""
DELAY_SECONDS = 0.05
_LENGTH = re.compile(rb"(content-length: *)(\d+)", re.IGNORECASE)
_STOLEN = Wish(False, False, "STOLEN", 3)
_DICE = random.Random(5)


def steps_of(wish: Wish, fault: Fault | None) -> list[Step]:
    """The steps of an answer that meets this fault."""
    if fault is None:
        return [*answer_pieces(wish)]
    steps: list[Step] = []
    units, contents = [*_units(wish)], 0
    for position, (name, data) in enumerate(units):
        cut = _cut_of(fault, name, contents, len(data))
        contents += name == "content"
        if cut is None:
            steps.append(data)
            continue
        later = [other for _, other in units[position + 1 :]]
        if fault.phase is Phase.AFTER_ANSWER and fault.kind in {Kind.GARBAGE, Kind.SURPLUS}:
            # In one piece: what comes after the connection was used again is an answer to the next
            # request, whoever looks at it.
            return [*steps, data + _damaged(fault.kind, b""), *later]
        return [*steps, data[:cut], READ_SECONDS, *_struck(fault.kind, data[cut:], later)]
    return steps


def _units(wish: Wish) -> Iterator[tuple[str, bytes]]:
    """An answer as (head | chunk | content | done | end | body, bytes)."""
    for data in answer_pieces(wish):
        head, end, body = data.partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/"):
            yield "head", head + end
            if body:
                yield "body", body
        elif data.startswith(b"0\r\n"):
            yield "end", data
        elif b"[DONE]" in data:
            yield "done", data
        else:
            yield ("content" if b"finish_reason" in data else "chunk"), data


def _cut_of(fault: Fault, name: str, contents: int, size: int) -> int | None:
    """How many bytes of a unit go before the fault strikes; None where it does not."""
    first, later = contents == 0, contents == EVENTS
    places: dict[Phase, tuple[bool, int]] = {
        Phase.BEFORE_HEAD: (name == "head", 0),
        Phase.IN_HEAD: (name == "head", size // 2),
        Phase.AFTER_HEAD: (name == "head", size),
        Phase.IN_BODY: (name == "body", size // 2),
        Phase.BEFORE_CONTENT: (name == "content" and first, 0),
        Phase.IN_FIRST_CHUNK: (name == "content" and first, size // 2),
        Phase.AFTER_EVENTS: (name == "content" and later, 0),
        Phase.IN_CHUNK: (name == "content" and later, size // 2),
        Phase.BEFORE_DONE: (name == "done", 0),
        Phase.AFTER_DONE: (name == "end", 0),
        Phase.AFTER_ANSWER: (name in {"end", "body"}, size),
    }
    here, cut = places[fault.phase]
    return cut if here else None


def _struck(kind: Kind, rest: bytes, later: Sequence[bytes]) -> list[Step]:
    """What comes from the fault on."""
    match kind:
        case Kind.DELAY:
            return [DELAY_SECONDS, rest, *later]
        case Kind.TRICKLE:
            return [step for byte in b"".join([rest, *later]) for step in (bytes((byte,)), 0.0)]
        case Kind.STALL:
            return ["hold"]
        case Kind.CLOSE | Kind.HALF_CLOSE | Kind.RESET:
            return [str(kind)]
        case Kind.TOO_LONG:
            return [_damaged(kind, rest), *later, READ_SECONDS, "close"]
        case Kind.NO_LENGTH:
            whole = b"".join([_damaged(kind, rest), *later])
            return [whole[:-1], READ_SECONDS, "close"]
        case _:
            return [_damaged(kind, rest), *later]


def _damaged(kind: Kind, rest: bytes) -> bytes:
    """The rest of a unit, with the damage."""
    match kind:
        case Kind.GARBAGE:
            return b"\x00\xff\xfe" + _DICE.randbytes(24) + rest
        case Kind.BAD_CHUNK:
            return b"zz\r\n" + rest
        case Kind.TOO_LONG:
            return _resized(rest, 7)
        case Kind.TOO_SHORT:
            # One byte: what is left of a JSON object may still end with a brace.
            return _resized(rest, -1 if rest.startswith(b"HTTP/1.") else -7)
        case Kind.NO_LENGTH:
            return _LENGTH.sub(b"x-was-\\1\\2", rest)
        case Kind.TWO_HEADS:
            return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + rest
        case _:
            return rest + b"".join(answer_pieces(_STOLEN))


def _resized(unit: bytes, by: int) -> bytes:
    """A head with another content length, or a chunk with another size."""
    if unit.startswith(b"HTTP/1."):
        return _LENGTH.sub(lambda m: m[1] + str(int(m[2]) + by).encode(), unit)
    size, _, rest = unit.partition(b"\r\n")
    return b"%x\r\n%b" % (int(size, 16) + by, rest)
