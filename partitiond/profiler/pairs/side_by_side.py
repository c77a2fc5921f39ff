"""Measures replicas under load at the same time, in common windows of alternating arrangements.

Machines drift, so arrangements are not measured one after the other: each gets a window in turn,
the order is reversed from round to round (A B, B A, A B ...), and comparisons are made round by
round.

The window of an arrangement is common to its replicas: it opens when every slot of every replica
has finished a request, and closes while all replicas are still under load. Engines that are up but
not in the arrangement get no requests; the CPU time that they take meanwhile is measured and kept.
"""

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

from loadgen import (
    ClosedLoopResult,
    LoadAbortedError,
    Samples,
    WindowRule,
    closed_loop,
    saturation,
)
from loadgen.http.connection import now
from loadgen.loops.window import WindowState
from loadgen.results.statistics import TokenTimeline, throughput
from partitiond.core.errors import EngineError
from partitiond.core.profile.jobs import Progress
from partitiond.core.profile.points import Telemetry
from partitiond.profiler.pairs.arrangement import (
    Arrangement,
    EngineKey,
    Started,
    engine_keys,
    engines_of,
    launch_of,
    may_keep_up,
)
from partitiond.profiler.sweep.bench import Bench, Running
from partitiond.profiler.sweep.load import load_of
from partitiond.profiler.sweep.trial import require_no_failures

PREEMPTIONS: Final = ("vllm:num_preemptions_total", "vllm:num_preemptions")
WINDOW_E2EL: Final = 2.0
"""A window lasts at least so many mean end-to-end latencies of its slowest replica. Chosen."""
LONGEST_WINDOWS: Final = 6.0
"""No window is longer than this many times the requested length, for slow requests too. Chosen."""

Tell = Callable[[Progress], None]


@dataclasses.dataclass(frozen=True, slots=True)
class CommonWindow:
    """Results of an arrangement in one window. Tuples are by replica, in the arrangement's order.

    Attributes:
        output_tokens_per_s, half_widths: of each, with 95 % half-widths by batch means.
        samples: latencies that became known inside the window.
        batches: requests in flight at each replica.
        preemptions: of all replicas under load; engines that did not report are left out.
        telemetry: of the device, and the CPU time of the replicas' processes.
        idle_cores: CPU time per second of engines that were up without load; None if unknown.
        instrument_cpu: share of one core that the load generator used.
        saturated: why the figures cannot be trusted; empty if they can.
    """

    seconds: float
    output_tokens_per_s: tuple[float, ...]
    half_widths: tuple[float, ...]
    samples: tuple[Samples, ...]
    batches: tuple[int, ...]
    preemptions: int = 0
    telemetry: Telemetry | None = None
    idle_cores: float | None = None
    instrument_cpu: float = 0.0
    saturated: tuple[str, ...] = ()

    @property
    def total_output_tokens_per_s(self) -> float:
        """Sum over the replicas."""
        return math.fsum(self.output_tokens_per_s)


@dataclasses.dataclass(frozen=True, slots=True)
class WindowPlan:
    """Length and number of the windows to measure.

    Attributes:
        rounds: windows of each arrangement.
        seconds: least length of a window (it is longer if requests are).
        seed: of the prompts.
        keep_up: all engines are up throughout (True), or only those of the arrangement under
            load (False); None means True if all of them fit into the device at once.
    """

    rounds: int = 4
    seconds: float = 20.0
    seed: int = 0
    keep_up: bool | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Study:
    bench: Bench
    plan: WindowPlan
    tell: Tell


@dataclasses.dataclass(frozen=True, slots=True)
class _Up:
    running: Running
    started: Started


