"""Open loop: requests are sent when they are due, whether or not earlier ones have ended.

Latency counts from the scheduled arrival, so neither a slow server nor a late sender can hide
the queue it causes (coordinated omission).
"""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Final

from loadgen.arrivals import until
from loadgen.client import Client
from loadgen.connection import now
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
from loadgen.workload import RequestFactory, Workload

PROGRESS_SECONDS: Final = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class OpenState:
    """What a progress callback is told."""

    elapsed_seconds: float
    sent: int
    in_flight: int
    completed: int
    refused: int


@dataclasses.dataclass(frozen=True, slots=True)
class OpenLoopResult:
    """One open-loop run.

    Attributes:
        records: every request, those of the warm-up included.
        opened, closed: the window's borders; requests *due* inside it are counted, wherever
            they end.
        throughput: tokens received inside the window by its length.
        samples: latencies of the requests due inside the window.
        cpu_share: CPU time of the loop's thread by wall time.
        lag_seconds_p99: how late requests were sent; it is inside their latencies.
    """

    records: tuple[Record, ...]
    opened: float
    closed: float
    throughput: Throughput
    samples: Samples
    cpu_share: float
    lag_seconds_p99: float

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
    workload: Workload,
    *,
    arrivals: Iterator[float],
    seconds: float,
    warmup_seconds: float = 0.0,
    api_key: str = "",
    timeout_seconds: float = 120.0,
    max_connections: int = 4096,
    progress: Callable[[OpenState], None] | None = None,
) -> OpenLoopResult:
    """Send requests as they are due for `warmup_seconds + seconds`, then wait for all to end.

    A request that has not ended `timeout_seconds` after it was sent is a time-out, so the run
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
        progress: called twice a second.
    """
    async with Client(
        target, api_key=api_key, timeout_seconds=timeout_seconds, max_connections=max_connections
    ) as client:
        run = _Run(client, RequestFactory(workload))
        return await run.run(arrivals, warmup_seconds, seconds, progress)


class _Run:
    def __init__(self, client: Client, factory: RequestFactory) -> None:
        self._client = client
        self._factory = factory
        self._records: list[Record] = []
        self._timeline = TokenTimeline()

    async def run(
        self,
        arrivals: Iterator[float],
        warmup: float,
        seconds: float,
        progress: Callable[[OpenState], None] | None,
    ) -> OpenLoopResult:
        began, cpu = now(), time.thread_time()
        reporter = asyncio.create_task(self._report(began, progress))
        try:
            async with asyncio.TaskGroup() as group:
                for offset in until(arrivals, warmup + seconds):
                    await self._sleep_until(began + offset)
                    group.create_task(self._one(began + offset))
                await self._sleep_until(began + warmup + seconds)
        finally:
            reporter.cancel()
        ended = now()
        opened, closed = began + warmup, began + warmup + seconds
        result_records = tuple(self._records)
        counted = [r for r in result_records if r.scheduled is not None and r.scheduled >= opened]
        return OpenLoopResult(
            records=result_records,
            opened=opened,
            closed=closed,
            throughput=throughput(self._timeline, opened, closed),
            samples=Samples.of_requests(counted),
            cpu_share=(time.thread_time() - cpu) / (ended - began),
            lag_seconds_p99=_lag_p99(counted),
        )

    async def _one(self, due: float) -> None:
        record = Record(len(self._records), scheduled=due)
        self._records.append(record)
        await self._client.send(self._factory.body(record.index), record, self._timeline.add)

    @staticmethod
    async def _sleep_until(at: float) -> None:
        delay = at - now()
        if delay > 0:
            await asyncio.sleep(delay)

    async def _report(self, began: float, progress: Callable[[OpenState], None] | None) -> None:
        while progress is not None:
            await asyncio.sleep(PROGRESS_SECONDS)
            outcomes = [r.outcome for r in self._records]
            progress(
                OpenState(
                    elapsed_seconds=now() - began,
                    sent=len(outcomes),
                    in_flight=outcomes.count(Outcome.PENDING),
                    completed=outcomes.count(Outcome.OK),
                    refused=outcomes.count(Outcome.REFUSED),
                )
            )


def _lag_p99(records: list[Record]) -> float:
    lags = sorted(r.sent - r.scheduled for r in records if r.sent is not None and r.scheduled)
    return percentile(lags, 0.99) if lags else 0.0
