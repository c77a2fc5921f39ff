"""Samples what the engine and the device report while a window is open."""

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Final

from partitiond.core.errors import EngineError
from partitiond.core.profile.points import Telemetry
from partitiond.ports import TelemetryWindow
from partitiond.profiler.sweep.bench import RUNNING, Bench, Running

SAMPLE_SECONDS: Final = 1.0
"""Between scrapes of the engine's metrics. A scrape costs the engine some milliseconds of the core
that it computes on, so it is not done more often; a window of 10 s still gives ten samples."""

KV_FULL: Final = 0.98
"""KV usage at which waiting requests wait for blocks. Chosen, not measured."""

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
        kv_usage_mean, kv_usage_max: share of KV blocks in use; None if it was not reported.
    """

    running_mean: float
    preemptions: int
    starved: bool
    kv_usage_mean: float | None = None
    kv_usage_max: float | None = None


def summarise_engine(
    scrapes: Sequence[Mapping[str, float]], at_end: Mapping[str, float] | None = None
) -> EngineSamples:
    """Summarise the scrapes inside the window, in order of time, and one at its end.

    Gauges are averaged over those inside; counters count from the first scrape to the last one.
    """
    if not scrapes:
        return EngineSamples(0.0, 0, starved=False)
    running = math.fsum(s.get(RUNNING, 0.0) for s in scrapes) / len(scrapes)
    starved = [s.get(KV_USAGE, 0.0) >= KV_FULL and s.get(WAITING, 0.0) >= 1 for s in scrapes]
    preempted = _preemptions(at_end or scrapes[-1]) - _preemptions(scrapes[0])
    usage = [s[KV_USAGE] for s in scrapes if KV_USAGE in s]
    return EngineSamples(
        running_mean=running,
        preemptions=round(preempted),
        starved=sum(starved) * 2 > len(scrapes),
        kv_usage_mean=math.fsum(usage) / len(usage) if usage else None,
        kv_usage_max=max(usage, default=None),
    )


def _preemptions(metrics: Mapping[str, float]) -> float:
    return next((metrics[name] for name in PREEMPTIONS if name in metrics), 0.0)


class Sampler:
    """Scrapes the engine's metrics and listens to the device while a window is open.

    Attributes:
        telemetry: the device's telemetry, once stopped.
        telemetry_seconds: how long it was collected.
    """

    def __init__(self, bench: Bench, engine: Running) -> None:
        self._bench = bench
        self._engine = engine
        self._scraping: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[tuple[float, TelemetryWindow]] | None = None
        self._scrapes: list[Mapping[str, float]] = []
        self._at_end: Mapping[str, float] | None = None
        self.telemetry: Telemetry | None = None
        self.telemetry_seconds = 0.0

    def start(self) -> None:
        """Begin to sample; called when the window opens."""
        loop = asyncio.get_running_loop()
        self._scraping = loop.create_task(self._scrape())
        if self._bench.telemetry is not None:
            self._opening = loop.create_task(self._open())

    async def stop(self) -> None:
        """End the sampling; called when the window has closed, or never will."""
        try:
            if self._opening is not None:
                opened_at, window = await self._opening
                self.telemetry = await window.close()
                self.telemetry_seconds = self._bench.clock.monotonic() - opened_at
        finally:
            # Whatever the telemetry source did, nothing scrapes an engine whose trial is over.
            self._opening = None
            if self._scraping is not None:
                self._scraping.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._scraping

    async def samples(self) -> EngineSamples:
        """Return the engine's samples; scrapes once more for the counters of the window's
        requests.
        """
        with contextlib.suppress(EngineError):
            self._at_end = (await self._bench.engines.report(self._engine.handle)).metrics
        return summarise_engine(self._scrapes, self._at_end)

    async def _open(self) -> tuple[float, TelemetryWindow]:
        source = self._bench.telemetry
        assert source is not None  # called only with a source
        window = await source.open(self._bench.device, (self._engine.handle.pid,))
        return self._bench.clock.monotonic(), window

    async def _scrape(self) -> None:
        while True:
            # An engine too busy to answer a scrape is not a failed trial; an engine that is gone
            # shows in its requests and in wait_exit.
            with contextlib.suppress(EngineError):
                report = await self._bench.engines.report(self._engine.handle)
                self._scrapes.append(report.metrics)
            await asyncio.sleep(SAMPLE_SECONDS)
