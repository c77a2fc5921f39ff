"""Transfers profiles: predicts one on a device or partition from profiles measured elsewhere.

The step time is that of estimates. The factors of `core.performance.transfer_fit` are carried over,
one per term, never throughput as a whole: twice the cores halve the arithmetic but not the work per
step; a model of twice the weights doubles what is read but not what a sequence costs the host.

The error of a prediction is checked if there are data to check it on: with several measured
profiles each is predicted from the others, and the worst error found makes the band. With one
profile, a default stands in. The band grows with the distance from what was measured.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.numbers.bisection import largest
from partitiond.core.performance.estimate import partition_bytes
from partitiond.core.performance.footprint import (
    BLOCK_TOKENS,
    MAX_BATCH,
    cache_tokens,
    kv_tokens,
)
from partitiond.core.performance.latency import e2el_latency, itl_latency, ttft_latency
from partitiond.core.performance.rounds import RoundCase
from partitiond.core.performance.transfer_check import (
    DEFAULT_ERROR,
    Check,
    distance,
    error_band,
    leave_one_out,
)
from partitiond.core.performance.transfer_fit import (
    Source,
    Subject,
    TermFit,
    distinct_batches,
    engine_argument,
    fit_terms,
    least_seconds,
    measured_round,
    usable_points,
)
from partitiond.core.profile.knee import TOLERANCE, find_knee
from partitiond.core.profile.points import (
    Footprint,
    Knee,
    Latency,
    LimitedBy,
    OperatingPoint,
    Telemetry,
)
from partitiond.core.profile.record import Profile, ProfileKind, Provenance, Transfer
from partitiond.core.units import Bytes

BATCH_REACH: Final = 2
"""Batches are predicted up to this multiple of the largest measured one; of a single one down to
this part of it, too. Chosen, not measured."""


def transfer_profile(
    sources: Sequence[Source],
    subject: Subject,
    max_model_len: int,
    *,
    profile_id: str,
    created_at: str,
    partitiond_version: str = "",
) -> Profile:
    """Predict a profile from measured ones.

    Args:
        sources: at least one; of the same kind of device as the target.
        subject: the model on its partition that a profile is wanted of.
        max_model_len: context length of the engine, in tokens.
        profile_id: identifier to give it.
        created_at: ISO 8601, UTC.
        partitiond_version: for the provenance.

    Raises:
        SpecError: there is nothing to learn from, or the sources say nothing about the target.
    """
    _check(sources, subject)
    fit = fit_terms(sources)
    nearest = min(sources, key=lambda s: distance(s.subject, subject, fit))
    found = _Transfer(subject, max_model_len, fit, nearest, _footprint_offset(nearest))
    most, limited_by = _largest(sources, found)
    points = tuple(found.point(batch) for batch in _batches(sources, most))
    knee = (
        find_knee(points, capped_by=limited_by)
        if points
        else Knee(None, None, None, TOLERANCE, 0.0, LimitedBy.MEMORY, 0)
    )
    return Profile(
        id=profile_id,
        model=subject.model,
        kind=ProfileKind.TRANSFERRED,
        hardware=subject.hardware.key,
        size=subject.size,
        workload=subject.workload,
        dtype=subject.dtype,
        points=points,
        knee=knee,
        footprint=found.footprint(max(1, most)),
        kv_cache_tokens=cache_tokens(
            max(1, most), subject.workload, max_model_len, subject.hardware.kind
        ),
        provenance=_provenance(sources, found, created_at, partitiond_version),
        max_num_batched_tokens=subject.max_num_batched_tokens,
        kv_cache_dtype=subject.kv_cache_dtype,
        variant=nearest.profile.variant if nearest.profile.model == subject.model else "",
        transfer=_transfer(sources, subject, fit),
    )


def _check(sources: Sequence[Source], subject: Subject) -> None:
    if not any(usable_points(source.profile) for source in sources):
        raise SpecError(
            "a transfer needs a measured profile with at least one point.",
            hint="Measure one: partitiond profile MODEL.",
        )
    for source in sources:
        profile = source.profile
        if profile.kind is not ProfileKind.MEASURED:
            raise SpecError(
                f"the profile {profile.id} is {profile.kind.value}, not measured.",
                hint="Only measured profiles can be transferred: errors would add up unseen.",
                facts={"profile": profile.id},
            )
        here, there = source.subject.hardware.kind, subject.hardware.kind
        if here is not there:
            raise SpecError(
                f"the profile {profile.id} was measured on a {here.upper()}; it says nothing "
                f"about a {there.upper()}.",
                hint="Estimate it instead: partitiond tools estimate MODEL --hardware NAME.",
                facts={"profile": profile.id},
            )


def _transfer(sources: Sequence[Source], subject: Subject, fit: TermFit) -> Transfer:
    nothing = f"one profile, nothing to check it on: {DEFAULT_ERROR:.0%} assumed at distance 0"
    return Transfer(
        source_ids=tuple(source.profile.id for source in sources),
        method=f"step time by terms, each scaled by its roofline; {fit.points} points of "
        f"{distinct_batches(sources)} batches explained within {fit.residual_share:.1%}; "
        f"{_proof(leave_one_out(sources), nothing)}",
        error_share=error_band(sources, subject, fit),
    )


def _proof(checks: Sequence[Check], nothing: str) -> str:
    if not checks:
        return nothing
    worst = max(checks, key=lambda c: c.error_share)
    return (
        f"each profile predicted from the others is off by {worst.error_share:.1%} at most "
        f"({worst.profile_id})"
    )


def _batches(sources: Sequence[Source], most: int) -> tuple[int, ...]:
    """Return the measured batches and powers of two, up to the largest; those near it where a
    single batch was measured.
    """
    measured = {p.batch for source in sources for p in usable_points(source.profile)}
    powers = {2**n for n in range(most.bit_length())}
    least = min(measured) / BATCH_REACH if len(measured) == 1 else 1
    return tuple(sorted(b for b in measured | powers if least <= b <= most))


def _largest(sources: Sequence[Source], wanted: "_Transfer") -> tuple[int, LimitedBy]:
    """Return the largest batch to predict: it fits into memory, within reach of the measured
    batches.
    """
    measured = max(p.batch for s in sources for p in usable_points(s.profile))
    cap = min(MAX_BATCH, BATCH_REACH * measured)
    subject = wanted.subject
    if subject.hardware.memory_bytes <= 0:
        return cap, LimitedBy.CAP
    room = partition_bytes(subject.hardware, subject.size)
    found = largest(lambda batch: wanted.footprint(batch).peak_bytes <= room, cap)
    return found, LimitedBy.CAP if found == cap else LimitedBy.MEMORY


def _footprint_offset(source: Source) -> int:
    """Return bytes by which the source's footprints exceed their model (often negative).

    This is mostly memory that no term describes; it is the same for other batches and sizes.
    """
    longest = engine_argument(source.profile, "--max-model-len")
    max_model_len = int(longest) if longest else source.profile.workload.longest_tokens
    differences = [
        p.footprint_bytes - source.subject.footprint(p.batch, max_model_len).peak_bytes
        for p in usable_points(source.profile)
    ]
    return max(differences, default=0)


@dataclasses.dataclass(frozen=True, slots=True)
class _Transfer:
    """What the points of one transfer share.

    Attributes:
        subject, max_model_len: what is wanted.
        fit: factors of the terms.
        source: the nearest one.
        offset: see `_footprint_offset`.
    """

    subject: Subject
    max_model_len: int
    fit: TermFit
    source: Source
    offset: int

    def footprint(self, batch: int) -> Footprint:
        """Return the footprint of an engine for so many requests."""
        terms = self.subject.footprint(batch, self.max_model_len)
        # However little the source's processes held, the weights and the cache are there.
        least = terms.weights_bytes + terms.kv_cache_bytes
        peak = max(terms.peak_bytes + self.offset, least)
        return dataclasses.replace(
            terms, unexplained_bytes=peak - terms.peak_bytes, peak_bytes=Bytes(peak)
        )

    def point(self, batch: int) -> OperatingPoint:
        """Predict one operating point."""
        subject, here = self.subject, self.source.subject
        terms = subject.terms(batch)
        seconds = max(self.fit.seconds(terms), least_seconds(subject, terms))
        moments = subject.workload.moments
        usable = usable_points(self.source.profile)
        like = min(usable, key=lambda p: abs(math.log(p.batch / batch)))
        longer = seconds / measured_round(like)
        alike = subject.workload == here.workload

        def ratio(latency: Callable[[RoundCase, int], Latency]) -> float:
            new = _calibrated(latency, subject, seconds, batch)
            return new / _calibrated(latency, here, measured_round(like), like.batch)

        return OperatingPoint(
            batch=batch,
            output_tokens_per_s=batch / seconds,
            half_width=0.0,
            req_per_s=batch / seconds / moments.o,
            ttft=_scaled(like.ttft, ratio(ttft_latency)),
            tpot=_scaled(like.tpot, longer),
            itl=_scaled(like.itl, ratio(itl_latency)),
            e2el=_scaled(like.e2el, longer) if alike else e2el_latency(subject.workload, seconds),
            kv_tokens=kv_tokens(
                batch, subject.workload, self.max_model_len, BLOCK_TOKENS[subject.hardware.kind]
            ),
            footprint_bytes=self.footprint(batch).peak_bytes,
            running_mean=float(batch),
            prompt_tokens_per_s=batch / seconds * moments.p / moments.o,
            telemetry=_host_use(like.telemetry),
        )


def _host_use(told: Telemetry | None) -> Telemetry | None:
    """Return what the engine used of its host, which is taken to be the same; nothing else is."""
    if told is None or told.cores_used is None:
        return None
    return Telemetry(told.source, cores_used=told.cores_used)


def _scaled(latency: Latency, ratio: float) -> Latency:
    """Scale the percentiles alike; their intervals belong to what was measured."""
    return Latency(
        latency.mean * ratio, latency.p50 * ratio, latency.p95 * ratio, latency.p99 * ratio
    )


def _calibrated(
    latency: Callable[[RoundCase, int], Latency], subject: Subject, seconds: float, batch: int
) -> float:
    """Return a mean latency by the roofline, scaled to the time that a round takes."""
    of_roofline = subject.rounds.round(batch).seconds
    return latency(subject.rounds, batch).mean * (seconds / of_roofline)


def _provenance(
    sources: Sequence[Source], wanted: _Transfer, created_at: str, version: str
) -> Provenance:
    first = sources[0].profile.provenance
    subject = wanted.subject
    ids = ", ".join(source.profile.id for source in sources)
    return dataclasses.replace(
        first,
        engine_args=(
            f"--max-num-batched-tokens={subject.max_num_batched_tokens}",
            f"--max-model-len={wanted.max_model_len}",
            f"--dtype={subject.dtype}",
            *((f"--quantization={subject.quantization}",) if subject.quantization else ()),
        ),
        hardware=subject.hardware.key,
        device_name=subject.hardware.key,
        driver=first.driver if subject.hardware.key == first.hardware else "",
        model_revision=first.model_revision if subject.model == sources[0].profile.model else None,
        host_cores=(),
        started_at=created_at,
        duration_seconds=0.0,
        partitiond_version=version,
        notes=(f"transferred from {ids}: nothing was measured here",),
        command="",
    )
