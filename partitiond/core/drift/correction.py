"""Corrects the planner's figures after drift, and decides when to measure again. Pure.

Drift is found per replica. If most replicas of one profile are slower, the profile is wrong for
the present engines, and the planner's figures are corrected. If only one of many replicas is
slower, the cause is that replica's device.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Final

from partitiond.core.drift.detection import Figure, LedgerEntry, Verdict, pool_verdicts

FACTOR_STEP: Final = 0.05
FACTOR_LEAST: Final = 0.4
"""Step, and the least: a slower replica is broken, which a plan would hide. Both are chosen."""
FACTOR_CHANGE: Final = 0.1
"""Smallest change of a correction: each change makes plans outdated. Chosen, not measured."""


@dataclasses.dataclass(frozen=True, slots=True)
class Correction:
    """A factor on the planner's figures of one profile.

    Attributes:
        factor: on rates, below 1; latencies are divided by it.
        ratio: measured / predicted of the median slower replica; low, high: its 95 % interval.
        replicas: number of slower replicas.
        since: ISO 8601 UTC.
    """

    profile_id: str
    model: str
    hardware: str
    factor: float
    ratio: float
    low: float | None
    high: float | None
    replicas: int
    since: str


def correction_of(
    entries: Sequence[LedgerEntry], before: Correction | None, now: str
) -> Correction | None:
    """Return the correction that follows from the last entry of each replica of one profile.

    Only slower figures are corrected: a plan that promises more than was measured does harm, one
    that promises less does not, and a new profile will show the gain. Without a verdict of any
    replica the present correction stays: it may be why a plan moved the replicas away.

    Args:
        entries: at least one.
        before: the present correction.
        now: ISO 8601 UTC.
    """
    together = pool_verdicts(entries)
    if together is Verdict.LEARNING:
        return before
    if together is not Verdict.SLOWER:
        return None
    slow = [f for e in entries if (f := e.finding(Figure.PACE)) and f.verdict is Verdict.SLOWER]
    middle = sorted(slow, key=lambda f: f.ratio)[(len(slow) - 1) // 2]
    factor = factor_of(middle.ratio)
    if before is not None and abs(factor - before.factor) < FACTOR_CHANGE - 1e-9:
        return before
    first = entries[0]
    return Correction(
        profile_id=first.profile_id,
        model=first.model,
        hardware=first.hardware,
        factor=factor,
        ratio=middle.ratio,
        low=middle.low,
        high=middle.high,
        replicas=len(slow),
        since=now if before is None else before.since,
    )


def factor_of(ratio: float) -> float:
    """Return the factor on rates if everything takes `ratio` times as long."""
    steps = math.floor(1 / ratio / FACTOR_STEP + 1e-9) * FACTOR_STEP
    return round(min(1 - FACTOR_STEP, max(FACTOR_LEAST, steps)), 2)


def factor_for(corrections: Mapping[str, float], profile_id: str) -> float:
    """Return the factor of a profile; a derived one ("ID@mps-30") takes its source's factor."""
    source = profile_id.partition("@")[0]
    return corrections.get(profile_id, corrections.get(source, 1.0))


# -- when to measure again -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class QuietPolicy:
    """When a profile may be measured again automatically.

    Attributes:
        share: of the replicas' places: the mean in use over each window may not be larger.
        seconds: the longer window; the last minute has to be as quiet.
    """

    share: float = 0.3
    seconds: float = 600.0


def not_quiet(long: float | None, short: float | None, policy: QuietPolicy) -> str:
    """Explain why the time is not quiet; empty if it is quiet.

    Args:
        long, short: share of all places in use over the policy's window and over the last minute;
            None if unknown.
    """
    if long is None or short is None:
        return "waits for a quiet time: the proxy has not told the traffic for long enough"
    busiest = max(long, short)
    if busiest <= policy.share:
        return ""
    over = f"{policy.seconds / 60:.0f} minutes" if long >= short else "the last minute"
    return (
        f"waits for a quiet time: replicas use {busiest:.0%} of their places over {over}, "
        f"{policy.share:.0%} is quiet"
    )
