"""Holds a constant number of requests in flight and measures them in steady state.

The first request of slot i asks for ceil(O (i + 1) / b) output tokens, where O is its own drawn
length, so that the slots do not finish in waves. The window opens when every slot has finished one
request and closes by a `WindowRule`; it never contains ramp or drain.
"""

import asyncio
import dataclasses
import math
from collections import deque
from collections.abc import Callable
from typing import Final

from loadgen.errors import LoadAbortedError, StalledError
from loadgen.http.client import Client
from loadgen.http.connection import now
from loadgen.http.target import Target
from loadgen.load.workload import Request, RequestFactory, Workload
from loadgen.loops.instrument import NO_READING, Reading, Watch
from loadgen.loops.window import WindowRule, WindowState
from loadgen.results.records import Outcome, Record
from loadgen.results.statistics import Samples, Throughput, TokenTimeline, percentile, throughput

CHECK_SECONDS: Final = 0.25
"""Time between progress reports and window checks; one check takes well under a millisecond."""
SILENT_SECONDS: Final = 0.5
"""If the caller sets `stall_seconds`, no window closes during a silence longer than this. With
slow steps the window closes soon after a step, and its border is moved to a step anyway."""
MAX_BACKOFF_SECONDS: Final = 2.0
RECENT: Final = 200
"""Number of newest requests whose latencies a progress line reports."""


