"""Predicts throughput under other lengths from profiles of several workloads.

A profile of one workload cannot separate the cost of a prompt token from that of an output token
or of a longer context, because all of them grow with the batch alike. Two workloads of the same
model on the same partition separate some of these costs, three separate all. A step time fitted to
them predicts throughput under further lengths. A measured rate is rescaled by the ratio of two
predictions, which keeps the part of the measured rate that the fit does not explain.

How far such a prediction holds depends on how far apart the measured workloads are. Two that are
nearly the same separate nothing but their noise; predictions from them would be off by more than
half where it matters. So lengths are predicted only if they are no farther from a measured
workload than the measured workloads are from each other.
"""

import dataclasses
import math
from collections.abc import Sequence

from partitiond.core.performance.step_time import (
    fit,
    predict_output_tokens_per_s,
    rescaled,
    samples_of,
    tells_lengths,
)
from partitiond.core.performance.transfer_check import Check
from partitiond.core.performance.transfer_fit import Source, Subject, usable_points
from partitiond.core.profile.confirmed import StepTime
from partitiond.core.profile.points import OperatingPoint


@dataclasses.dataclass(frozen=True, slots=True)
class LengthShift:
    """A step time that separates the costs of lengths, and the profiles it was fitted to.

    Attributes:
        step: fitted to all points of the sources.
        sources: profiles of one model on one partition, of several workloads.
    """

    step: StepTime
    sources: tuple[Source, ...]

    def output_tokens_per_s(self, wanted: Subject, batch: int) -> float:
        """Return X(batch) of the subject, from the nearest workload's nearest point."""
        return self.from_source(self.nearest(wanted), wanted, batch)

    def from_source(self, source: Source, wanted: Subject, batch: int) -> float:
        """Return X(batch) of the subject, from one of the sources."""
        near = nearest_point(source, batch)
        limit = wanted.max_num_batched_tokens
        measured = source.profile.workload
        there = predict_output_tokens_per_s(self.step, measured, near.batch, limit)
        here = predict_output_tokens_per_s(self.step, measured, batch, limit)
        # For a batch that was not measured, the fit is taken to err as at the nearest batch.
        rate = near.output_tokens_per_s * here / there
        return rescaled(
            self.step, rate, measured, wanted.workload, batch, max_num_batched_tokens=limit
        )

    def nearest(self, wanted: Subject) -> Source:
        """Return the source whose requests are most like the wanted ones."""
        return min(self.sources, key=lambda source: _apart(source.subject, wanted))


def shift_of(sources: Sequence[Source], wanted: Subject) -> LengthShift | None:
    """Fit a step time to the sources that differ from the subject in lengths alone.

    Returns None if these sources cover fewer than two workloads, or are too alike to predict the
    wanted lengths; then only the terms of a roofline can predict them.

    Args:
        sources: measured profiles.
        wanted: what is to be predicted.
    """
    alike = tuple(
        s for s in sources if _same_but_lengths(s.subject, wanted) and usable_points(s.profile)
    )
    samples = [sample for source in alike for sample in samples_of(source.profile)]
    step = fit(samples, wanted.max_num_batched_tokens)
    if step is None or not tells_lengths(step):
        return None
    shift = LengthShift(step, alike)
    reach = max(_apart(one.subject, other.subject) for one in alike for other in alike)
    within = shift_distance(shift, wanted) <= reach
    return shift if within else None


def checks_of(shift: LengthShift) -> tuple[Check, ...]:
    """Predict each workload from the others, if they reach it; empty for fewer than three."""
    found = []
    for n, left_out in enumerate(shift.sources):
        others = [*shift.sources[:n], *shift.sources[n + 1 :]]
        points = usable_points(left_out.profile)
        known = shift_of(others, left_out.subject)
        if known is None or not points:
            continue
        errors = [
            known.output_tokens_per_s(left_out.subject, p.batch) / p.output_tokens_per_s - 1
            for p in points
        ]
        mean_square = math.fsum(error**2 for error in errors) / len(errors)
        away = _apart(known.nearest(left_out.subject).subject, left_out.subject)
        found.append(Check(left_out.profile.id, math.sqrt(mean_square), away))
    return tuple(found)


def shift_distance(shift: LengthShift, wanted: Subject) -> float:
    """Return the distance from the wanted lengths to the nearest measured ones, in doublings; 0 if
    equal.
    """
    return _apart(shift.nearest(wanted).subject, wanted)


def nearest_point(source: Source, batch: int) -> OperatingPoint:
    """Return the usable point of that batch, or of the nearest one by ratio."""
    return min(usable_points(source.profile), key=lambda p: abs(math.log(p.batch / batch)))


def _same_but_lengths(one: Subject, other: Subject) -> bool:
    def key(subject: Subject) -> tuple[object, ...]:
        return (
            subject.model,
            subject.hardware.key,
            subject.size,
            subject.dtype,
            subject.quantization,
            subject.kv_cache_dtype,
            subject.max_num_batched_tokens,
        )

    return key(one) == key(other)


def _apart(one: Subject, other: Subject) -> float:
    """Return the larger of two distances in doublings: tokens computed per output token, and
    context.
    """
    here, there = (
        ((m.p + m.o) / m.o, m.occupancy_mean)
        for m in (one.workload.moments, other.workload.moments)
    )
    return max(abs(math.log2(new / old)) for new, old in zip(there, here, strict=True))
