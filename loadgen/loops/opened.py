"""Runs an open loop: sends requests when they are due, whether or not earlier ones have ended.

Latency counts from the scheduled arrival, so neither a slow server nor a late sender can hide
the queue it causes (coordinated omission).
"""

import asyncio
import dataclasses
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from loadgen.http.client import Client
from loadgen.http.connection import now
from loadgen.http.target import Target
from loadgen.load.streams import Due, Stream, merged, schedule
from loadgen.load.workload import Request, RequestFactory, Workload
from loadgen.loops.instrument import NO_READING, Reading, Watch
from loadgen.results.records import Outcome, Record
from loadgen.results.statistics import (
    Samples,
    Slo,
    Throughput,
    TokenTimeline,
    attainment,
    is_good,
    percentile,
    throughput,
)

PROGRESS_SECONDS: Final = 0.5
PREPARED: Final = 32
"""Bodies made ahead of time, so that making a body never delays the sending of that body."""
PREPARING_SECONDS: Final = 0.0005
"""Longest work on bodies at a time; further bodies are made after the next arrival."""
RECENT: Final = 200
"""Number of newest requests whose latencies a progress line reports."""


@dataclasses.dataclass(frozen=True, slots=True)
class OpenState:
    """The state passed to a progress callback.

    Attributes:
        sent: arrivals so far, including those still waiting at the client.
        cpu_share: CPU share of the instrument's own thread since the last call.
        ttft_p95: p95 of the newest requests, in seconds; None before any request had a token.
        output_tokens_per_s: rate since the last call.
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
        records: all requests, including those of the warm-up and those sent after the window.
        opened, closed: the window's borders; requests *due* inside it are counted, wherever
            they end.
        throughput: tokens received inside the window, divided by its length.
        samples: latencies of the requests due inside the window.
        cpu_share: CPU time of the loop's thread, divided by the window's length.
        lag_seconds_p99: how late requests were sent; the lag is part of their latencies.
        instrument: the instrument's readings of itself, `cpu_share` included.
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
        """Number of the window's arrivals that ended with this outcome."""
        return sum(r.outcome is outcome for r in self.arrivals)

    def attainment(self, slo: Slo) -> float | None:
        """Good requests as a share of all arrivals of the window."""
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
    workload: Workload,
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
    """Send requests when they are due for `warmup_seconds + seconds`, then wait for all to end.

    A request that has not ended `timeout_seconds` after it was due is a time-out, so the run
    always ends. Cancelling leaves no connection open.

    Args:
        target: address of the server.
        workload: what to send.
        arrivals: offsets from the start, as `arrivals.poisson` makes them.
        seconds: length of the counted window.
        warmup_seconds: length of the sending before the window, not counted.
        api_key: bearer key, or empty.
        timeout_seconds: time limit of one request.
        max_connections: number of connections open at once.
        max_in_flight: further arrivals wait at the client; their latency still counts from their
            scheduled arrival. None: the limit is the number of connections.
        keep_sending: after the window, send uncounted requests until every request due in it has
            ended; then cancel the rest. Without them the last counted requests run in a server
            that empties, and look faster than they are under load.
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
        due = schedule(RequestFactory(workload), arrivals)
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
    """Run `open_loop` for several workloads with own arrivals; records name their stream."""
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
    """Requests due before `seconds`, and those after; read the first iterator to its end first."""
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
        # Computed like the requests' due times: a border and a request due at it compare equal.
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
                helper.result()  # a helper that ended by itself failed: its error is raised here
        return self._result()

    async def _go_on(self, due: Iterator[Due], began: float) -> None:
        """Send the requests due after the window; cancelling it drops those in flight."""
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
        """Have at least one request ready, and more if they take next to no time."""
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
        await self._client.send(request.body, record, self._timeline.add, endpoint=request.endpoint)
        self._ended[record.outcome] += 1
        if record.ttft is not None:
            self._recent.append(record.ttft)

    @staticmethod
    async def _sleep_until(at: float) -> None:
        # Event loops keep time in milliseconds and may wake a moment early: a request sent before
        # it is due would have a latency below zero.
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
