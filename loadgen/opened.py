"""Open loop: requests are sent when they are due, whether or not earlier ones have ended.

Latency counts from the scheduled arrival, so neither a slow server nor a late sender can hide
the queue it causes (coordinated omission).
"""

import asyncio
import dataclasses
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from loadgen.client import Client
from loadgen.connection import now
from loadgen.instrument import NO_READING, Reading, Watch
from loadgen.mix import Due, Mix, Stream, merged, schedule, source_of
from loadgen.records import Outcome, Record
from loadgen.statistics import (
    Samples,
    Slo,
    Throughput,
    TokenTimeline,
    attainment,
    is_good,
    percentile,
    throughput,
)
from loadgen.target import Target
from loadgen.workload import Request, Workload

PROGRESS_SECONDS: Final = 0.5
PREPARED: Final = 32
"""Bodies made ahead of their time, so that making one never delays its own sending."""
PREPARING_SECONDS: Final = 0.0005
"""Longest work on bodies at a time; further ones wait for the next arrival."""
RECENT: Final = 200
"""Requests whose latencies a progress line speaks of."""


@dataclasses.dataclass(frozen=True, slots=True)
class OpenState:
    """What a progress callback is told.

    Attributes:
        sent: arrivals so far, those still waiting at the client included.
        cpu_share: of the instrument's own thread, since the last call.
        ttft_p95: of the newest requests, in seconds; None before there were any.
        output_tokens_per_s: since the last call.
    """

    elapsed_seconds: float
    sent: int
    in_flight: int
    completed: int
    refused: int
    failed: int = 0
    cpu_share: float = 0.0
    ttft_p95: float | None = None
    output_tokens_per_s: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class OpenLoopResult:
    """One open-loop run.

    Attributes:
        records: every request, those of the warm-up and those sent after the window included.
        opened, closed: the window's borders; requests *due* inside it are counted, wherever
            they end.
        throughput: tokens received inside the window by its length.
        samples: latencies of the requests due inside the window.
        cpu_share: CPU time of the loop's thread by the window's length.
        lag_seconds_p99: how late requests were sent; it is inside their latencies.
        instrument: the same and more of what the instrument saw of itself.
    """

    records: tuple[Record, ...]
    opened: float
    closed: float
    throughput: Throughput
    samples: Samples
    cpu_share: float
    lag_seconds_p99: float
    instrument: Reading = NO_READING

    @property
    def window_seconds(self) -> float:
        """Length of the window."""
        return self.closed - self.opened

    @property
    def arrivals(self) -> tuple[Record, ...]:
        """Requests due inside the window."""
        return tuple(
            r
            for r in self.records
            if r.scheduled is not None and self.opened <= r.scheduled < self.closed
        )

    def count(self, outcome: Outcome) -> int:
        """Arrivals of the window that ended so."""
        return sum(r.outcome is outcome for r in self.arrivals)

    def attainment(self, slo: Slo) -> float | None:
        """Good requests by all arrivals of the window."""
        return attainment(self.arrivals, slo)

    def goodput_req_per_s(self, slo: Slo) -> float:
        """Good requests per second of the window."""
        return sum(is_good(r, slo) for r in self.arrivals) / self.window_seconds

    @property
    def mismatches(self) -> int:
        """Finished requests whose chunks and final usage disagree on the output length."""
        return sum(r.outcome is Outcome.OK and r.tokens_mismatch for r in self.records)


async def open_loop(
    target: Target | str,
    workload: Workload | Mix,
    *,
    arrivals: Iterator[float],
    seconds: float,
    warmup_seconds: float = 0.0,
    api_key: str = "",
    timeout_seconds: float = 120.0,
    max_connections: int = 4096,
    max_in_flight: int | None = None,
    keep_sending: bool = False,
    progress: Callable[[OpenState], None] | None = None,
) -> OpenLoopResult:
    """Send requests as they are due for `warmup_seconds + seconds`, then wait for all to end.

    A request that has not ended `timeout_seconds` after it was due is a time-out, so the run
    always ends. Cancelling leaves no connection open.

    Args:
        target: address of the server.
        workload: what to send.
        arrivals: offsets from the start, as `arrivals.poisson` makes them.
        seconds: length of the counted window.
        warmup_seconds: sent before it, not counted.
        api_key: bearer key, or empty.
        timeout_seconds: of one request.
        max_connections: open at once.
        max_in_flight: further arrivals wait at the client; their latency still counts from their
            scheduled arrival. None: as many as there are connections.
        keep_sending: go on after the window, uncounted, until every request due in it has ended;
            then cancel the rest. Without it the last counted requests run in a server that
            empties, and look faster than they are.
        progress: called twice a second.

    Raises:
        ValueError: `max_in_flight` is below 1.
    """
    if max_in_flight is not None and max_in_flight < 1:
        raise ValueError(f"max_in_flight must be at least 1, got {max_in_flight}")
    async with Client(
        target,
        api_key=api_key,
        timeout_seconds=timeout_seconds,
        max_connections=min(max_connections, max_in_flight or max_connections),
    ) as client:
        due = schedule(source_of(workload), arrivals)
        return await _Run(client).run(
            due, warmup_seconds, seconds, progress, keep_sending=keep_sending
        )


