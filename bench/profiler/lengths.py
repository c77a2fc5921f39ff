"""Measures the effect of other lengths on a model, and the error of rates rescaled to them.

    python -m bench.profiler.lengths [profiles/ or files ...] [--assumed]

The bench takes every model, hardware and partition with measured profiles of two or more workloads,
and shows knee, X* and frontier memory beside each other. Then it predicts each workload from the
others. With three or more workloads, the step time is fitted to all but one, and rates measured
under the others are rescaled by it to the workload left out. If that workload is too far from the
others, it is predicted as transfers do then: by all their terms together. With two workloads, a fit
over both would be tested on its own data, so each is predicted from the other alone by terms that a
roofline scales. The baseline expects the same tokens per second for all lengths.
"""

import dataclasses
import statistics
import sys
from collections.abc import Iterator, Sequence

from bench.profiler.measured_profiles import Predicted, interpolated_rate, parser, sources
from partitiond.core.performance.length_shift import nearest_point, shift_of
from partitiond.core.performance.transfer_check import predicted_output_tokens_per_s
from partitiond.core.performance.transfer_fit import (
    Source,
    fit_terms,
    measured_round,
    usable_points,
)
from partitiond.core.profile.points import OperatingPoint
from partitiond.core.profile.record import Profile
from partitiond.core.units import GIB

RESCALED = "rescaled by step time"
OUT_OF_REACH = "by the others' terms, too far for the step time"
ONE_ALONE = "by one other workload's terms alone"

Key = tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction(Predicted):
    """One workload's throughput at one batch, from another workload's profile.

    Attributes:
        naive: throughput of the other workload at this batch.
    """

    origin: str
    wanted: str
    method: str
    batch: int
    at_knee: bool
    predicted: float
    measured: float
    naive: float


def groups(found: Sequence[Source]) -> dict[Key, list[Source]]:
    """Groups of two or more sources that differ only in lengths."""
    by_key: dict[Key, list[Source]] = {}
    for source in found:
        subject = source.subject
        key = (
            subject.model,
            subject.hardware.key,
            subject.size.key,
            subject.dtype,
            subject.quantization,
            subject.kv_cache_dtype,
            str(subject.max_num_batched_tokens),
        )
        by_key.setdefault(key, []).append(source)
    return {
        key: members
        for key, members in by_key.items()
        if len({s.profile.workload for s in members}) > 1
    }


def beside_each_other(members: Sequence[Source]) -> Iterator[str]:
    """One line for each workload with the figures that planning takes from its profile."""
    yield (
        f"  {'lengths':<26} {'knee':>5} {'range':>9} {'X* tok/s':>9} {'TPOT p95 ms':>11} "
        f"{'frontier memory GiB':>20}"
    )
    for source in members:
        profile = source.profile
        knee = profile.knee
        point = _knee_point(source)
        yield (
            f"  {profile.workload.key:<26} {knee.batch or '-':>5} {_range(profile):>9} "
            f"{knee.best_output_tokens_per_s:>9.1f} {1000 * point.tpot.p95:>11.1f} "
            f"{_memory(profile):>20}"
        )


def _range(profile: Profile) -> str:
    knee = profile.knee
    if knee.batch is None:
        return f"> {knee.largest_batch}"
    return f"{knee.low}-{knee.high}"


def _memory(profile: Profile) -> str:
    found = profile.frontier_memory
    if found is None:
        return "not looked for"
    word = "" if found.confirmed else " (unconfirmed)"
    return f"{found.footprint_bytes / GIB:.2f}{word}"


def _knee_point(source: Source) -> OperatingPoint:
    knee = source.profile.knee
    return nearest_point(source, knee.batch or knee.largest_batch)


def leave_one_out(members: Sequence[Source], *, however_far: bool = False) -> Iterator[Prediction]:
    """Predict each workload from all others together; none with fewer than three workloads.

    Args:
        members: sources of one model on one partition.
        however_far: predict by step time alone, even beyond the reach of the others.
    """
    for left_out in members:
        workload = left_out.profile.workload
        others = [s for s in members if s.profile.workload != workload]
        if len({s.profile.workload for s in others}) < 2:
            continue
        shift = shift_of(others, left_out.subject, however_far=however_far)
        if shift is None:
            yield from _by_terms(others, left_out, OUT_OF_REACH)
            continue
        for origin in shift.sources:
            for point in usable_points(left_out.profile):
                rate = shift.from_source(origin, left_out.subject, point.batch)
                yield _prediction(origin, left_out, RESCALED, point, rate)


