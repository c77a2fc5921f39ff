"""Finds the largest Poisson rate that an operating point holds, by a few open-loop trials.

A closed loop never queues, so its throughput does not tell how long requests wait when they arrive
at random. Here they arrive as a Poisson process, at most the operating point's batch is in the
engine, and the rest waits at the client as it would at the proxy; latency counts from arrival. A
rate is held if it can go on for ever (`profiler.sweep.stability`) and, with an SLO, the share
of good requests is the SLO's quantile or more; without an SLO, every request has to end well.

Few trials must do, because each lasts until there are enough arrivals to tell. They begin at 0.8 X
/ E[O] and close in from both sides; the last one repeats the best rate with other arrivals, because
the best of several noisy verdicts is biased towards luck, like the largest of noisy rates.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Final

from loadgen import OpenLoopResult, Outcome, Record, open_loop, poisson
from loadgen import Slo as LoadSlo
from loadgen import Workload as Load
from loadgen.results.statistics import is_good
from partitiond.core.errors import EngineError
from partitiond.core.model.spec import Slo
from partitiond.core.profile.confirmed import CapacityTrial
from partitiond.core.profile.record import CAPACITY_SHARE_UNCONFIRMED
from partitiond.profiler.sweep.bench import Running
from partitiond.profiler.sweep.stability import (
    ServedRequest,
    below_one,
    grows,
    share_interval,
    utilisation,
)
from partitiond.profiler.sweep.trial import REQUEST_SECONDS, require_no_failures

MAX_TRIALS: Final = 4
MIN_ARRIVALS: Final = 40
"""With fewer, the mean time in the engine is uncertain, and so is the stability of the queue."""
MAX_ARRIVALS: Final = 400
POWER_MARGIN: Final = 0.1
FALSE_HELD: Final = 0.05
"""A rate whose share of good requests is lower than the SLO's quantile by the margin is held with
at most this probability. Both are chosen, and give the number of arrivals; `python -m
bench.profiler.capacity_power` shows how often that errs."""
WARM_UP_LATENCIES: Final = 2.0
"""Mean latencies at the operating point before the window: one until the first requests are
through, one more for the engine to fill if its throughput curve is flat. Chosen."""
WINDOW_LATENCIES: Final = 3.0
"""Least length of a window in mean latencies: in less than two of them, a rate half as large again
as what the engine sustains is hardly visible. Chosen; see `bench.profiler.capacity_power`."""
DRAIN_LATENCIES: Final = 1.5
"""Mean latencies from the window's end to the end of the last counted request; part of the time
that a trial is expected to take. Assumed."""
MIN_SECONDS_FACTOR: Final = 2.0
"""Least length of a window, in shortest windows of the closed loop: 20 s by default. Chosen."""
STEP_DOWN: Final = 0.75
"""Factor to the next rate while no rate was held yet. Chosen, not measured."""
NARROW: Final = 1.08
"""A held and a failed rate this close leave nothing to find: trials differ by as much. Chosen."""


@dataclasses.dataclass(frozen=True, slots=True)
class OpenTrial:
    """One open-loop trial to make.

    Attributes:
        warm_up_seconds: arrivals before the window: until the first requests have ended, the
            engine is emptier than in its steady state.
        expected_seconds: whole time, with the warm-up and the end of the last counted request.
    """

    batch: int
    req_per_s: float
    warm_up_seconds: float
    seconds: float
    seed: int
    expected_seconds: float


def open_trial(
    batch: int,
    req_per_s: float,
    e2el_seconds: float,
    *,
    min_window_seconds: float,
    slo: Slo | None,
    seed: int,
) -> OpenTrial:
    """Return a trial with a window long enough for its verdict to mean something.

    Args:
        batch: limit in sequences.
        req_per_s: rate to try.
        e2el_seconds: mean end-to-end latency of the closed loop at this batch.
        min_window_seconds: shortest window of the closed loop.
        slo: bounds that are judged; None judges the queue alone.
        seed: of arrivals and prompts.
    """
    arrivals = MIN_ARRIVALS if slo is None else arrivals_needed(slo.quantile)
    warm_up = WARM_UP_LATENCIES * e2el_seconds
    seconds = max(
        MIN_SECONDS_FACTOR * min_window_seconds,
        arrivals / req_per_s,
        WINDOW_LATENCIES * e2el_seconds,
    )
    whole = warm_up + seconds + DRAIN_LATENCIES * e2el_seconds
    return OpenTrial(batch, req_per_s, warm_up, seconds, seed, whole)


@functools.cache
def arrivals_needed(quantile: float) -> int:
    """Return arrivals at which a rate whose share of good requests is 0.1 too low is rarely held.

    Rarely means in at most 5 % of trials, if the requests were independent. For a quantile of 95 %
    it is forty arrivals. The result is at least `MIN_ARRIVALS` and at most `MAX_ARRIVALS`.
    """
    share = max(0.0, quantile - POWER_MARGIN)
    for count in range(MIN_ARRIVALS, MAX_ARRIVALS):
        least = math.ceil(quantile * count - 1e-9)
        held = math.fsum(
            math.comb(count, good) * share**good * (1 - share) ** (count - good)
            for good in range(least, count + 1)
        )
        if held <= FALSE_HELD:
            return count
    return MAX_ARRIVALS


def next_rate(trials: Sequence[CapacityTrial], closed_loop_req_per_s: float) -> float | None:
    """Return the rate of the next trial, in requests/s; None if a further trial is not worth its
    time.

    Args:
        trials: finished trials, in order.
        closed_loop_req_per_s: X / E[O] at the operating point, which no open loop exceeds.
    """
    held, failed = confirmed_rate(trials), lowest_failed(trials)
    if not trials:
        return CAPACITY_SHARE_UNCONFIRMED * closed_loop_req_per_s
    if len(trials) >= MAX_TRIALS:
        return None
    if held is None:
        return STEP_DOWN * (failed or closed_loop_req_per_s)
    above = failed if failed is not None else closed_loop_req_per_s
    middle = (held + above) / 2
    if len(trials) == MAX_TRIALS - 1 or above < NARROW * held:
        tried = sum(math.isclose(t.req_per_s, held) for t in trials)
        return held if tried == 1 and len(trials) > 1 else None
    return middle


def confirmed_rate(trials: Sequence[CapacityTrial]) -> float | None:
    """Return the largest rate that was held and that no trial at the same or a lower rate
    disproved.
    """
    failed = lowest_failed(trials)
    held = [t.req_per_s for t in trials if t.held and (failed is None or t.req_per_s < failed)]
    return max(held, default=None)


def lowest_failed(trials: Sequence[CapacityTrial]) -> float | None:
    """Return the lowest rate that was not held."""
    return min((t.req_per_s for t in trials if not t.held), default=None)


def judge(
    result: OpenLoopResult, trial: OpenTrial, slo: Slo | None, mean_output_tokens: float
) -> CapacityTrial:
    """Judge whether the rate was held.

    A rate is held if the whole 95 % interval of the utilisation lies below 1, the requests in the
    system do not grow, and the share of good arrivals is the SLO's quantile or more (without an
    SLO: all ended well). A question that the data leave open counts as not held.
    """
    counted = [r for r in result.arrivals if r.outcome is not Outcome.CANCELLED]
    flags = [_good(record, slo) for record in counted]
    share = sum(flags) / len(flags) if flags else 0.0
    needed = utilisation(
        [_served(r) for r in counted if r.outcome is Outcome.OK],
        trial.req_per_s,
        trial.batch,
        mean_output_tokens,
    )
    steady = below_one(needed) and not grows(
        [_served(record) for record in result.records], result.opened, result.closed
    )
    return CapacityTrial(
        batch=trial.batch,
        req_per_s=trial.req_per_s,
        attainment=share,
        seconds=trial.seconds,
        held=steady and share >= (1.0 if slo is None else slo.quantile),
        arrivals=len(counted),
        attainment_interval=share_interval(flags),
        utilisation=None if needed is None else needed.share,
        utilisation_half_width=None if needed is None else needed.half_width,
    )


def _good(record: Record, slo: Slo | None) -> bool:
    if slo is None:
        return record.outcome is Outcome.OK
    return is_good(record, LoadSlo(slo.ttft_seconds, slo.tpot_seconds, slo.quantile))


def _served(record: Record) -> ServedRequest:
    assert record.scheduled is not None  # an open loop schedules every request
    return ServedRequest(
        arrived=record.scheduled,
        sent=record.scheduled if record.sent is None else record.sent,
        ended=math.inf if record.end is None else record.end,
        output_tokens=record.wanted_output_tokens,
    )


async def run_open_trial(
    engine: Running, load: Load, trial: OpenTrial, slo: Slo | None
) -> CapacityTrial:
    """Run one open-loop trial against an engine that is up.

    Raises:
        EngineError: requests failed, or none ended: that shows a fault, not the engine's speed.
    """
    with engine.address() as address:
        result = await open_loop(
            address,
            dataclasses.replace(load, seed=trial.seed),
            arrivals=poisson(trial.req_per_s, trial.seed),
            seconds=trial.seconds,
            warmup_seconds=trial.warm_up_seconds,
            timeout_seconds=REQUEST_SECONDS,
            max_in_flight=trial.batch,
            keep_sending=True,
        )
    require_no_failures(result.records, f"in open loop at {trial.req_per_s:.3g} requests/s")
    if result.arrivals and not result.count(Outcome.OK):
        raise EngineError(
            f"none of {len(result.arrivals)} requests of an open-loop trial ended well.",
            hint=f"See the engine's log, {engine.handle.log_path}.",
        )
    mean_output = load.output_tokens if load.lengths is None else load.lengths.mean_output
    return judge(result, trial, slo, mean_output)
