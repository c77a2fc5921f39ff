"""One trial: a batch held in flight against a live engine, and what was seen meanwhile."""

import asyncio
import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from loadgen import ClosedLoopResult, LiveState, Outcome, Samples, WindowRule, closed_loop
from loadgen import Workload as Load
from partitiond.core.errors import EngineError
from partitiond.ports import EngineHandle, EngineRunner
from partitiond.profiler.search import NextTrial, Visit

SAMPLE_SECONDS: Final = 1.0
"""Between scrapes of the engine's metrics. A scrape costs the engine some milliseconds of the
core it computes on, so not more often; a window of 10 s still gives ten samples."""

KV_FULL: Final = 0.98
"""KV usage from which requests that wait do so for blocks."""

RUNNING: Final = "vllm:num_requests_running"
WAITING: Final = "vllm:num_requests_waiting"
KV_USAGE: Final = "vllm:kv_cache_usage_perc"
PREEMPTIONS: Final = ("vllm:num_preemptions_total", "vllm:num_preemptions")


@dataclasses.dataclass(frozen=True, slots=True)
class EngineSamples:
    """The engine's own gauges, sampled inside the window.

    Attributes:
        running_mean: mean number of running requests; 0 without samples.
        preemptions: requests preempted while the window was open.
        starved: requests waited while the KV cache was full.
    """

    running_mean: float
    preemptions: int
    starved: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One finished trial.

    Attributes:
        proposal: what was asked for.
        seconds: whole wall time, ramp included.
        samples: latencies inside the window.
        instrument_cpu: share of one core the load generator used.
        mismatches: requests whose chunks and final usage disagree on the output length.
    """

    proposal: NextTrial
    output_tokens_per_s: float
    half_width: float
    wide: bool
    window_seconds: float
    seconds: float
    samples: Samples
    engine: EngineSamples
    instrument_cpu: float
    mismatches: int

    @property
    def batch(self) -> int:
        """Requests in flight."""
        return self.proposal.batch

    @property
    def kv_limited(self) -> bool:
        """The KV cache limited it, so it cannot be the knee."""
        return self.engine.preemptions > 0 or self.engine.starved

    @property
    def visit(self) -> Visit:
        """What the search needs to know of it."""
        e2el = self.samples.e2el
        return Visit(
            batch=self.batch,
            purpose=self.proposal.purpose,
            output_tokens_per_s=self.output_tokens_per_s,
            half_width=self.half_width,
            seconds=self.seconds,
            e2el_seconds=math.fsum(e2el) / len(e2el) if e2el else self.window_seconds,
            kv_limited=self.kv_limited,
        )


def summarise_engine(
    scrapes: Sequence[Mapping[str, float]], at_end: Mapping[str, float] | None = None
) -> EngineSamples:
    """The engine's samples from scrapes inside the window, in order of time, and one at its end.

    Gauges are averaged over those inside; counters count from the first to the one at the end.
    """
    if not scrapes:
        return EngineSamples(0.0, 0, starved=False)
    running = math.fsum(s.get(RUNNING, 0.0) for s in scrapes) / len(scrapes)
    starved = [s.get(KV_USAGE, 0.0) >= KV_FULL and s.get(WAITING, 0.0) >= 1 for s in scrapes]
    preempted = _preemptions(at_end or scrapes[-1]) - _preemptions(scrapes[0])
    return EngineSamples(running, round(preempted), starved=sum(starved) * 2 > len(scrapes))


def _preemptions(metrics: Mapping[str, float]) -> float:
    return next((metrics[name] for name in PREEMPTIONS if name in metrics), 0.0)


class _Sampler:
    """Scrapes the engine's metrics from the window's opening until it is stopped."""

    def __init__(self, engines: EngineRunner, handle: EngineHandle) -> None:
        self._engines = engines
        self._handle = handle
        self._task: asyncio.Task[None] | None = None
        self.scrapes: list[Mapping[str, float]] = []
        self.at_end: Mapping[str, float] | None = None

    def start(self) -> None:
        """Begin; called when the window opens."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def count_at_end(self) -> None:
        """One more scrape, for the counters alone: the requests of the window are gone."""
        with contextlib.suppress(EngineError):
            self.at_end = (await self._engines.report(self._handle)).metrics

    async def _run(self) -> None:
        while True:
            # An engine too busy to answer a scrape is not a failed trial; one that is gone
            # shows in its requests and in wait_exit.
            with contextlib.suppress(EngineError):
                self.scrapes.append((await self._engines.report(self._handle)).metrics)
            await asyncio.sleep(SAMPLE_SECONDS)


async def run_trial(
    engines: EngineRunner,
    handle: EngineHandle,
    load: Load,
    proposal: NextTrial,
    *,
    half_width_share: float,
    progress: Callable[[LiveState], None] | None = None,
) -> Trial:
    """Hold `proposal.batch` requests in flight and measure one window.

    Args:
        engines: for the engine's metrics.
        handle: the started engine.
        load: what to send.
        proposal: batch and bounds of the window.
        half_width_share: the window closes once the interval is at most this share.
        progress: called a few times a second.

    Raises:
        LoadAbortedError: request after request failed.
        EngineError: requests failed inside the window.
    """
    began = time.perf_counter()
    sampler = _Sampler(engines, handle)
    rule = WindowRule(
        min_seconds=proposal.min_window_seconds,
        max_seconds=proposal.max_window_seconds,
        half_width_share=half_width_share,
    )
    try:
        result = await closed_loop(
            handle.socket_path,
            load,
            concurrency=proposal.batch,
            window=rule,
            progress=progress,
            on_opened=sampler.start,
        )
    finally:
        await sampler.stop()
    _require_no_errors(result, proposal.batch)
    await sampler.count_at_end()
    return Trial(
        proposal=proposal,
        output_tokens_per_s=result.throughput.output_tokens_per_s,
        half_width=result.throughput.half_width,
        wide=result.wide,
        window_seconds=result.window_seconds,
        seconds=time.perf_counter() - began,
        samples=result.samples,
        engine=summarise_engine(sampler.scrapes, sampler.at_end),
        instrument_cpu=result.cpu_share,
        mismatches=result.mismatches,
    )


def _require_no_errors(result: ClosedLoopResult, batch: int) -> None:
    failed = [
        r for r in result.records if r.outcome in {Outcome.ERROR, Outcome.TIMEOUT, Outcome.REFUSED}
    ]
    if failed:
        raise EngineError(
            f"{len(failed)} of {len(result.records)} requests failed with {batch} in flight, "
            f"the first with: {failed[0].error}.",
            hint="A trial with failed requests measures nothing; see the engine's log.",
            facts={"batch": batch, "failed": len(failed), "status": failed[0].status},
        )
