"""Defines a run as data that is reported, saved, loaded again and compared."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Final

from loadgen.loops.closed import ClosedLoopResult
from loadgen.loops.instrument import NO_READING, Reading
from loadgen.loops.opened import OpenLoopResult
from loadgen.results.records import Outcome, Record
from loadgen.results.statistics import Slo, Throughput, TokenTimeline, throughput

OPEN: Final = "open"
CLOSED: Final = "closed"


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One run of either loop.

    Attributes:
        loop: `OPEN` or `CLOSED`.
        load: the load in words, such as "8 in flight".
        records: all requests, including those of the warm-up or ramp.
        opened, closed: the window's borders on the records' clock.
        wide: a closed loop's window closed at its time limit.
        instrument: the instrument's readings of itself.
        slos: by stream; the key "" is for a run without streams, or streams without their own.
        settings: how the run was made, as plain data.
        started_unix: wall-clock time of the run's start, in seconds since 1970.
    """

    loop: str
    load: str
    records: tuple[Record, ...]
    opened: float
    closed: float
    wide: bool = False
    instrument: Reading = NO_READING
    slos: Mapping[str, Slo] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    started_unix: float = 0.0

    @property
    def window_seconds(self) -> float:
        """Length of the window."""
        return self.closed - self.opened

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the run's streams; empty if there is only one."""
        return tuple(dict.fromkeys(sorted(r.stream for r in self.records if r.stream)))

    def of(self, stream: str) -> tuple[Record, ...]:
        """Records of a stream; all records for the empty name."""
        if not stream:
            return self.records
        return tuple(record for record in self.records if record.stream == stream)

    def slo(self, stream: str) -> Slo | None:
        """The SLO of a stream."""
        return self.slos.get(stream, self.slos.get(""))

    def counts(self, record: Record) -> bool:
        """Whether the window counts a request: due in it, or, in a closed loop, ended in it."""
        at = record.end if self.loop == CLOSED else record.scheduled
        return at is not None and self.opened <= at < self.closed

    def throughput(self, records: Iterable[Record]) -> Throughput:
        """Output tokens of these requests received inside the window, divided by its length."""
        chunks: list[tuple[float, int]] = []
        for record in records:
            chunks.extend(zip(record.chunk_times, record.chunk_tokens, strict=True))
        timeline = TokenTimeline()
        for at, tokens in sorted(chunks):
            timeline.add(at, tokens)
        return throughput(timeline, self.opened, self.closed)

    def prompt_tokens_per_s(self, records: Iterable[Record]) -> float:
        """Prompt tokens of requests with the first token inside the window, by its length."""
        tokens = sum(
            record.prompt_tokens or record.wanted_prompt_tokens
            for record in records
            if record.first_token is not None and self.opened <= record.first_token < self.closed
        )
        return tokens / self.window_seconds if self.window_seconds > 0 else math.nan


def run_of_closed(
    result: ClosedLoopResult,
    slos: Mapping[str, Slo] | None = None,
    settings: Mapping[str, object] | None = None,
    started_unix: float = 0.0,
) -> Run:
    """A closed loop's result as a run."""
    return Run(
        loop=CLOSED,
        load=f"{result.concurrency} in flight",
        records=result.records,
        opened=result.opened,
        closed=result.closed,
        wide=result.wide,
        instrument=result.instrument,
        slos=slos or {},
        settings=settings or {},
        started_unix=started_unix,
    )


def run_of_open(
    result: OpenLoopResult,
    slos: Mapping[str, Slo] | None = None,
    settings: Mapping[str, object] | None = None,
    started_unix: float = 0.0,
) -> Run:
    """An open loop's result as a run."""
    return Run(
        loop=OPEN,
        load=f"{len(result.arrivals) / result.window_seconds:.3g} req/s",
        records=result.records,
        opened=result.opened,
        closed=result.closed,
        instrument=result.instrument,
        slos=slos or {},
        settings=settings or {},
        started_unix=started_unix,
    )


def mismatches(records: Iterable[Record]) -> int:
    """Finished requests whose chunks and final usage disagree on the output length."""
    return sum(r.outcome is Outcome.OK and r.tokens_mismatch for r in records)


def short_outputs(records: Iterable[Record]) -> int:
    """Finished requests with fewer output tokens than were asked for."""
    return sum(
        r.outcome is Outcome.OK and r.output_tokens < r.wanted_output_tokens for r in records
    )
