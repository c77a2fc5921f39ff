"""Checks how far a transferred profile may be off: on measured profiles, growing with distance."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

from partitiond.core.performance.transfer_fit import (
    Source,
    Subject,
    TermFit,
    distinct_batches,
    fit_terms,
    usable_points,
)
from partitiond.core.profile.record import RATE_MARGIN, ProfileKind

DEFAULT_ERROR: Final = 0.10
"""Error at distance 0 if nothing could be checked: the common error of predictions of step times by
parts, on hardware that they were calibrated on. Assumed; `python -m bench.profiler.transfer` shows
errors beside it."""

ONE_BATCH_ERROR: Final = RATE_MARGIN[ProfileKind.ESTIMATED]
"""Least error of a transfer from a single batch, which has one factor for all terms: chosen as that
of an estimate."""

LEAST_ERROR: Final = 0.02
"""Least error at distance 0: a check of a few points that shows less was lucky. Chosen."""

OTHER_DEVICE_DISTANCE: Final = 0.5
"""Other kinds of device differ by more than datasheets tell, as in caches and clock. A guess."""


def predicted_output_tokens_per_s(fit: TermFit, subject: Subject, batch: int) -> float:
    """Return X(batch) of a subject by calibrated terms, in tokens/s."""
    return batch / fit.seconds(subject.terms(batch))


def distance(source: Subject, target: Subject, fit: TermFit) -> float:
    """Return the distance of a target from a measured source, in doublings; 0 for the same thing.

    Each term's ratio counts by the term's share of the target's round, at a batch of 16.
    """
    batch = 16
    there, here = fit.parts(target.terms(batch)), fit.parts(source.terms(batch))
    total = math.fsum(there)
    doublings = math.fsum(
        new / total * abs(math.log2(new / old))
        for new, old in zip(there, here, strict=True)
        if new > 0 and old > 0
    )
    other = source.hardware.key != target.hardware.key
    return doublings + (OTHER_DEVICE_DISTANCE if other else 0.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One measured profile, predicted from the others.

    Attributes:
        profile_id: the profile that was left out.
        error_share: root mean square of the relative error of X over its points.
        distance: its distance from the nearest of the others.
    """

    profile_id: str
    error_share: float
    distance: float


def leave_one_out(sources: Sequence[Source]) -> tuple[Check, ...]:
    """Predict each source from the others; empty for fewer than two."""
    found = []
    for n, left_out in enumerate(sources):
        others = [*sources[:n], *sources[n + 1 :]]
        points = usable_points(left_out.profile)
        if not points or not any(usable_points(o.profile) for o in others):
            continue
        fit = fit_terms(others)
        errors = [
            predicted_output_tokens_per_s(fit, left_out.subject, p.batch) / p.output_tokens_per_s
            - 1
            for p in points
        ]
        mean_square = math.fsum(e * e for e in errors) / len(errors)
        away = min(distance(o.subject, left_out.subject, fit) for o in others)
        found.append(Check(left_out.profile.id, math.sqrt(mean_square), away))
    return tuple(found)


def error_band(sources: Sequence[Source], target: Subject, fit: TermFit) -> float:
    """Return the half-width of the band of throughput, as a share: noise, misfit, and error by
    distance.
    """
    away = min(distance(source.subject, target, fit) for source in sources)
    checks = leave_one_out(sources)
    if checks:
        each = max(LEAST_ERROR, *(c.error_share / (1 + c.distance) for c in checks))
    else:
        each = DEFAULT_ERROR
    found = math.hypot(_noise(sources), fit.residual_share, each * (1 + away))
    return min(1.0, found if distinct_batches(sources) > 1 else max(found, ONE_BATCH_ERROR))


def _noise(sources: Sequence[Source]) -> float:
    """Return the mean half-width of the points' intervals, as a share."""
    shares = [
        point.half_width / point.output_tokens_per_s
        for source in sources
        for point in usable_points(source.profile)
    ]
    return math.fsum(shares) / len(shares)
