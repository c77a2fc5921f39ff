"""Says what engines side by side gain over a single one, with an interval. Pure."""

import dataclasses
import math
from collections.abc import Sequence

from bench.gpu_check.side_by_side import Together
from partitiond.core.profile.sharing import ReplicationRun
from partitiond.profiler.search import combine
from partitiond.profiler.search.rates import BETWEEN_WINDOWS


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """Output tokens/s over all windows of an arm, and the 95 % half-width."""

    tokens_per_s: float
    half_width: float

    @property
    def share(self) -> float:
        """Half-width by rate; infinite without a token."""
        return self.half_width / self.tokens_per_s if self.tokens_per_s > 0 else math.inf


def rate_of(windows: Sequence[Together]) -> Rate:
    """Pool an arm's windows, as the profiler pools those of a batch.

    Arms are measured one after the other, so that the interval of a single window, too, has to hold
    what speeds differ by from window to window.
    """
    rates, widths = zip(*((w.output_tokens_per_s, w.half_width) for w in windows), strict=True)
    mean, width = combine(rates, widths)
    between = 2 * BETWEEN_WINDOWS * mean if len(windows) == 1 else 0.0
    return Rate(mean, math.hypot(width, between))


@dataclasses.dataclass(frozen=True, slots=True)
class Gain:
    """A ratio of two rates and its 95 % half-width (first order, as for independent rates)."""

    ratio: float
    half_width: float

    @property
    def verdict(self) -> str:
        """What the interval shows."""
        if self.ratio - self.half_width > 1:
            return "gain"
        return "loss" if self.ratio + self.half_width < 1 else "no gain shown"


def gain(ours: Rate, single: Rate) -> Gain:
    """Compare with the single engine."""
    if single.tokens_per_s <= 0:
        return Gain(math.inf, math.inf)
    ratio = ours.tokens_per_s / single.tokens_per_s
    return Gain(ratio, ratio * math.hypot(ours.share, single.share) if ratio else math.inf)


def union_of(
    known: Sequence[ReplicationRun], new: Sequence[ReplicationRun]
) -> tuple[ReplicationRun, ...]:
    """All runs, by number of replicas; a repeated run replaces the earlier one."""
    latest = {(run.replicas, run.batch_each, run.cores_each): run for run in (*known, *new)}
    return tuple(latest[kind] for kind in sorted(latest))
