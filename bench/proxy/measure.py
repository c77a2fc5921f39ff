"""Defines the measurements that are made on each proxy."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from bench.processes import CpuTime, busy_seconds, cpu_time
from bench.proxy.native import Load, awake, read_report, start_client
from bench.proxy.proxies import Proxy

DIRECT: Final = "direct"
"""The client connected to the upstream's own port, without a proxy."""
CONNECTIONS: Final = 64
RATE: Final = 800
"""Chunks per second of each of the 64 streams: 51,200 a second together."""
FLOOD_CHUNKS: Final = 5000
LOOSE_CONNECTIONS: Final = 16
FAST_CHUNKS_PER_SECOND: Final = 50_000

Figures = dict[str, float]

CPU_REQUEST: Final = "CPU per request, us"
USER_REQUEST: Final = "  of it user mode, us"
REQUESTS: Final = "requests/s"
REQUEST_P50: Final = "latency p50 at 64, us"
REQUEST_P99: Final = "latency p99 at 64, us"
ONE_P50: Final = "latency p50, one client, us"
ONE_P99: Final = "latency p99, one client, us"
ADDED_P50: Final = "added p50, one client, us"
ADDED_P99: Final = "added p99, one client, us"
CPU_CHUNK: Final = "CPU per chunk, us"
USER_CHUNK: Final = "user mode per chunk, us"
DELAY_P50: Final = "chunk delay p50, us"
DELAY_P90: Final = "chunk delay p90, us"
DELAY_P99: Final = "chunk delay p99, us"
PACED_RATE: Final = "chunks/s of 51,200"
CORES: Final = "cores for 50,000 chunks/s"
MEMORY: Final = "memory, MiB"
LOST: Final = "chunks lost"
UNFINISHED: Final = "streams not ended in time"
FLOOD_RATE: Final = "chunks/s, unpaced"
FLOOD_CPU: Final = "CPU per chunk, unpaced, us"
FLOOD_BUSY: Final = "its core busy, unpaced, %"
OTHERS: Final = "others on its core, %"
"""Time that other programs used on the proxy's core during the run: a large share spoils latencies,
and makes chunks wait and come in fewer pieces."""