def by_roofline(members: Sequence[Source]) -> Iterator[Prediction]:
    """Predict each workload from one other alone, its terms scaled by the roofline."""
    for origin in members:
        for wanted in members:
            if wanted.profile.workload != origin.profile.workload:
                yield from _by_terms([origin], wanted, ONE_ALONE)


def _by_terms(known: Sequence[Source], wanted: Source, method: str) -> Iterator[Prediction]:
    """Predict from each known source, by terms fitted to all of them; keep each one's misfit."""
    fit = fit_terms(known)
    for origin in known:
        for point in usable_points(wanted.profile):
            near = nearest_point(origin, point.batch)
            misfit = fit.seconds(origin.subject.terms(near.batch)) / measured_round(near)
            rate = misfit * predicted_output_tokens_per_s(fit, wanted.subject, point.batch)
            yield _prediction(origin, wanted, method, point, rate)


def _prediction(
    origin: Source, wanted: Source, method: str, point: OperatingPoint, rate: float
) -> Prediction:
    return Prediction(
        origin=origin.profile.workload.key,
        wanted=wanted.profile.workload.key,
        method=method,
        batch=point.batch,
        at_knee=point.batch == _knee_point(wanted).batch,
        predicted=rate,
        measured=point.output_tokens_per_s,
        naive=interpolated_rate(origin, point.batch),
    )


def table(rows: Sequence[Prediction]) -> Iterator[str]:
    """One line for each pair of workloads: the errors at the knee and over all batches."""
    yield (
        f"  {'from':<25} {'to':<25} {'batch':>5} {'predicted':>9} {'measured':>9} {'error':>7} "
        f"{'naive':>7}   over all batches: median error, naive"
    )
    for pair in dict.fromkeys((row.origin, row.wanted) for row in rows):
        those = [row for row in rows if (row.origin, row.wanted) == pair]
        knee = next(row for row in those if row.at_knee)
        yield (
            f"  {knee.origin:<25} {knee.wanted:<25} {knee.batch:>5} {knee.predicted:>9.1f} "
            f"{knee.measured:>9.1f} {knee.error:>+7.1%} {knee.naive_error:>+7.1%}   "
            f"{_median(r.error for r in those):>6.1%}, {_median(r.naive_error for r in those):.1%} "
            f"({len(those)})"
        )


def summary(title: str, rows: Sequence[Prediction]) -> str:
    """Median and worst error over all rows, the baseline's, and the ratio of the medians."""
    ours, naive = _median(r.error for r in rows), _median(r.naive_error for r in rows)
    return (
        f"  {title}: {len(rows)} predictions, median error {ours:.1%} (worst "
        f"{max(abs(r.error) for r in rows):.1%}); same tokens/s: {naive:.1%} (worst "
        f"{max(abs(r.naive_error) for r in rows):.1%}); ratio {ours / max(naive, 1e-9):.2f}"
    )


def _median(errors: Iterator[float]) -> float:
    return statistics.median(abs(error) for error in errors)


def report(members: Sequence[Source]) -> Iterator[str]:
    """The report for one model on one partition."""
    yield from beside_each_other(members)
    tested = list(leave_one_out(members))
    yield ""
    if tested:
        yield from table(tested)
        yield ""
        methods = dict.fromkeys(row.method for row in tested)
        for method in methods:
            yield summary(method, [row for row in tested if row.method == method])
        if len(methods) > 1:
            yield summary("as transfers choose between the two", tested)
            step = list(leave_one_out(members, however_far=True))
            yield summary("step time, however far", step)
    else:
        yield (
            "  Two workloads: a step time fitted to both cannot be tested on either. Each is "
            "predicted from the other alone."
        )
    alone = list(by_roofline(members))
    if not tested:
        yield from table(alone)
        yield ""
    yield summary(ONE_ALONE, alone)


def main() -> int:
    """Print the report for every model."""
    found = groups(sources(parser(__doc__).parse_args()))
    if not found:
        print("nothing to compare: it takes measured profiles of two workloads of one model")
        return 1
    for key, members in found.items():
        print(f"{' '.join(key[:3])} ({key[3]})")
        for line in report(members):
            print(line)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
