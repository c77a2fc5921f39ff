"""Decides whether a profile is wrong, and when it may be measured again. Pure.

Drift is found per replica. If most replicas of one profile are slower, the profile is wrong for
the present engines: plans take it for stale until it is measured again. If only one of many
replicas is slower, the cause is that replica's device.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

from partitiond.core.drift.detection import Figure, LedgerEntry, Verdict

MOST: Final = 0.5
"""From this share of a profile's replicas on, the profile is wrong, and not a device. Chosen."""


def pooled(entries: Sequence[LedgerEntry]) -> Verdict:
    """Return the joint verdict on one profile, from the last entry of each of its replicas.

    The verdict is slower (or faster) if at least `MOST` of the replicas with a verdict are.
    """
    sure = [v for e in entries if (v := _pace(e)) is not Verdict.LEARNING]
    for verdict in (Verdict.SLOWER, Verdict.FASTER):
        if sure and sure.count(verdict) >= MOST * len(sure):
            return verdict
    return Verdict.HOLDS if sure else Verdict.LEARNING


def _pace(entry: LedgerEntry) -> Verdict:
    found = entry.finding(Figure.PACE)
    return Verdict.LEARNING if found is None else found.verdict


def ratio_of(entries: Sequence[LedgerEntry], verdict: Verdict) -> float:
    """Return measured / predicted of the median replica of this verdict; at least one has it."""
    own = sorted(f.ratio for e in entries if (f := e.finding(Figure.PACE)) and f.verdict is verdict)
    return own[(len(own) - 1) // 2]


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