class WrongAnswersError(Exception):
    """A proxy gave wrong, mixed-up or truncated answers."""


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One run of the client through a proxy.

    Attributes:
        report: the client's report.
        cpu: CPU time that the proxy used.
        others: share of the proxy's core that other programs used.
    """

    report: Mapping[str, Any]
    cpu: CpuTime
    elapsed: float
    others: float


def run(proxy: Proxy, load: Load, core: int | None) -> Run:
    """Load a proxy. Raises WrongAnswersError unless every byte was right."""
    load = dataclasses.replace(load, loose=proxy.loose)
    busy = busy_seconds(proxy.core)
    started, before, alone = time.monotonic(), _cpu_time(proxy), cpu_time(proxy.pid)
    client = start_client(load, proxy.port, key=proxy.key, core=core)
    report = read_report(client)
    used, elapsed = _cpu_time(proxy) - before, time.monotonic() - started
    # What is behind it has another core, unless nothing is pinned.
    here = used.total if proxy.core is None else (cpu_time(proxy.pid) - alone).total
    others = max(0.0, busy_seconds(proxy.core) - busy - here) / elapsed
    if report["wrong"] or report["errors"]:
        raise WrongAnswersError(
            f"{proxy.name}: {report['wrong']} wrong answers, {report['errors']} failed requests; "
            f"the first: {report['first_error']}"
        )
    return Run(report, used, elapsed, others)


def _cpu_time(proxy: Proxy) -> CpuTime:
    return sum((cpu_time(pid) for pid in proxy.behind), cpu_time(proxy.pid))


def us_each(seconds: float, count: int) -> float:
    """Microseconds per item."""
    return seconds / count * 1e6 if count else float("nan")


def requests(proxy: Proxy, seconds: float, core: int | None) -> Figures:
    """Requests without streaming on 64 connections, as fast as possible."""
    connections = LOOSE_CONNECTIONS if proxy.loose else CONNECTIONS
    done = run(proxy, Load("requests", connections, seconds), core)
    count = done.report["requests"]
    return {
        CPU_REQUEST: us_each(done.cpu.total, count),
        USER_REQUEST: us_each(done.cpu.user, count),
        REQUESTS: count / done.report["seconds"],
        REQUEST_P50: done.report["latency_us"]["p50"],
        REQUEST_P99: done.report["latency_us"]["p99"],
        OTHERS: done.others * 100,
    }


def one_client(proxy: Proxy, seconds: float, core: int | None) -> Figures:
    """One request after the other: the latency that the proxy adds without any queue."""
    with awake({proxy.core, proxy.core_behind, core}):
        report = run(proxy, Load("requests", 1, seconds, warm=0.1), core).report
    return {ONE_P50: report["latency_us"]["p50"], ONE_P99: report["latency_us"]["p99"]}


def paced(proxy: Proxy, seconds: float, core: int | None) -> Figures:
    """64 streams of 800 chunks per second each."""
    load = Load(
        "streams", CONNECTIONS, seconds, round(RATE * seconds), RATE, once=True, warm=seconds / 10
    )
    done = run(proxy, load, core)
    count, delay = done.report["chunks"], done.report["delay_us"]
    each = us_each(done.cpu.total, count)
    return {
        CPU_CHUNK: each,
        USER_CHUNK: us_each(done.cpu.user, count),
        DELAY_P50: delay["p50"],
        DELAY_P90: delay["p90"],
        DELAY_P99: delay["p99"],
        PACED_RATE: done.report["chunks_in_time"] / done.report["window"],
        CORES: each * FAST_CHUNKS_PER_SECOND / 1e6,
        LOST: done.report["lost"],
        UNFINISHED: done.report["unfinished"],
        OTHERS: done.others * 100,
    }


def flood(proxy: Proxy, seconds: float, core: int | None) -> Figures:
    """64 streams as fast as the client takes them."""
    done = run(proxy, Load("streams", CONNECTIONS, seconds, FLOOD_CHUNKS), core)
    count = done.report["chunks"]
    return {
        FLOOD_RATE: done.report["chunks_in_time"] / done.report["window"],
        FLOOD_CPU: us_each(done.cpu.total, count),
        FLOOD_BUSY: done.cpu.total / done.elapsed * 100,
    }


Scenario = Callable[[Proxy, float, int | None], Figures]

SCENARIOS: Final[dict[str, Scenario]] = {
    "requests": requests,
    "one": one_client,
    "chunks": paced,
    "flood": flood,
}
COUNTED: Final = frozenset({LOST, UNFINISHED})
"""Figures that must be 0 in every round."""
DIRECTLY: Final = frozenset({"requests", "one", "chunks"})
"""Scenarios that are also run without a proxy."""
NOT_DIRECT: Final = frozenset({CPU_REQUEST, USER_REQUEST, CPU_CHUNK, USER_CHUNK, CORES, OTHERS})
"""Figures that have no meaning without a proxy."""


@dataclasses.dataclass(slots=True)
class Results:
    """Figures by proxy, one value for each round that had them."""

    values: dict[str, dict[str, list[float]]] = dataclasses.field(default_factory=dict)

    def add(self, proxy: str, figures: Mapping[str, float]) -> None:
        """Keep the figures of one scenario."""
        kept = self.values.setdefault(proxy, {})
        for name, value in figures.items():
            if proxy != DIRECT or name not in NOT_DIRECT:
                kept.setdefault(name, []).append(value)

    def add_differences(self) -> None:
        """Compute the latency added to that of the direct connection in the same round."""
        direct = self.values.get(DIRECT, {})
        for name, kept in self.values.items():
            for added, plain in ((ADDED_P50, ONE_P50), (ADDED_P99, ONE_P99)):
                if name != DIRECT and plain in kept and plain in direct:
                    kept[added] = [a - b for a, b in zip(kept[plain], direct[plain], strict=False)]

    def median(self, proxy: str, figure: str) -> float | None:
        """Median over the rounds; lost chunks and unfinished streams are summed."""
        found = self.values.get(proxy, {}).get(figure)
        if not found:
            return None
        return sum(found) if figure in COUNTED else statistics.median(found)

    def ratios(self, proxy: str, base: str, figure: str) -> list[float]:
        """Ratios of the two proxies in each round."""
        ours = self.values.get(proxy, {}).get(figure, [])
        theirs = self.values.get(base, {}).get(figure, [])
        return [a / b for a, b in zip(ours, theirs, strict=False) if b]
