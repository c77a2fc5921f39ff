"""Compares predictions of profiles from other profiles with measurements and with naive scaling.

    python -m bench.profiler.transfer [profiles/ or files ...]

The bench takes every pair of measured profiles on the same hardware that differ in one thing: cores
(or another partition), model, or lengths. One profile is predicted from the other by terms of the
step time; the naive baseline scales throughput as a whole: by cores, by parameters, by tokens per
request. Then each profile is predicted from all others together, beside the promised error band.
"""

import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence

from bench.profiler.measured_profiles import parser, sources
from partitiond.core.performance.transfer_check import error_band, predicted_output_tokens_per_s
from partitiond.core.performance.transfer_fit import Source, fit_terms, usable_points
from partitiond.core.profile.points import OperatingPoint


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One prediction at one batch."""

    change: str
    origin: str
    wanted: str
    batch: int
    predicted: float
    measured: float
    naive: float
    band: float

    @property
    def error(self) -> float:
        """Relative error of our prediction."""
        return self.predicted / self.measured - 1

    @property
    def naive_error(self) -> float:
        """Relative error of the baseline's prediction."""
        return self.naive / self.measured - 1

    def line(self) -> str:
        """The row's line in the table."""
        inside = "in" if abs(self.error) <= self.band else "OUT"
        return (
            f"{self.change:<9} {self.origin:<34} {self.wanted:<34} {self.batch:>5} "
            f"{self.predicted:>9.1f} {self.measured:>9.1f} {self.error:>+7.1%} "
            f"{self.naive_error:>+7.1%}  {self.band:>4.0%} {inside}"
        )


def name(source: Source) -> str:
    """Model, partition and lengths."""
    profile = source.profile
    return f"{profile.model} {profile.size.key} {profile.workload.key}"


def changes(one: Source, other: Source) -> tuple[str, ...]:
    """The properties in which two sources differ."""
    here, there = one.profile, other.profile
    found = {
        "model": here.model != there.model,
        "partition": here.size != there.size,
        "lengths": here.workload != there.workload,
        "hardware": here.hardware != there.hardware,
        "dtype": here.dtype != there.dtype or here.kv_cache_dtype != there.kv_cache_dtype,
    }
    return tuple(change for change, differs in found.items() if differs)


def naive_ratio(one: Source, other: Source) -> float:
    """Throughput in proportion to compute, inverse to parameters and to tokens per output token."""

    def tokens_per_output(source: Source) -> float:
        moments = source.profile.workload.moments
        return (moments.p + moments.o) / moments.o

    def parts(source: Source) -> float:
        size = source.profile.size
        return float(size.cores if source.subject.hardware.cores else size.sm_percent or 100)

    ratio = parts(other) / parts(one)
    ratio *= one.subject.architecture.parameters / other.subject.architecture.parameters
    return ratio * tokens_per_output(one) / tokens_per_output(other)


def at_knee(source: Source, like: Source | None = None) -> OperatingPoint | None:
    """The measured knee, or the nearest point that `like` has as well."""
    profile = source.profile
    wanted = profile.knee.batch or profile.knee.largest_batch
    shared = None if like is None else {p.batch for p in usable_points(like.profile)}
    points = [p for p in usable_points(profile) if shared is None or p.batch in shared]
    return min(points, key=lambda p: abs(p.batch - wanted), default=None)


def pairs(found: Sequence[Source]) -> Iterator[Row]:
    """Predictions from one source to one target with one difference."""
    for one in found:
        for other in found:
            differs = changes(one, other)
            point = at_knee(other, one)
            if len(differs) != 1 or "dtype" in differs or point is None:
                continue
            there = one.profile.point(point.batch)
            assert there is not None
            terms = fit_terms([one])
            yield Row(
                change=differs[0],
                origin=name(one),
                wanted=name(other),
                batch=point.batch,
                predicted=predicted_output_tokens_per_s(terms, other.subject, point.batch),
                measured=point.output_tokens_per_s,
                naive=there.output_tokens_per_s * naive_ratio(one, other),
                band=error_band([one], other.subject, terms),
            )


def from_all_others(found: Sequence[Source]) -> Iterator[Row]:
    """Predict each from all others of its hardware; the baseline scales the first of them."""
    for n, other in enumerate(found):
        rest = [s for m, s in enumerate(found) if m != n and "hardware" not in changes(s, other)]
        point = at_knee(other)
        if not rest or point is None:
            continue
        terms = fit_terms(rest)
        first = min(rest, key=lambda s: len(changes(s, other)))
        like = min(usable_points(first.profile), key=lambda p: abs(p.batch - point.batch))
        yield Row(
            change="others",
            origin=f"{len(rest)} profiles",
            wanted=name(other),
            batch=point.batch,
            predicted=predicted_output_tokens_per_s(terms, other.subject, point.batch),
            measured=point.output_tokens_per_s,
            naive=like.output_tokens_per_s * naive_ratio(first, other),
            band=error_band(rest, other.subject, terms),
        )


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Median and worst error for each kind of change, ours and the baseline's, and the ratio."""
    pick: tuple[tuple[str, Callable[[Row], float]], ...] = (
        ("ours", lambda r: abs(r.error)),
        ("naive", lambda r: abs(r.naive_error)),
    )
    for change in dict.fromkeys(row.change for row in rows):
        those = [row for row in rows if row.change == change]
        ours, naive = ([value(row) for row in those] for _, value in pick)
        inside = sum(abs(row.error) <= row.band for row in those)
        yield (
            f"{change:<9} {len(those):>3} predictions: median error {statistics.median(ours):.1%} "
            f"(worst {max(ours):.1%}), naive {statistics.median(naive):.1%} "
            f"(worst {max(naive):.1%}), ratio "
            f"{statistics.median(ours) / max(1e-9, statistics.median(naive)):.2f}; "
            f"{inside} of {len(those)} within their band"
        )


def main() -> int:
    """Print the table and its summary."""
    found = sources(parser(__doc__).parse_args())
    rows = [*pairs(found), *from_all_others(found)]
    if not rows:
        print("nothing to compare: it takes two measured profiles on the same hardware")
        return 1
    print(
        f"{'change':<9} {'from':<34} {'to':<34} {'batch':>5} {'predicted':>9} {'measured':>9} "
        f"{'error':>7} {'naive':>7}  band"
    )
    for row in rows:
        print(row.line())
    print()
    for line in summary(rows):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
