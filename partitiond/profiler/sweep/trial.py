"""Runs one trial: holds a batch in flight against a live engine, and records what it sees."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Final

from loadgen import (
    ClosedLoopResult,
    LiveState,
    Outcome,
    Record,
    Samples,
    WindowRule,
    closed_loop,
    saturation,
)
from loadgen import Slo as LoadSlo
from loadgen import Workload as Load
from loadgen.results.statistics import is_good
from partitiond.core.errors import EngineError
from partitiond.core.model.spec import Slo
from partitiond.core.profile.points import Telemetry
from partitiond.profiler.search import NextTrial, Visit
from partitiond.profiler.sweep.bench import Bench, Running
from partitiond.profiler.sweep.sampling import EngineSamples, Sampler, summarise_engine
from partitiond.profiler.sweep.stall import E2EL_FACTOR

REQUEST_SECONDS: Final = 3600.0
"""Limit of one request: a slow device at a large batch takes minutes; a dead engine is noticed by
its process, and a hung one by its silence (`profiler.sweep.stall`)."""

FAILED: Final = frozenset({Outcome.ERROR, Outcome.TIMEOUT, Outcome.REFUSED})


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One finished trial.

    Attributes:
        proposal: the requested batch and window.
        seconds: whole wall time, ramp included.
        samples: latencies inside the window, in the order they became known.
        instrument_cpu: share of one core that the load generator used.
        mismatches: requests whose chunks and final usage disagree on the output length.
        short: requests that ended well with fewer output tokens than were asked for.
        prompt_tokens: of the requests whose first token came inside the window.
        ended, good: requests that ended inside the window, and those of them within the SLO
            (0 and 0 without an SLO).
        telemetry, telemetry_seconds: of the device, and how long it was collected.
        peak_bytes: peak memory of the engine up to the trial's end.
        saturated: why the load generator's figures cannot be trusted; empty if they can.
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
    short: int = 0
    prompt_tokens: int = 0
    ended: int = 0
    good: int = 0
    telemetry: Telemetry | None = None
    telemetry_seconds: float = 0.0
    peak_bytes: int = 0
    saturated: tuple[str, ...] = ()

    @property
    def batch(self) -> int:
        """Requests in flight."""
        return self.proposal.batch

    @property
    def kv_limited(self) -> bool:
        """Whether the KV cache limited the trial, so that its batch cannot be the knee."""
        return self.engine.preemptions > 0 or self.engine.starved

    @property
    def mean_e2el_seconds(self) -> float:
        """Mean end-to-end latency; the window's length if no request ended in it."""
        e2el = self.samples.e2el
        return math.fsum(e2el) / len(e2el) if e2el else self.window_seconds

    @property
    def visit(self) -> Visit:
        """The facts about this trial that the search needs."""
        return Visit(
            batch=self.batch,
            purpose=self.proposal.purpose,
            output_tokens_per_s=self.output_tokens_per_s,
            half_width=self.half_width,
            seconds=self.seconds,
            e2el_seconds=self.mean_e2el_seconds,
            kv_limited=self.kv_limited,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class FailedTrial:
    """A trial that the engine did not survive.

    Attributes:
        seconds: from the trial's beginning.
        reason: what ended the engine, one line.
    """

    proposal: NextTrial
    seconds: float
    reason: str

    @property
    def visit(self) -> Visit:
        """The facts that the search needs: the engine does not hold this batch."""
        return Visit(
            batch=self.proposal.batch,
            purpose=self.proposal.purpose,
            output_tokens_per_s=0.0,
            half_width=0.0,
            seconds=self.seconds,
            e2el_seconds=self.seconds,
            died=True,
        )


async def run_trial(
    bench: Bench,
    engine: Running,
    load: Load,
    proposal: NextTrial,
    *,
    half_width_share: float,
    slo: Slo | None = None,
    stall_seconds: float | None = None,
    progress: Callable[[LiveState], None] | None = None,
) -> Trial:
    """Hold `proposal.batch` requests in flight and measure one window.

    Args:
        bench: runs the engine and listens to the device.
        engine: the started engine.
        load: what to send.
        proposal: batch and bounds of the window.
        half_width_share: the window closes once the interval is at most this share, unless the
            proposal says how narrow it must be.
        slo: bounds that good requests meet.
        stall_seconds: silence after which the engine counts as hung; None if the engine's speed
            is not known.
        progress: called a few times a second.

    Raises:
        LoadAbortedError: request after request failed, or (StalledError) none got a token.
        EngineError: requests failed, inside the window or before it.
    """
    began = time.perf_counter()
    if stall_seconds is None:
        stall_seconds = max(bench.first_stall_seconds, E2EL_FACTOR * proposal.expected_seconds)
    sampler = Sampler(bench, engine)
    try:
        with engine.address() as address:
            result = await closed_loop(
                address,
                load,
                concurrency=proposal.batch,
                window=WindowRule(
                    min_seconds=proposal.min_window_seconds,
                    max_seconds=proposal.max_window_seconds,
                    half_width_share=proposal.half_width_share or half_width_share,
                ),
                timeout_seconds=REQUEST_SECONDS,
                stall_seconds=stall_seconds,
                progress=progress,
                on_opened=sampler.start,
            )
    finally:
        await sampler.stop()
    require_no_failures(result.records, f"with {proposal.batch} in flight")
    trial = _trial_of(proposal, result, slo)
    return dataclasses.replace(
        trial,
        engine=await sampler.samples(),
        telemetry=sampler.telemetry,
        telemetry_seconds=sampler.telemetry_seconds,
        peak_bytes=await bench.peak_bytes(engine),
        seconds=time.perf_counter() - began,
    )


def _trial_of(proposal: NextTrial, result: ClosedLoopResult, slo: Slo | None) -> Trial:
    """Return the trial as the load generator alone saw it."""
    ended, good = count_good(result, slo)
    return Trial(
        proposal=proposal,
        output_tokens_per_s=result.throughput.output_tokens_per_s,
        half_width=result.throughput.half_width,
        wide=result.wide,
        window_seconds=result.window_seconds,
        seconds=result.ramp_seconds + result.window_seconds,
        samples=result.samples,
        engine=summarise_engine(()),
        instrument_cpu=result.cpu_share,
        mismatches=result.mismatches,
        short=count_short(result.records),
        prompt_tokens=prompt_tokens(result),
        ended=ended,
        good=good,
        saturated=saturation(result.instrument),
    )


def count_good(result: ClosedLoopResult, slo: Slo | None) -> tuple[int, int]:
    """Return requests that ended in the window, and those within the SLO; (0, 0) without an SLO."""
    if slo is None:
        return 0, 0
    bounds = LoadSlo(slo.ttft_seconds, slo.tpot_seconds, slo.quantile)
    ended = [
        record
        for record in result.records
        if record.end is not None
        and result.opened <= record.end < result.closed
        and record.outcome not in {Outcome.CANCELLED, Outcome.PENDING}
    ]
    return len(ended), sum(is_good(record, bounds) for record in ended)


def count_short(records: Sequence[Record]) -> int:
    """Count answers that ended before their length: with them X / E[O] is not the rate."""
    return sum(
        record.outcome is Outcome.OK and record.output_tokens < record.wanted_output_tokens
        for record in records
    )


def prompt_tokens(result: ClosedLoopResult) -> int:
    """Return prompt tokens of the requests whose first token came inside the window."""

    def counted(record: Record) -> int:
        return record.prompt_tokens or record.wanted_prompt_tokens

    return sum(
        counted(record)
        for record in result.records
        if record.first_token is not None and result.opened <= record.first_token < result.closed
    )


def require_no_failures(records: Sequence[Record], doing: str) -> None:
    """Refuse figures from a time when requests failed: an engine that fails some serves the others
    faster, so no client would get the throughput or the latency of that window.

    Raises:
        EngineError: some requests failed; being cut off at the end of a loop is no failure.
    """
    failed = [record for record in records if record.outcome in FAILED]
    if failed:
        raise EngineError(
            f"{len(failed)} of {len(records)} requests failed {doing}, "
            f"the first with: {failed[0].error or failed[0].outcome}.",
            hint="A window with failed requests measures nothing; see the engine's log.",
            facts={"failed": len(failed), "status": failed[0].status},
        )