async def open_streams(
    target: Target | str,
    streams: Sequence[Stream],
    *,
    seconds: float,
    warmup_seconds: float = 0.0,
    api_key: str = "",
    timeout_seconds: float = 120.0,
    max_in_flight: int | None = None,
    progress: Callable[[OpenState], None] | None = None,
) -> OpenLoopResult:
    """As `open_loop`, for several workloads with arrivals of their own; records name theirs."""
    if max_in_flight is not None and max_in_flight < 1:
        raise ValueError(f"max_in_flight must be at least 1, got {max_in_flight}")
    async with Client(
        target,
        api_key=api_key,
        timeout_seconds=timeout_seconds,
        max_connections=max_in_flight or 4096,
    ) as client:
        return await _Run(client).run(merged(streams), warmup_seconds, seconds, progress)


def _split(due: Iterator[Due], seconds: float) -> tuple[Iterator[Due], Iterator[Due]]:
    """What is due before `seconds` and what after it; read the first part to its end first."""
    first: list[Due] = []

    def within() -> Iterator[Due]:
        for one in due:
            if one.at >= seconds:
                first.append(one)
                return
            yield one

    def beyond() -> Iterator[Due]:
        yield from first
        yield from due

    return within(), beyond()


class _Run:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._records: list[Record] = []
        self._timeline = TokenTimeline()
        self._watch = Watch()
        self._ended = dict.fromkeys(Outcome, 0)
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._lags: array[float] = array("d")
        self._opened = self._closed = 0.0

    async def run(
        self,
        due: Iterator[Due],
        warmup: float,
        seconds: float,
        progress: Callable[[OpenState], None] | None,
        *,
        keep_sending: bool = False,
    ) -> OpenLoopResult:
        began = now()
        # As the requests' own times are made: one due at the border is on the same side of both.
        self._opened, self._closed = began + warmup, began + (warmup + seconds)
        helpers = [
            asyncio.create_task(self._watch.run()),
            asyncio.create_task(self._report(began, progress)),
        ]
        opening = asyncio.get_running_loop().call_later(warmup, self._watch.open)
        within, beyond = _split(due, warmup + seconds)
        try:
            async with asyncio.TaskGroup() as group:
                await self._send_all(group, within, began)
                if keep_sending:
                    helpers.append(asyncio.create_task(self._go_on(beyond, began)))
                await self._sleep_until(self._closed)
                self._watch.close()
        finally:
            opening.cancel()
            for helper in helpers:
                helper.cancel()
            await asyncio.wait(helpers)
        for helper in helpers:
            if not helper.cancelled():
                helper.result()  # it ended by itself: with an error, it is raised here
        return self._result()

    async def _go_on(self, due: Iterator[Due], began: float) -> None:
        """Send what comes after the window; cancelling it drops what is in flight."""
        async with asyncio.TaskGroup() as group:
            await self._send_all(group, due, began)

    def _result(self) -> OpenLoopResult:
        records, opened, closed = tuple(self._records), self._opened, self._closed
        counted = [r for r in records if r.scheduled is not None and opened <= r.scheduled < closed]
        reading = self._watch.reading(self._lags)
        return OpenLoopResult(
            records=records,
            opened=opened,
            closed=closed,
            throughput=throughput(self._timeline, opened, closed),
            samples=Samples.of_requests(counted),
            cpu_share=reading.cpu_share,
            lag_seconds_p99=reading.lag_seconds_p99,
            instrument=reading,
        )

    async def _send_all(self, group: asyncio.TaskGroup, due: Iterator[Due], began: float) -> None:
        prepared: deque[tuple[float, Request]] = deque()
        while True:
            self._prepare(prepared, due)
            if not prepared:
                return
            at, request = prepared.popleft()
            await self._sleep_until(began + at)
            group.create_task(self._one(began + at, request))

    @staticmethod
    def _prepare(prepared: deque[tuple[float, Request]], wanted: Iterator[Due]) -> None:
        """Have at least one request ready, and more if that takes next to no time."""
        until = now() + PREPARING_SECONDS
        while not prepared or (len(prepared) < PREPARED and now() < until):
            one = next(wanted, None)
            if one is None:
                return
            prepared.append((one.at, one.source.request(one.index)))

    async def _one(self, due: float, request: Request) -> None:
        if self._opened <= due < self._closed:
            self._lags.append(now() - due)
        record = Record(
            len(self._records),
            scheduled=due,
            wanted_prompt_tokens=request.prompt_tokens,
            wanted_output_tokens=request.output_tokens,
            stream=request.stream,
        )
        self._records.append(record)
        await self._client.send(request.body, record, self._timeline.add, path=request.path)
        self._ended[record.outcome] += 1
        if record.ttft is not None:
            self._recent.append(record.ttft)

    @staticmethod
    async def _sleep_until(at: float) -> None:
        # Event loops keep time in milliseconds and may wake a moment early: a request that is
        # sent before it is due would have less latency than none.
        while (delay := at - now()) > 0:  # noqa: ASYNC110 - it waits for a time, not an event
            await asyncio.sleep(delay)

    async def _report(self, began: float, progress: Callable[[OpenState], None] | None) -> None:
        before = began
        while progress is not None:
            await asyncio.sleep(PROGRESS_SECONDS)
            at, ended = now(), self._ended
            tokens = self._timeline.tokens_before(at) - self._timeline.tokens_before(before)
            recent = sorted(self._recent)
            progress(
                OpenState(
                    elapsed_seconds=at - began,
                    sent=len(self._records),
                    in_flight=len(self._records) - sum(ended.values()),
                    completed=ended[Outcome.OK],
                    refused=ended[Outcome.REFUSED],
                    failed=ended[Outcome.ERROR] + ended[Outcome.TIMEOUT],
                    cpu_share=self._watch.recent_cpu_share(),
                    ttft_p95=percentile(recent, 0.95) if recent else None,
                    output_tokens_per_s=tokens / (at - before),
                )
            )
            before = at
