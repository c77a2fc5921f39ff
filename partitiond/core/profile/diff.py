"""Compares two profiles: whether they can be compared, and whether they differ by more than their
intervals.

Two throughputs with independent 95 % half-widths h and k differ if they are further apart than
sqrt(h^2 + k^2). Two percentiles differ if their intervals do not overlap. If an interval is not
known (estimates, older files), no difference is claimed.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Final

from partitiond.core.profile.points import Interval, Latency, OperatingPoint
from partitiond.core.profile.record import Profile, ProfileKind, operating_point
from partitiond.core.profile.record import capacity_req_per_s as planned_capacity


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileFigure:
    """One figure of both profiles.

    Attributes:
        name: what it is, with its unit.
        first, second: None if a profile does not have it.
        ratio: second / first; None if it cannot be formed.
        differs: whether the difference exceeds the intervals; None if these are not known.
    """

    name: str
    first: float | None
    second: float | None
    ratio: float | None
    differs: bool | None


@dataclasses.dataclass(frozen=True, slots=True)
class PointDiff:
    """One batch that both profiles measured."""

    batch: int
    output_tokens_per_s: ProfileFigure
    ttft_p95_seconds: ProfileFigure
    tpot_p95_seconds: ProfileFigure


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileDiff:
    """Two profiles, compared.

    Attributes:
        incomparable: why their figures do not describe the same thing; empty if they do.
        differences: what else differs; this may be what is being compared.
        figures: knee, X*, capacity, memory.
        points: batches that both have, ascending.
        only_first, only_second: batches that one of them has.
    """

    first: str
    second: str
    incomparable: tuple[str, ...]
    differences: tuple[str, ...]
    figures: tuple[ProfileFigure, ...]
    points: tuple[PointDiff, ...]
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]


_Text = Callable[[Profile], str]

_SAME_THING: Final[tuple[tuple[str, _Text], ...]] = (
    ("hardware", lambda p: p.hardware),
    ("partition", lambda p: p.size.key),
    ("workload", lambda p: p.workload.key),
    ("structured output", lambda p: "yes" if p.structured_output else "no"),
)
"""Properties that must be equal for comparable figures: the same load on the same resources."""

_ALSO: Final[tuple[tuple[str, _Text], ...]] = (
    ("model", lambda p: p.model),
    ("variant", lambda p: p.variant),
    ("kind", lambda p: p.kind.value),
    ("dtype", lambda p: p.dtype),
    ("KV cache dtype", lambda p: p.kv_cache_dtype),
    ("weights", lambda p: p.provenance.weights),
    ("model revision", lambda p: p.provenance.model_revision or ""),
    ("engine", lambda p: f"{p.provenance.engine} {p.provenance.engine_version}".strip()),
    ("driver", lambda p: p.provenance.driver),
    ("tokens of a step", lambda p: str(p.max_num_batched_tokens or "")),
    ("seed", lambda p: str(p.provenance.seed)),
)


def compare(first: Profile, second: Profile) -> ProfileDiff:
    """Compare two profiles, the second against the first."""
    one = {point.batch: point for point in first.points}
    two = {point.batch: point for point in second.points}
    shared = sorted(one.keys() & two.keys())
    return ProfileDiff(
        first=first.id,
        second=second.id,
        incomparable=_unequal(_SAME_THING, first, second) + _other_pairs(first, second),
        differences=_unequal(_ALSO, first, second),
        figures=tuple(_figures(first, second)),
        points=tuple(_point(one[batch], two[batch]) for batch in shared),
        only_first=tuple(sorted(one.keys() - two.keys())),
        only_second=tuple(sorted(two.keys() - one.keys())),
    )


def _unequal(
    fields: tuple[tuple[str, _Text], ...], first: Profile, second: Profile
) -> tuple[str, ...]:
    return tuple(
        f"{name}: {text(first) or 'none'} and {text(second) or 'none'}"
        for name, text in fields
        if text(first) != text(second)
    )


def _other_pairs(first: Profile, second: Profile) -> tuple[str, ...]:
    """Report different traces that look alike by their means."""
    same_words = first.workload.key == second.workload.key
    if same_words and first.workload != second.workload:
        return (f"workload: two different traces, both {first.workload.key}",)
    return ()


def _figures(first: Profile, second: Profile) -> Iterator[ProfileFigure]:
    yield _knee(first, second)
    yield _throughput(
        "X*, output tokens/s",
        (first.knee.best_output_tokens_per_s, _best_half_width(first)),
        (second.knee.best_output_tokens_per_s, _best_half_width(second)),
    )
    yield _plain("capacity, requests/s", _capacity(first), _capacity(second))
    yield _plain("peak memory, bytes", first.footprint.peak_bytes, second.footprint.peak_bytes)
    yield _plain("frontier memory, bytes", _frontier_bytes(first), _frontier_bytes(second))
    yield _plain("KV cache, tokens", first.kv_cache_tokens, second.kv_cache_tokens)


def _knee(first: Profile, second: Profile) -> ProfileFigure:
    figure = _plain("knee, batch", first.knee.batch, second.knee.batch)
    ranges = [
        (float(p.knee.low), float(p.knee.high))
        for p in (first, second)
        if p.knee.low is not None and p.knee.high is not None
    ]
    apart = None if len(ranges) < 2 else _apart(ranges[0], ranges[1])
    return dataclasses.replace(figure, differs=apart)


def _best_half_width(profile: Profile) -> float:
    """Return the half-width at the point with the largest throughput, where X* was measured."""
    usable = [point for point in profile.points if not point.kv_limited]
    best = max(usable, key=lambda p: p.output_tokens_per_s, default=None)
    measured = profile.kind is ProfileKind.MEASURED and best is not None
    return best.half_width if measured and best is not None else 0.0


def _capacity(profile: Profile) -> float | None:
    point = operating_point(profile, profile.slo)
    return None if point is None else planned_capacity(profile, point)


def _frontier_bytes(profile: Profile) -> int | None:
    found = profile.frontier_memory
    return None if found is None else found.footprint_bytes


def _point(first: OperatingPoint, second: OperatingPoint) -> PointDiff:
    return PointDiff(
        first.batch,
        _throughput(
            "output tokens/s",
            (first.output_tokens_per_s, first.half_width),
            (second.output_tokens_per_s, second.half_width),
        ),
        _percentile("TTFT p95, seconds", first.ttft, second.ttft),
        _percentile("TPOT p95, seconds", first.tpot, second.tpot),
    )


def _throughput(
    name: str, first: tuple[float, float], second: tuple[float, float]
) -> ProfileFigure:
    """Compare (value, half-width) of both; a half-width of 0 means that it is not known."""
    figure = _plain(name, first[0], second[0])
    if first[1] <= 0 or second[1] <= 0:
        return figure
    differs = abs(first[0] - second[0]) > math.hypot(first[1], second[1])
    return dataclasses.replace(figure, differs=differs)


def _percentile(name: str, first: Latency, second: Latency) -> ProfileFigure:
    figure = _plain(name, first.p95, second.p95)
    if first.p95_interval is None or second.p95_interval is None:
        return figure
    return dataclasses.replace(figure, differs=_apart(first.p95_interval, second.p95_interval))


def _apart(one: Interval, other: Interval) -> bool:
    return one[1] < other[0] or other[1] < one[0]


def _plain(name: str, first: float | None, second: float | None) -> ProfileFigure:
    known = first is not None and second is not None and first > 0
    ratio = second / first if known and first and second is not None else None
    return ProfileFigure(name, first, second, ratio, None)
