"""Compares estimates with measurements: largest batch, knee, throughput, latency, footprint.

    python -m bench.profiler.estimate [profiles/ or files ...] [--assumed]

Each measured profile is estimated again from its architecture and hardware alone. The baseline is
the roofline without an engine: peak bandwidth and peak arithmetic, nothing per step, per layer or
per sequence.
"""

import dataclasses
import statistics
import sys
from collections.abc import Sequence

from bench.profiler.measured_profiles import parser, sources
from partitiond.core.performance.estimate import estimate_profile
from partitiond.core.performance.footprint import MAX_NUM_BATCHED_TOKENS
from partitiond.core.performance.roofline import Rates
from partitiond.core.performance.rounds import decode_round
from partitiond.core.performance.transfer_fit import Source, engine_argument, usable_points
from partitiond.core.profile.points import OperatingPoint
from partitiond.core.profile.record import Profile


def estimated(source: Source) -> Profile:
    """The estimate for a measured profile, on batches at most 1.25x apart."""
    profile, subject = source.profile, source.subject
    longest = engine_argument(profile, "--max-model-len")
    return estimate_profile(
        model=profile.model,
        architecture=subject.architecture,
        workload=profile.workload,
        hardware=subject.hardware,
        size=profile.size,
        max_model_len=int(longest) if longest else profile.workload.longest_tokens,
        profile_id="estimate",
        created_at="",
        dtype=profile.dtype,
        memory_bytes=None if subject.hardware.memory_bytes else 1 << 50,
        max_batch=profile.knee.largest_batch,
        max_num_batched_tokens=profile.max_num_batched_tokens or MAX_NUM_BATCHED_TOKENS,
        kv_cache_dtype=profile.kv_cache_dtype,
        refined=True,
    )


def bare_roofline(source: Source, batch: int) -> float:
    """Tokens/s if the hardware reached its peak rates and the engine itself cost nothing."""
    case = source.subject.rounds
    hardware = source.subject.hardware
    share = source.profile.size.cores / hardware.cores if hardware.cores else 1.0
    peak = Rates(hardware.flops_16bit * share, hardware.bandwidth_bytes_per_s * share, 0.0, 0.0)
    found = decode_round(case.architecture, case.workload, batch, peak, case.max_num_batched_tokens)
    return batch / found.seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of one estimate, estimated / measured - 1; the knee as a factor."""

    throughput: float
    bare: float
    ttft: float
    tpot: float
    footprint: float
    knee: float


def compare(source: Source) -> Errors:
    """Compare at the measured knee, and print the lines of one profile."""
    profile, estimate = source.profile, estimated(source)
    knee = profile.knee.batch or profile.knee.largest_batch
    point = min(usable_points(profile), key=lambda p: abs(p.batch - knee))
    like = _near(estimate, point.batch)
    bare = bare_roofline(source, point.batch)
    there = estimate.knee.batch or estimate.knee.largest_batch
    print(f"\n{profile.model} on {profile.hardware} {profile.size.key}, {profile.workload.key}")
    rows: Sequence[tuple[str, float, float, str]] = (
        ("knee", there, knee, ""),
        ("tokens/s", like.output_tokens_per_s, point.output_tokens_per_s, f"bare {bare:.0f}"),
        ("TTFT p95 s", like.ttft.p95, point.ttft.p95, ""),
        ("TPOT p95 s", like.tpot.p95, point.tpot.p95, ""),
        ("footprint GiB", like.footprint_bytes / 2**30, point.footprint_bytes / 2**30, ""),
    )
    print(f"  {'at batch ' + str(point.batch):<16} {'estimated':>10} {'measured':>10} {'ratio':>6}")
    for label, guess, truth, note in rows:
        print(f"  {label:<16} {guess:>10.4g} {truth:>10.4g} {guess / truth:>6.2f}  {note}")
    if profile.knee.low is not None and profile.knee.high is not None:
        within = profile.knee.low <= there <= profile.knee.high
        print(
            f"  the knee's interval is {profile.knee.low}..{profile.knee.high}: "
            f"{'inside' if within else 'outside'}"
        )
    return Errors(
        throughput=like.output_tokens_per_s / point.output_tokens_per_s - 1,
        bare=bare / point.output_tokens_per_s - 1,
        ttft=like.ttft.p95 / point.ttft.p95 - 1,
        tpot=like.tpot.p95 / point.tpot.p95 - 1,
        footprint=like.footprint_bytes / point.footprint_bytes - 1,
        knee=there / knee,
    )


def _near(profile: Profile, batch: int) -> OperatingPoint:
    return min(profile.points, key=lambda p: abs(p.batch - batch))


def main() -> int:
    """Print each comparison and the median errors."""
    found = [compare(source) for source in sources(parser(__doc__).parse_args())]
    if not found:
        print("no measured profile of a catalog model")
        return 1
    print(f"\nmedian of the absolute errors over {len(found)} profiles")
    for field in ("throughput", "ttft", "tpot", "footprint"):
        print(f"  {field:<11} {statistics.median(abs(getattr(e, field)) for e in found):.0%}")
    ours = statistics.median(abs(e.throughput) for e in found)
    bare = statistics.median(abs(e.bare) for e in found)
    print(f"  bare roofline's throughput {bare:.0%}: ours errs {ours / max(bare, 1e-9):.2f} of it")
    factors = [max(e.knee, 1 / e.knee) for e in found]
    print(f"  knee off by a factor of {statistics.median(factors):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
