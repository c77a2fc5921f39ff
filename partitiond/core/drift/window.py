"""Gathers the windows of one engine from readings of the proxy's counts. Pure."""

import dataclasses
from typing import Final

from partitiond.core.demand.traffic import ReplicaCount
from partitiond.core.drift.detection import Comparison, Figure
from partitiond.core.drift.load import Expected, LoadSample

LONGEST_LOOKS: Final = 1800
"""Largest number of busy looks in one window. A replica that does not reach its requests in that
time (an hour) gets no verdict: too much else changes meanwhile. Chosen, not measured."""
LEAST_STREAMS: Final = 0.5
"""Share of a window's requests that must be streams for their latencies to be compared. Chosen."""


@dataclasses.dataclass(frozen=True, slots=True)
class FullWindow:
    """The work of an engine from one reading to another.

    Attributes:
        looks: those in between with a request in flight.
        requests: that ended well.
        token_seconds: time in the engine per output token.
        tpot_seconds, first_seconds: None if too few requests were streams.
    """

    looks: tuple[LoadSample, ...]
    seconds: float
    requests: int
    prompt_tokens: float
    output_tokens: float
    token_seconds: float
    tpot_seconds: float | None
    first_seconds: float | None

    def comparisons(self, wanted: Expected, tolerance: float) -> tuple[Comparison, ...]:
        """Compare the window with its prediction.

        Args:
            wanted: prediction at this window's load.
            tolerance: of the profile itself.
        """
        usual = tolerance + wanted.tolerance
        first = tolerance + wanted.first_tolerance
        figures = (
            (Figure.PACE, wanted.token_seconds, self.token_seconds, usual),
            (Figure.TPOT, wanted.tpot_seconds, self.tpot_seconds, usual),
            (Figure.FIRST, wanted.first_seconds, self.first_seconds, first),
        )
        return tuple(
            Comparison(figure, predicted, measured, allowed)
            for figure, predicted, measured, allowed in figures
            if measured is not None and measured > 0 and predicted > 0
        )


@dataclasses.dataclass(frozen=True, slots=True)
class OpenWindow:
    """A window that is not full yet.

    Attributes:
        began_at: monotonic seconds of its first reading.
        first, last: the counts then and now.
    """

    began_at: float
    first: ReplicaCount
    last: ReplicaCount
    looks: tuple[LoadSample, ...] = ()

    @property
    def requests(self) -> int:
        """Requests that ended well so far."""
        return self.last.ok - self.first.ok

    def goes_on(self, count: ReplicaCount) -> bool:
        """Return whether these counts continue the earlier ones.

        Another engine process begins at zero. Counts also fall if one of several proxy workers
        died before it reported its counts.
        """
        last = self.last
        return last.generation == count.generation and all(
            new >= old
            for new, old in (
                (count.ok, last.ok),
                (count.output_tokens, last.output_tokens),
                (count.first_count, last.first_count),
                (count.rest_tokens, last.rest_tokens),
                (count.service_seconds, last.service_seconds),
            )
        )

    def after(self, count: ReplicaCount, sharing: float) -> "OpenWindow":
        """Return the window with one more look."""
        look = LoadSample(
            busy_seconds=count.busy_seconds - self.last.busy_seconds,
            sequence_seconds=count.sequence_seconds - self.last.sequence_seconds,
            sharing=sharing,
        )
        looks = (*self.looks, look) if look.busy_seconds > 0 else self.looks
        return dataclasses.replace(self, last=count, looks=looks)

    def full(self, at: float, requests: int, seconds: float) -> FullWindow | None:
        """Return the window if it has enough requests and seconds, and any token; else None."""
        new, old = self.last, self.first
        tokens = new.output_tokens - old.output_tokens
        if self.requests < requests or at - self.began_at < seconds or not self.looks:
            return None
        if tokens <= 0:
            return None
        firsts, rest = new.first_count - old.first_count, new.rest_tokens - old.rest_tokens
        streamed = firsts >= LEAST_STREAMS * self.requests
        return FullWindow(
            looks=self.looks,
            seconds=at - self.began_at,
            requests=self.requests,
            prompt_tokens=(new.prompt_tokens - old.prompt_tokens) / self.requests,
            output_tokens=tokens / self.requests,
            token_seconds=(new.service_seconds - old.service_seconds) / tokens,
            tpot_seconds=(
                (new.rest_seconds - old.rest_seconds) / rest if streamed and rest > 0 else None
            ),
            first_seconds=(new.first_seconds - old.first_seconds) / firsts if streamed else None,
        )
