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
    EngineLimits,
    footprint_at,
    kv_tokens,
)
from partitiond.core.performance.latency import RoundCase, e2el_latency, itl_latency, ttft_latency
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
    engine_argument,
    fit_terms,
    measured_round,
    usable_points,
)
from partitiond.core.profile.frontier import TOLERANCE, find_knee
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
"""Batches are predicted up to this multiple of the largest measured one. Chosen, not measured."""


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """The profile that is wanted.

    Attributes:
        subject: model, partition and workload.
        max_model_len: context length of the engine, in tokens.
        memory_bytes: budget of the partition; None for all that is usable in it.
    """

    subject: Subject
    max_model_len: int
    memory_bytes: int | None = None


def transfer_profile(
    sources: Sequence[Source],
    target: Target,
    *,
    profile_id: str,
    created_at: str,
    partitiond_version: str = "",
) -> Profile:
    """Predict a profile from measured ones.

    Args:
        sources: at least one; of the same kind of device as the target.
        target: the profile that is wanted.
        profile_id: identifier to give it.
        created_at: ISO 8601, UTC.
        partitiond_version: for the provenance.

    Raises:
        SpecError: there is nothing to learn from, or the sources say nothing about the target.
    """
    _check(sources, target)
    fit = fit_terms(sources)
    nearest = min(sources, key=lambda s: distance(s.subject, target.subject, fit))
    offset = _footprint_offset(nearest)
    most, limited_by = _largest(sources, target, offset)
    points = tuple(_point(target, fit, nearest, batch, offset) for batch in _batches(sources, most))
    started = _footprint(target, max(1, most), offset)
    knee = (
        find_knee(points, capped_by=limited_by)
        if points
        else Knee(None, None, None, TOLERANCE, 0.0, LimitedBy.MEMORY, 0)
    )
    subject = target.subject
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
        footprint=started,
        kv_cache_tokens=_cache_tokens(target, max(1, most)),
        provenance=_provenance(sources, target, created_at, partitiond_version),
        max_num_batched_tokens=subject.max_num_batched_tokens,
        kv_cache_dtype=subject.kv_cache_dtype,
        variant=nearest.profile.variant if nearest.profile.model == subject.model else "",
        transfer=_transfer(sources, target, fit),
    )


def _check(sources: Sequence[Source], target: Target) -> None:
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
        here, there = source.subject.hardware.kind, target.subject.hardware.kind
        if here is not there:
            raise SpecError(
                f"the profile {profile.id} was measured on a {here.upper()}; it says nothing "
                f"about a {there.upper()}.",
                hint="Estimate it instead: partitiond tools estimate MODEL --hardware NAME.",
                facts={"profile": profile.id},
            )


def _transfer(sources: Sequence[Source], target: Target, fit: TermFit) -> Transfer:
    nothing = f"one profile, nothing to check it on: {DEFAULT_ERROR:.0%} assumed at distance 0"
    return Transfer(
        source_ids=tuple(source.profile.id for source in sources),
        method=f"step time by terms, each scaled by its roofline; {fit.points} points explained "
        f"within {fit.residual_share:.1%}; {_proof(leave_one_out(sources), nothing)}",
        error_share=error_band(sources, target.subject, fit),
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
    """Return the measured batches and powers of two, up to the largest."""
    measured = {p.batch for source in sources for p in usable_points(source.profile)}
    powers = {2**n for n in range(most.bit_length())}
    return tuple(sorted(b for b in measured | powers if b <= most))


def _largest(sources: Sequence[Source], target: Target, offset: int) -> tuple[int, LimitedBy]:
    """Return the largest batch to predict: it fits into memory, within reach of the measured
    batches.
    """
    measured = max(p.batch for s in sources for p in usable_points(s.profile))
    cap = min(MAX_BATCH, BATCH_REACH * measured)
    budget = target.memory_bytes
    if budget is None and target.subject.hardware.memory_bytes > 0:
        budget = partition_bytes(target.subject.hardware, target.subject.size)
    if budget is None:
        return cap, LimitedBy.CAP
    room = budget
    found = largest(lambda batch: _footprint(target, batch, offset).peak_bytes <= room, cap)
    return found, LimitedBy.CAP if found == cap else LimitedBy.MEMORY


def _modelled(subject: Subject, batch: int, max_model_len: int) -> Footprint:
    limits = EngineLimits(batch, max_model_len, subject.max_num_batched_tokens)
    return footprint_at(subject.loaded, subject.workload, limits, subject.hardware.kind)


def _footprint_offset(source: Source) -> int:
    """Return bytes by which the source's footprints exceed their model (often negative).

    This is mostly memory that no term describes; it is the same for other batches and sizes.
    """
    longest = engine_argument(source.profile, "--max-model-len")
    max_model_len = int(longest) if longest else source.profile.workload.longest_tokens
    differences = [
        p.footprint_bytes - _modelled(source.subject, p.batch, max_model_len).peak_bytes
        for p in usable_points(source.profile)
    ]
    return max(differences, default=0)


def _footprint(target: Target, batch: int, offset: int) -> Footprint:
    terms = _modelled(target.subject, batch, target.max_model_len)
    # However little the source's processes held, the weights and the cache are there.
    least = terms.weights_bytes + terms.kv_cache_bytes
    peak = max(terms.peak_bytes + offset, least)
    return dataclasses.replace(
        terms, unexplained_bytes=peak - terms.peak_bytes, peak_bytes=Bytes(peak)
    )


def _cache_tokens(target: Target, batch: int) -> int:
    subject = target.subject
    block = BLOCK_TOKENS[subject.hardware.kind]
    return -(-kv_tokens(batch, subject.workload, target.max_model_len, block) // block) * block


def _point(target: Target, fit: TermFit, source: Source, batch: int, offset: int) -> OperatingPoint:
    subject = target.subject
    seconds = fit.seconds(subject.terms(batch))
    moments = subject.workload.moments
    like = min(usable_points(source.profile), key=lambda p: abs(math.log(p.batch / batch)))

    def ratio(latency: Callable[[RoundCase, int], Latency]) -> float:
        new = _calibrated(latency, subject, seconds, batch)
        return new / _calibrated(latency, source.subject, measured_round(like), like.batch)

    return OperatingPoint(
        batch=batch,
        output_tokens_per_s=batch / seconds,
        half_width=0.0,
        req_per_s=batch / seconds / moments.o,
        ttft=_scaled(like.ttft, ratio(ttft_latency)),
        tpot=_scaled(like.tpot, seconds / measured_round(like)),
        itl=_scaled(like.itl, ratio(itl_latency)),
        e2el=_e2el(target, source, like, seconds),
        kv_tokens=kv_tokens(
            batch,
            subject.workload,
            target.max_model_len,
            BLOCK_TOKENS[subject.hardware.kind],
        ),
        footprint_bytes=_footprint(target, batch, offset).peak_bytes,
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


def _e2el(target: Target, source: Source, like: OperatingPoint, seconds: float) -> Latency:
    there, here = target.subject.workload, source.subject.workload
    if there == here:
        return _scaled(like.e2el, seconds / measured_round(like))
    return e2el_latency(there, seconds)


def _provenance(
    sources: Sequence[Source], target: Target, created_at: str, version: str
) -> Provenance:
    first = sources[0].profile.provenance
    subject = target.subject
    ids = ", ".join(source.profile.id for source in sources)
    return dataclasses.replace(
        first,
        engine_args=(
            f"--max-num-batched-tokens={subject.max_num_batched_tokens}",
            f"--max-model-len={target.max_model_len}",
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
