"""Capacity: the largest Poisson rate an operating point holds, found by a few open-loop trials.

A closed loop never queues, so its throughput says nothing of what waits when requests arrive as
they like. Here they arrive as a Poisson process, at most the operating point's batch is in the
engine, and the rest waits at the client as it would at the proxy; latency counts from arrival.
With an SLO a rate is held when the share of good requests is the SLO's quantile or more; without
one, when the queue does not grow.

Few trials must do, because each lasts as long as it takes forty requests to arrive. They begin at
0.8 X / E[O], close in from both sides, and the last one repeats the best rate with other arrivals:
the best of several noisy verdicts is biased towards luck, like the largest of noisy rates.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

from loadgen import OpenLoopResult, Outcome, open_loop, poisson
from loadgen import Slo as LoadSlo
from loadgen import Workload as Load
from partitiond.core.errors import EngineError
from partitiond.core.profile import CAPACITY_SHARE_UNCONFIRMED, CapacityTrial
from partitiond.core.spec import Slo
from partitiond.profiler.bench import Running
from partitiond.profiler.trial import REQUEST_SECONDS

MAX_TRIALS: Final = 4
MIN_ARRIVALS: Final = 40
"""Below it one late request decides about a quantile of 95 %."""
MIN_SECONDS_FACTOR: Final = 2.0
"""In the shortest windows of the closed loop: 20 s by default."""
MAX_SECONDS_FACTOR: Final = 2.0
"""In the longest windows of the closed loop: 120 s by default."""
STEP_DOWN: Final = 0.75
"""To the next rate while none was held yet."""
NARROW: Final = 1.08
"""Held and not held rates this close leave nothing to find: two trials differ by as much."""
QUEUE_GROWTH: Final = 0.5
"""Without an SLO: growth of the mean wait from the first half of a window to the second, in mean
service times, from which the queue is taken to grow."""
MIN_HALF: Final = 2


@dataclasses.dataclass(frozen=True, slots=True)
class OpenTrial:
    """One open-loop trial to make.

    Attributes:
        warm_up_seconds: arrivals before the window: until the first requests have ended, the
            engine is emptier than it will be.
    """

    batch: int
    req_per_s: float
    warm_up_seconds: float
    seconds: float
    seed: int


def next_rate(trials: Sequence[CapacityTrial], closed_loop_req_per_s: float) -> float | None:
    """The rate of the next trial, in requests/s; None when no more is worth its time.

    Args:
        trials: those made, in order.
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
        return held if _times_tried(trials, held) == 1 and len(trials) > 1 else None
    return middle


def confirmed_rate(trials: Sequence[CapacityTrial]) -> float | None:
    """The largest rate that was held and that no trial at the same or a lower rate disproved."""
    failed = lowest_failed(trials)
    held = [t.req_per_s for t in trials if t.held and (failed is None or t.req_per_s < failed)]
    return max(held, default=None)


def lowest_failed(trials: Sequence[CapacityTrial]) -> float | None:
    """The lowest rate that was not held."""
    return min((t.req_per_s for t in trials if not t.held), default=None)


def _times_tried(trials: Sequence[CapacityTrial], rate: float) -> int:
    return sum(math.isclose(t.req_per_s, rate) for t in trials)


def trial_seconds(rate: float, min_window_seconds: float, max_window_seconds: float) -> float:
    """How long to count arrivals: long enough for forty of them, within bounds."""
    least = MIN_SECONDS_FACTOR * min_window_seconds
    most = max(least, MAX_SECONDS_FACTOR * max_window_seconds)
    return min(most, max(least, MIN_ARRIVALS / rate))


def judge(result: OpenLoopResult, trial: OpenTrial, slo: Slo | None) -> CapacityTrial:
    """Whether the rate was held."""
    if slo is not None:
        bounds = LoadSlo(slo.ttft_seconds, slo.tpot_seconds, slo.quantile)
        share = result.attainment(bounds) or 0.0
        held = share >= slo.quantile
    else:
        arrivals = result.arrivals
        share = result.count(Outcome.OK) / len(arrivals) if arrivals else 0.0
        waits = [
            (r.sent - r.scheduled, r.end - r.sent)
            for r in arrivals
            if r.sent is not None and r.scheduled is not None and r.end is not None
        ]
        held = share == 1.0 and not queue_grows(waits)
    return CapacityTrial(trial.batch, trial.req_per_s, share, trial.seconds, held)


def queue_grows(waits: Sequence[tuple[float, float]]) -> bool:
    """Whether requests wait longer and longer for a place.

    Args:
        waits: (seconds waited for a place, seconds served), in order of arrival.
    """
    half = len(waits) // 2
    if half < MIN_HALF:
        return False
    first = math.fsum(wait for wait, _ in waits[:half]) / half
    second = math.fsum(wait for wait, _ in waits[-half:]) / half
    service = math.fsum(served for _, served in waits) / len(waits)
    return second - first > QUEUE_GROWTH * service


async def run_open_trial(
    engine: Running, load: Load, trial: OpenTrial, slo: Slo | None
) -> CapacityTrial:
    """One open-loop trial against an engine that is up.

    Raises:
        EngineError: not one request ended well: the engine, not its speed, is what was seen.
    """
    result = await open_loop(
        engine.handle.socket_path,
        dataclasses.replace(load, seed=trial.seed),
        arrivals=poisson(trial.req_per_s, trial.seed),
        seconds=trial.seconds,
        warmup_seconds=trial.warm_up_seconds,
        timeout_seconds=REQUEST_SECONDS,
        max_in_flight=trial.batch,
    )
    if result.arrivals and not result.count(Outcome.OK):
        raise EngineError(
            f"none of {len(result.arrivals)} requests of an open-loop trial ended well.",
            hint=f"See the engine's log, {engine.handle.log_path}.",
        )
    return judge(result, trial, slo)
