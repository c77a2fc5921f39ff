"""Computes the tokens that a key pays for a request, by how the request ended. Pure.

The same figure goes to the key's budget, its bucket of tokens per minute, its share of the queue
and the usage report, once per request, even if the request was tried several times.

    ended                                              charged
    refused, or its time in the queue ran out          0
    answered, the engine reported usage                that usage
    answered, no usage reported                        prompt estimate + the output seen or the
                                                       limit, the larger; counted as untold
    client left, stalled or timed out after the        prompt (exact if the engine reported it, else
    request was sent to an engine; the proxy has no    the estimate) + the output seen
    room for its whole answer
    engine died, nothing had reached the client        0
    engine died in the middle of a stream              prompt + the output seen
    engine refused the request (4xx)                   0

Output seen, of a stream: an event counts as one token. Engines write one larger event for a reader
that is behind, or for whom larger ones are set or asked for, so the stream's text counts by the
tokens per byte of the key's other streams if that is more. While an engine shows nothing (a whole
answer until its end, a stream while output is held back), its seconds count x the tokens per second
that the replica writes of one sequence. Both are at most the output limit.

What an engine or another host reports is believed up to what so many prompts and sequences can
have: each is at most as long as the engine's context.

A request may be tried on two engines: the last attempt decides. A stream that the proxy itself
ends (its grace period is over, or the proxy has a bug) counts as if the engine had died.
"""

import dataclasses
import enum
from typing import Final

from partitiond.core.dispatch.admission import Cost

LONGEST_CONTEXT: Final = 1_048_576
"""Tokens of a context of unknown length: no engine that we know serves longer ones."""

Usage = tuple[int, int]
"""(prompt tokens, output tokens), as an engine reported them at the end of its answer."""


class Ending(enum.Enum):
    """How a request ended."""

    REFUSED = enum.auto()
    """The proxy refused the request, its queue deadline passed, or the client left before an engine
    had the request."""
    ANSWERED = enum.auto()
    LEFT = enum.auto()
    """The client left or stalled, a time limit passed, or the answer was too large, after an engine
    had the request."""
    DIED_EARLY = enum.auto()
    """The engine failed before anything had reached the client, and no other engine answered."""
    DIED_MIDWAY = enum.auto()
    """The stream broke after a part of it had reached the client."""
    REJECTED = enum.auto()
    """The engine refused the request itself (4xx)."""


@dataclasses.dataclass(init=False, slots=True)
class ObservedOutput:
    """The observed part of an answer that may not have ended.

    Attributes:
        output_events: events with output that were passed to the client.
        prompt_tokens: as the engine reported them before its answer ended, or None.
        text_bytes: of the output in these events.
        hidden_seconds: how long an engine worked at output before it showed any.
    """

    output_events: Final[int]
    prompt_tokens: Final[int | None]
    text_bytes: Final[int]
    hidden_seconds: Final[float]

    def __init__(
        self,
        output_events: int = 0,
        prompt_tokens: int | None = None,
        text_bytes: int = 0,
        hidden_seconds: float = 0.0,
    ) -> None:
        self.output_events = output_events
        self.prompt_tokens = prompt_tokens
        self.text_bytes = text_bytes
        self.hidden_seconds = hidden_seconds


@dataclasses.dataclass(init=False, slots=True)
class Charge:
    """The tokens that a key pays.

    Attributes:
        untold: the engine answered without reporting usage, so this is an estimate.
    """

    prompt_tokens: Final[int]
    output_tokens: Final[int]
    untold: Final[bool]

    def __init__(
        self, prompt_tokens: int = 0, output_tokens: int = 0, *, untold: bool = False
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.untold = untold

    @property
    def tokens(self) -> int:
        """Prompt and output tokens together."""
        return self.prompt_tokens + self.output_tokens


NO_CHARGE: Final = Charge()


def ending_of(outcome: str, *, at_work: bool, streamed: bool) -> Ending:
    """Classify how a request ended.

    Args:
        outcome: as it is logged: ok, failed, refused, invalid or client_gone.
        at_work: an engine had the request when it ended, or until a time limit passed.
        streamed: a part of a stream had reached the client.
    """
    if outcome == "ok":
        return Ending.ANSWERED
    if outcome == "invalid":
        return Ending.REJECTED
    if outcome in {"client_gone", "refused"}:
        return Ending.LEFT if at_work else Ending.REFUSED
    if streamed:
        return Ending.DIED_MIDWAY
    return Ending.LEFT if at_work else Ending.DIED_EARLY


def believed(told: Usage, cost: Cost) -> Usage:
    """Return reported usage, as far as a request of this size can have it."""
    context = cost.context or LONGEST_CONTEXT
    return min(told[0], cost.prompts * context), min(told[1], cost.sequences * context)


def tokens_seen(seen: ObservedOutput, cost: Cost, tokens_per_byte: float) -> int:
    """Return the output tokens that a stream has shown: those of its events, or of its text if that
    is more, as an engine may merge events for a reader that is behind.
    """
    by_bytes = int(seen.text_bytes * tokens_per_byte)
    if cost.output_limit is not None:
        by_bytes = min(by_bytes, cost.output_limit)
    return max(seen.output_events, by_bytes)


def charge(
    ending: Ending,
    usage: Usage | None,
    seen: ObservedOutput,
    cost: Cost,
    *,
    tokens_per_byte: float,
    tokens_per_s: float,
    at_once: int | None = None,
) -> Charge:
    """Return the tokens that the request's key pays; see the module.

    Args:
        usage: of the whole answer, or None if the engine reported none.
        cost: as it was estimated.
        tokens_per_byte: of the text of the key's streams.
        tokens_per_s: that the replica writes of one sequence.
        at_once: sequences of it that ran at a time; None for all.
    """
    if ending is Ending.ANSWERED and usage is not None:
        return Charge(*usage)
    if ending in {Ending.REFUSED, Ending.DIED_EARLY, Ending.REJECTED}:
        return NO_CHARGE
    running = cost.sequences if at_once is None else at_once
    hidden = int(seen.hidden_seconds * tokens_per_s) * running
    output = tokens_seen(seen, cost, tokens_per_byte)
    if cost.output_limit is not None:
        hidden = min(hidden, max(0, cost.output_limit - output))
    output += hidden
    if ending is Ending.ANSWERED:
        return Charge(cost.prompt_tokens, max(output, cost.output_tokens), untold=True)
    prompt = cost.prompt_tokens if seen.prompt_tokens is None else seen.prompt_tokens
    return Charge(prompt, output)
