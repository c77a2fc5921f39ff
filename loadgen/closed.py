"""Closed loop: a constant number of requests in flight, measured in steady state.

Slot i's first request asks for ceil(O (i + 1) / b) output tokens, so that the slots do not
finish in waves. The window opens when every slot has finished one request and closes by a
`WindowRule`; it never contains ramp or drain.
"""

import asyncio
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Final

from loadgen.client import Client
from loadgen.connection import now
from loadgen.errors import LoadAbortedError
from loadgen.records import Outcome, Record
from loadgen.statistics import Samples, Throughput, TokenTimeline, throughput
from loadgen.target import Target
from loadgen.window import WindowRule, WindowState
from loadgen.workload import RequestFactory, Workload

CHECK_SECONDS: Final = 0.25
"""How often the window's rule is asked; costs well under a millisecond."""
MAX_BACKOFF_SECONDS: Final = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class LiveState:
    """What a progress callback is told. `throughput` is None while the loop ramps up."""

    phase: str
    elapsed_seconds: float
    completed: int
    throughput: Throughput | None


@dataclasses.dataclass(frozen=True, slots=True)
class ClosedLoopResult:
    """One closed-loop window.

    Attributes:
        records: every request, those of the ramp and those cut off at the end included.
        opened, closed: the window's borders on the records' clock.
        ramp_seconds: from the first request to the window's opening.
        wide: it closed at its time limit with a wider interval than wanted.
        samples: latencies that became known inside the window.
        cpu_share: CPU time of the thread that ran the loop by the window's length.
    """

    concurrency: int
    records: tuple[Record, ...]
    opened: float
    closed: float
    ramp_seconds: float
    throughput: Throughput
    wide: bool
    samples: Samples
    cpu_share: float

    @property
    def window_seconds(self) -> float:
        """Length of the window."""
        return self.closed - self.opened

    def ended(self, outcome: Outcome) -> int:
        """Requests that ended so inside the window."""
        return sum(
            r.outcome is outcome and r.end is not None and self.opened <= r.end < self.closed
            for r in self.records
        )

    @property
    def mismatches(self) -> int:
        """Finished requests whose chunks and final usage disagree on the output length."""
        return sum(r.outcome is Outcome.OK and r.tokens_mismatch for r in self.records)


async def closed_loop(
    target: Target | str,
    workload: Workload,
    *,
    concurrency: int,
    window: WindowRule | None = None,
    api_key: str = "",
    timeout_seconds: float = 600.0,
    progress: Callable[[LiveState], None] | None = None,
    on_opened: Callable[[], None] | None = None,
) -> ClosedLoopResult:
    """Hold `concurrency` requests in flight and measure one window.

    Cancelling leaves no connection open.

    Args:
        target: address of the server.
        workload: what to send.
        concurrency: requests in flight, b.
        window: when the window may close.
        api_key: bearer key, or empty.
        timeout_seconds: of one request.
        progress: called a few times a second.
        on_opened: called once, when the window opens.

    Raises:
        LoadAbortedError: request after request failed.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, got {concurrency}")
    async with Client(
        target, api_key=api_key, timeout_seconds=timeout_seconds, max_connections=concurrency
    ) as client:
        loop = _Loop(client, RequestFactory(workload), concurrency)
        return await loop.run(window or WindowRule(), progress, on_opened)


class _Loop:
    def __init__(self, client: Client, factory: RequestFactory, concurrency: int) -> None:
        self._client = client
        self._factory = factory
        self._concurrency = concurrency
        self._records: list[Record] = []
        self._timeline = TokenTimeline()
        self._to_ramp = concurrency
        self._ramped = asyncio.Event()
        self._failures_in_a_row = 0
        self._completed = 0
        self._full_e2el: list[float] = []

    async def run(
        self,
        rule: WindowRule,
        progress: Callable[[LiveState], None] | None,
        on_opened: Callable[[], None] | None,
    ) -> ClosedLoopResult:
        began = now()
        try:
            async with asyncio.TaskGroup() as group:
                slots = [group.create_task(self._slot(i)) for i in range(self._concurrency)]
                await self._ramp(began, progress)
                if on_opened is not None:
                    on_opened()
                opened, cpu = now(), time.thread_time()
                wide = await self._window(rule, opened, progress)
                closed, cpu = now(), time.thread_time() - cpu
                for slot in slots:
                    slot.cancel()
        except BaseExceptionGroup as errors:
            # The slots raise nothing but LoadAbortedError; one of them speaks for all.
            raise errors.exceptions[0] from None
        return ClosedLoopResult(
            concurrency=self._concurrency,
            records=tuple(self._records),
            opened=opened,
            closed=closed,
            ramp_seconds=opened - began,
            throughput=throughput(self._timeline, opened, closed),
            wide=wide,
            samples=Samples.of_window(self._records, opened, closed),
            cpu_share=cpu / (closed - opened),
        )

    async def _ramp(self, began: float, progress: Callable[[LiveState], None] | None) -> None:
        while not self._ramped.is_set():
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._ramped.wait()
            except TimeoutError:
                if progress is not None:
                    progress(LiveState("ramp", now() - began, self._completed, None))

    async def _window(
        self, rule: WindowRule, opened: float, progress: Callable[[LiveState], None] | None
    ) -> bool:
        """Wait until the rule closes the window; True when it closed wide."""
        while True:
            await asyncio.sleep(min(CHECK_SECONDS, max(0.02, rule.min_seconds / 2)))
            elapsed = now() - opened
            measured = throughput(self._timeline, opened, opened + elapsed)
            state = rule.state(elapsed, self._mean_e2el(), measured.half_width_share)
            if progress is not None:
                progress(LiveState("window", elapsed, self._completed, measured))
            if state is not WindowState.OPEN:
                return state is WindowState.WIDE

    def _mean_e2el(self) -> float | None:
        """Of the newest full-length requests: those of the ramp stand in until others end."""
        newest = self._full_e2el[-4 * self._concurrency :]
        return math.fsum(newest) / len(newest) if newest else None

    async def _slot(self, slot: int) -> None:
        output = self._factory.workload.output_tokens
        first: int | None = math.ceil(output * (slot + 1) / self._concurrency)
        backoff = 0.0
        while True:
            record = Record(len(self._records))
            self._records.append(record)
            await self._client.send(
                self._factory.body(record.index, first), record, self._timeline.add
            )
            if record.outcome is Outcome.OK:
                backoff = 0.0
                self._note_success(record, ramp=first is not None, full=first in {None, output})
                first = None
            else:
                backoff = min(MAX_BACKOFF_SECONDS, max(0.1, 2 * backoff))
                self._note_failure(record)
                await asyncio.sleep(backoff)

    def _note_success(self, record: Record, *, ramp: bool, full: bool) -> None:
        self._failures_in_a_row = 0
        self._completed += 1
        if full and record.e2el is not None:
            self._full_e2el.append(record.e2el)
        if ramp:
            self._to_ramp -= 1
            if self._to_ramp == 0:
                self._ramped.set()

    def _note_failure(self, record: Record) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= max(5, 2 * self._concurrency):
            raise LoadAbortedError(
                f"{self._failures_in_a_row} requests in a row failed, the last with: "
                f"{record.error or record.outcome}. Check that {self._client.target} serves "
                f"the model {self._factory.workload.model!r} and takes this workload."
            )
