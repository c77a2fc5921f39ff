"""Computes the tokens that a key pays for a request, by how the request ended. Pure.

The same figure goes to the key's budget, its bucket of tokens per minute, its share of the queue
and the usage report, once per request, even if the request was tried several times.

    ended                                              charged
    refused, or its time in the queue ran out          0
    answered, the engine reported usage                that usage
    answered, no usage reported                        prompt estimate + the larger of output events
                                                       seen and the output limit; counted as untold
    client left, stalled or timed out after the        prompt (exact if the engine reported it, else
    request was sent to an engine                      the estimate) + output events seen
    engine died, nothing had reached the client        0
    engine died in the middle of a stream              prompt + output events seen
    engine refused the request (4xx)                   0

An event counts as one token, or as the number of tokens per event that the request asked for.

A request may be tried on two engines: the last attempt decides. A stream that the proxy itself
ends (its grace period is over, or the proxy has a bug) counts as if the engine had died.
"""

import dataclasses
import enum
from typing import Final

Usage = tuple[int, int]
"""(prompt tokens, output tokens), as an engine reported them at the end of its answer."""


class Ending(enum.Enum):
    """How a request ended."""

    REFUSED = enum.auto()
    """The proxy refused the request, its queue deadline passed, or the client left before an engine
    had the request."""
    ANSWERED = enum.auto()
    LEFT = enum.auto()
    """The client left or stalled, or a time limit passed, after an engine had the request."""
    DIED_EARLY = enum.auto()
    """The engine failed before anything had reached the client, and no other engine answered."""
    DIED_MIDWAY = enum.auto()
    """The stream broke after a part of it had reached the client."""
    REJECTED = enum.auto()
    """The engine refused the request itself (4xx)."""


@dataclasses.dataclass(frozen=True, slots=True)
class ObservedOutput:
    """The observed part of an answer that may not have ended.

    Attributes:
        output_events: events with output that were passed to the client.
        prompt_tokens: as the engine reported them before its answer ended, or None.
    """

    output_events: int = 0
    prompt_tokens: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """A request's expected usage, fixed when the request was admitted.

    Attributes:
        prompt_tokens: of all its prompts.
        output_limit: tokens that all its sequences together may generate.
        sequences: number of sequences that are generated.
        stream_interval: tokens in each event of a sequence after its first event, which has one.
    """

    prompt_tokens: int
    output_limit: int
    sequences: int = 1
    stream_interval: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Charge:
    """The tokens that a key pays.

    Attributes:
        untold: the engine answered without reporting usage, so this is an estimate.
    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    untold: bool = False

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
    if outcome == "client_gone":
        return Ending.LEFT if at_work else Ending.REFUSED
    if outcome == "refused":
        return Ending.REFUSED
    if streamed:
        return Ending.DIED_MIDWAY
    return Ending.LEFT if at_work else Ending.DIED_EARLY


def charge(ending: Ending, usage: Usage | None, seen: ObservedOutput, estimate: Estimate) -> Charge:
    """Return the tokens that the request's key pays; see the module.

    Args:
        usage: of the whole answer, or None if the engine reported none.
    """
    if ending is Ending.ANSWERED:
        if usage is not None:
            return Charge(*usage)
        output = max(_output_seen(seen, estimate), estimate.output_limit)
        return Charge(estimate.prompt_tokens, output, untold=True)
    if ending is Ending.LEFT or ending is Ending.DIED_MIDWAY:
        prompt = seen.prompt_tokens
        if prompt is None:
            prompt = estimate.prompt_tokens
        return Charge(prompt, _output_seen(seen, estimate))
    return NO_CHARGE


def _output_seen(seen: ObservedOutput, estimate: Estimate) -> int:
    """Return tokens seen: one per event, unless the client asked for fewer and larger events."""
    firsts = min(seen.output_events, estimate.sequences)
    return firsts + (seen.output_events - firsts) * estimate.stream_interval