async def measure(
    bench: Bench, arrangements: Sequence[Arrangement], plan: WindowPlan, tell: Tell
) -> dict[str, tuple[CommonWindow, ...]]:
    """Measure windows of each arrangement, by its name; the n-th ones come from the n-th round.

    No engine is left when it returns, is cancelled or raises.

    Raises:
        InputError: a share does not hold one request.
        EngineError: an engine did not start, died, or failed requests.
    """
    found: dict[str, list[CommonWindow]] = {a.name: [] for a in arrangements}
    together = plan.keep_up
    if together is None:
        together = may_keep_up(bench.device, arrangements)
    study = _Study(bench, plan, tell)
    if together:
        async with _up(study, arrangements) as engines:
            await _rounds(study, arrangements, found, engines)
    else:
        await _rounds(study, arrangements, found, None)
    return {name: tuple(windows) for name, windows in found.items()}


async def _rounds(
    study: _Study,
    arrangements: Sequence[Arrangement],
    found: Mapping[str, list[CommonWindow]],
    engines: Mapping[EngineKey, _Up] | None,
) -> None:
    plan = study.plan
    total, done = plan.rounds * len(arrangements), 0
    for turn in range(plan.rounds):
        order = arrangements if turn % 2 == 0 else tuple(reversed(arrangements))
        for arrangement in order:
            text = f"{arrangement.name}, window {turn + 1} of {plan.rounds}"
            left = (total - done) * plan.seconds
            study.tell(Progress("measuring", text, done / total, left))
            if engines is not None:
                window = await _window(study, arrangement, engines, turn)
            else:
                async with _up(study, [arrangement]) as own:
                    window = await _window(study, arrangement, own, turn)
            found[arrangement.name].append(window)
            done += 1


@contextlib.asynccontextmanager
async def _up(
    study: _Study, arrangements: Sequence[Arrangement]
) -> AsyncIterator[dict[EngineKey, _Up]]:
    """Start the engines of the arrangements one after the other: starts disturb each other."""
    async with contextlib.AsyncExitStack() as stack:
        engines: dict[EngineKey, _Up] = {}
        for key, replica in engines_of(arrangements).items():
            started = launch_of(study.bench.device, replica, study.plan.seed)
            study.tell(Progress("starting", f"starting an engine for {key[0]}"))
            engine = study.bench.running(started.launch, study.tell)
            running = await stack.enter_async_context(engine)
            engines[key] = _Up(running, started)
        yield engines