@dataclasses.dataclass(frozen=True, slots=True)
class LiveState:
    """The state passed to a progress callback. `throughput` is None while the loop ramps up.

    Attributes:
        cpu_share: CPU share of the instrument's own thread since the last call.
        ttft_p95: p95 of the newest requests, in seconds; None before any request succeeded.
    """

    phase: str
    elapsed_seconds: float
    completed: int
    throughput: Throughput | None
    cpu_share: float = 0.0
    ttft_p95: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ClosedLoopResult:
    """One closed-loop window.

    Attributes:
        records: all requests, including those of the ramp and those cut off at the end.
        opened, closed: the window's borders on the records' clock.
        ramp_seconds: from the first request to the window's opening.
        wide: the window closed at its time limit with a wider interval than wanted.
        samples: latencies that became known inside the window.
        cpu_share: CPU time of the thread that ran the loop, divided by the window's length.
        instrument: the instrument's readings of itself, `cpu_share` included.
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
    instrument: Reading = NO_READING

    @property
    def window_seconds(self) -> float:
        """Length of the window."""
        return self.closed - self.opened

    def ended(self, outcome: Outcome) -> int:
        """Number of requests that ended with this outcome inside the window."""
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
    stall_seconds: float = math.inf,
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
        timeout_seconds: time limit of one request.
        stall_seconds: give up once no request got a token for this long.
        progress: called a few times a second.
        on_opened: called once, when the window opens.

    Raises:
        LoadAbortedError: request after request failed.
        StalledError: no request got a token for `stall_seconds`.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, got {concurrency}")
    async with Client(
        target, api_key=api_key, timeout_seconds=timeout_seconds, max_connections=concurrency
    ) as client:
        loop = _Loop(client, RequestFactory(workload), concurrency, stall_seconds)
        return await loop.run(window or WindowRule(), progress, on_opened)


class _Loop:
    def __init__(
        self, client: Client, source: RequestFactory, concurrency: int, stall_seconds: float
    ) -> None:
        self._client = client
        self._stall_seconds = stall_seconds
        self._source = source
        self._concurrency = concurrency
        self._records: list[Record] = []
        self._timeline = TokenTimeline()
        self._to_ramp = concurrency
        self._ramped = asyncio.Event()
        self._failures_in_a_row = 0
        self._completed = 0
        self._full_e2el: list[float] = []
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._watch = Watch()

    async def run(
        self,
        rule: WindowRule,
        progress: Callable[[LiveState], None] | None,
        on_opened: Callable[[], None] | None,
    ) -> ClosedLoopResult:
        began = now()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._slot(i)) for i in range(self._concurrency)]
                tasks.append(group.create_task(self._watch.run()))
                await self._ramp(began, progress)
                if on_opened is not None:
                    on_opened()
                self._watch.open()
                opened = now()
                wide = await self._window(rule, opened, progress)
                closed = now()
                self._watch.close()
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as errors:
            # The slots raise nothing but LoadAbortedError; the first error stands for all.
            raise errors.exceptions[0] from None
        reading = self._watch.reading()
        return ClosedLoopResult(
            concurrency=self._concurrency,
            records=tuple(self._records),
            opened=opened,
            closed=closed,
            ramp_seconds=opened - began,
            throughput=throughput(self._timeline, opened, closed),
            wide=wide,
            samples=Samples.of_window(self._records, opened, closed),
            cpu_share=reading.cpu_share,
            instrument=reading,
        )

    async def _ramp(self, began: float, progress: Callable[[LiveState], None] | None) -> None:
        while not self._ramped.is_set():
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._ramped.wait()
            except TimeoutError:
                self._require_tokens(began)
                if progress is not None:
                    progress(self._state("ramp", now() - began, None))

    async def _window(
        self, rule: WindowRule, opened: float, progress: Callable[[LiveState], None] | None
    ) -> bool:
        """Wait until the rule closes the window; True when it closed wide."""
        while True:
            await asyncio.sleep(min(CHECK_SECONDS, max(0.02, rule.min_seconds / 2)))
            self._require_tokens(opened)
            elapsed = now() - opened
            measured = throughput(self._timeline, opened, opened + elapsed)
            state = rule.state(elapsed, self._mean_e2el(), measured.half_width_share)
            if progress is not None:
                progress(self._state("window", elapsed, measured))
            if state is not WindowState.OPEN and not self._may_be_stalled(opened):
                return state is WindowState.WIDE

    def _state(self, phase: str, elapsed: float, measured: Throughput | None) -> LiveState:
        recent = sorted(self._recent)
        ttft_p95 = percentile(recent, 0.95) if recent else None
        cpu_share = self._watch.recent_cpu_share()
        return LiveState(phase, elapsed, self._completed, measured, cpu_share, ttft_p95)

    def _silence(self, since: float) -> float:
        return now() - max(since, self._timeline.last)

    def _may_be_stalled(self, opened: float) -> bool:
        """Whether the server may have hung, so that the window has to stay open: a window that
        closed now would report a hung server as a slow one."""
        return math.isfinite(self._stall_seconds) and self._silence(opened) > SILENT_SECONDS

    def _require_tokens(self, since: float) -> None:
        silence = self._silence(since)
        if silence > self._stall_seconds:
            raise StalledError(
                f"no token came for {silence:.0f} s with {self._concurrency} requests in flight. "
                f"Check that {self._client.target} still works on them."
            )

    def _mean_e2el(self) -> float | None:
        """Mean of the newest full-length requests; those of the ramp count until others end."""
        newest = self._full_e2el[-4 * self._concurrency :]
        return math.fsum(newest) / len(newest) if newest else None

    async def _slot(self, slot: int) -> None:
        ramp, backoff = True, 0.0
        while True:
            record = Record(len(self._records))
            self._records.append(record)
            request, full = self._request(record.index, slot if ramp else None)
            record.wanted_prompt_tokens = request.prompt_tokens
            record.wanted_output_tokens = request.output_tokens
            record.stream = request.stream
            await self._client.send(
                request.body, record, self._timeline.add, endpoint=request.endpoint
            )
            if record.outcome is Outcome.OK:
                backoff = 0.0
                self._note_success(record, ramp=ramp, full=full)
                ramp = False
            else:
                backoff = min(MAX_BACKOFF_SECONDS, max(0.1, 2 * backoff))
                self._note_failure(record)
                await asyncio.sleep(backoff)

    def _request(self, index: int, ramp_slot: int | None) -> tuple[Request, bool]:
        """The request to send, and whether it has its full output length."""
        if ramp_slot is None:
            return self._source.request(index), True
        output = self._source.output_tokens(index)
        first = math.ceil(output * (ramp_slot + 1) / self._concurrency)
        return self._source.request(index, first), first == output

    def _note_success(self, record: Record, *, ramp: bool, full: bool) -> None:
        self._failures_in_a_row = 0
        self._completed += 1
        if record.ttft is not None:
            self._recent.append(record.ttft)
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
                f"the model {self._source.models} and takes this workload."
            )