class _Gate:
    """Opens for all replicas when the last one is steady; then counts the time."""

    def __init__(self, parties: int, seconds: float) -> None:
        self._missing = parties
        self._seconds = seconds
        self._slowest = 0.0
        self._opened: float | None = None
        self.opened_for_all = asyncio.Event()
        self.closed = asyncio.Event()

    def one_is_steady(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._opened = now()
            self.opened_for_all.set()

    def is_over(self, mean_e2el: float) -> bool:
        self._slowest = max(self._slowest, mean_e2el)
        wanted = max(self._seconds, WINDOW_E2EL * self._slowest)
        wanted = min(wanted, LONGEST_WINDOWS * self._seconds)
        return self._opened is not None and now() - self._opened >= wanted


@dataclasses.dataclass(frozen=True, slots=True)
class _Together(WindowRule):
    """Keeps a loop under load until the common window is over."""

    gate: _Gate | None = None

    def state(
        self, elapsed: float, mean_e2el: float | None, half_width_share: float
    ) -> WindowState:
        """Closed once the gate says so."""
        del elapsed, half_width_share
        over = self.gate is not None and self.gate.is_over(mean_e2el or 0.0)
        return WindowState.CLOSED if over else WindowState.OPEN


async def _window(
    study: _Study, arrangement: Arrangement, engines: Mapping[EngineKey, _Up], turn: int
) -> CommonWindow:
    bench, keys = study.bench, engine_keys(arrangement)
    loaded = [engines[key] for key in keys]
    idle = [up for key, up in engines.items() if key not in keys]
    for up in engines.values():
        await bench.until_idle(up.running)
    before = await _preemptions(bench, loaded)
    gate = _Gate(len(loaded), study.plan.seconds)
    watchers = [asyncio.ensure_future(_watch(bench, engines, gate)) for engines in (loaded, idle)]
    try:
        results = await _load_all(study, arrangement, loaded, gate, turn)
        gate.closed.set()
        said, said_idle = await asyncio.gather(*watchers)
    finally:
        # A cancelled watcher closes its window: that must happen before the engines are gone.
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
    return dataclasses.replace(
        common_window(results),
        preemptions=preempted(before, await _preemptions(bench, loaded)),
        telemetry=said,
        idle_cores=said_idle.cores_used if said_idle is not None else None,
    )


async def _watch(bench: Bench, engines: Sequence[_Up], gate: _Gate) -> Telemetry | None:
    """Return telemetry of the common window; None without engines or a source."""
    if bench.telemetry is None or not engines:
        return None
    await gate.opened_for_all.wait()
    window = await bench.telemetry.open(
        bench.device, tuple(up.running.handle.pid for up in engines)
    )
    try:
        await gate.closed.wait()
    finally:
        said = await window.close()
    return said


async def _preemptions(bench: Bench, engines: Sequence[_Up]) -> list[float | None]:
    """Return preempted requests of each engine so far; None if it does not answer or does not
    count.
    """
    counts: list[float | None] = []
    for up in engines:
        metrics: Mapping[str, float] = {}
        with contextlib.suppress(EngineError):
            metrics = (await bench.engines.report(up.running.handle)).metrics
        counts.append(next((metrics[name] for name in PREEMPTIONS if name in metrics), None))
    return counts


def preempted(before: Sequence[float | None], after: Sequence[float | None]) -> int:
    """Return requests preempted between two readings, for the engines that reported both."""
    return round(
        math.fsum(
            last - first
            for first, last in zip(before, after, strict=True)
            if first is not None and last is not None
        )
    )


async def _load_all(
    study: _Study,
    arrangement: Arrangement,
    loaded: Sequence[_Up],
    gate: _Gate,
    turn: int,
) -> list[ClosedLoopResult]:
    """Load all replicas until the common window is over; if an engine ends, end at once."""
    bench, seconds = study.bench, study.plan.seconds

    async def one(place: int, up: _Up) -> ClosedLoopResult:
        phase = 1 + place + len(loaded) * turn
        load = load_of(up.started.request, up.started.request.model.architecture, phase)
        try:
            with up.running.address() as address:
                return await closed_loop(
                    address,
                    load,
                    concurrency=up.started.batch,
                    window=_Together(min_seconds=seconds, gate=gate),
                    stall_seconds=bench.first_stall_seconds,
                    on_opened=gate.one_is_steady,
                )
        except LoadAbortedError as error:
            raise EngineError(
                f"{arrangement.name}: {error}", hint="See the engine's log in its run folder."
            ) from error

    async def everyone() -> list[ClosedLoopResult]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(i, up)) for i, up in enumerate(loaded)]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    work = everyone()
    for up in loaded:
        work = bench.while_alive(up.running, f"the windows of {arrangement.name}", work)
    results = await work
    for result in results:
        require_no_failures(result.records, f"in {arrangement.name}")
    return results


def common_window(results: Sequence[ClosedLoopResult]) -> CommonWindow:
    """Combine the results over the time in which all replicas were in their windows."""
    opened = max(result.opened for result in results)
    closed = min(result.closed for result in results)
    rates = [throughput(_timeline(result), opened, closed) for result in results]
    return CommonWindow(
        seconds=closed - opened,
        output_tokens_per_s=tuple(rate.output_tokens_per_s for rate in rates),
        half_widths=tuple(rate.half_width for rate in rates),
        samples=tuple(Samples.of_window(r.records, opened, closed) for r in results),
        batches=tuple(result.concurrency for result in results),
        # One thread drives all loops, so each result has the cost of all of them.
        instrument_cpu=max(result.cpu_share for result in results),
        saturated=next((s for r in results if (s := saturation(r.instrument))), ()),
    )


def _timeline(result: ClosedLoopResult) -> TokenTimeline:
    timeline = TokenTimeline()
    arrivals = (
        arrival
        for record in result.records
        for arrival in zip(record.chunk_times, record.chunk_tokens, strict=True)
    )
    for at, tokens in sorted(arrivals):
        timeline.add(at, tokens)
    return timeline
