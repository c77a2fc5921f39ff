"""Fits the step-time model's constants to measured profiles, and says how far estimates are off.

    python -m bench.profiler.factor_fit [--folder profiles]

The model is that of `roofline`: host work, memory traffic, arithmetic, and work per sequence. A
factor says how much longer a part takes than its constants say. Factors that measurements leave
open stay near 1.
"""

import dataclasses
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.command import options
from bench.profiler.published import published_sources
from partitiond.core.hardware.lookup import hardware_for_key
from partitiond.core.numbers.least_squares import non_negative
from partitiond.core.performance.estimate import estimate_profile
from partitiond.core.performance.roofline import Factors, rates
from partitiond.core.performance.rounds import RoundTerms
from partitiond.core.performance.transfer_fit import (
    TIE_WEIGHT,
    Source,
    engine_argument,
    measured_round,
    source_of,
    usable_points,
)
from partitiond.core.profile.points import OperatingPoint, Telemetry
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.units import MIB
from partitiond.fleet.profile_files import profile_paths, read_profile
from partitiond.models.catalog import CATALOG

PASSES: Final = 4
"""On a GPU the longer of arithmetic and traffic counts; which it is depends on the factors."""
LEAST: Final = 0.02
"""Least factor: a part that measurements do not show takes some time. Chosen."""
FIGURES: Final = (
    "tokens/s", "TTFT p95 s", "TPOT p95 s", "footprint MiB", "GPU busy", "SM activity", "J/token",
    "knee",
)  # fmt: skip
SERVER_SHARE: Final = 0.05
"""A round this near to the time of the API server is decided by it. Chosen."""
ROOM_BYTES: Final = 1 << 50
"""Memory of a CPU's estimate whose host is not known: no limit."""


def fit_factors(sources: Sequence[Source]) -> Factors:
    """Fit factors to all points of measured profiles, by least squares on relative errors.

    Points at the rate of the API server say nothing of the engine, and are left out.
    """
    found = Factors()
    observed = [
        (s.subject.terms(p.batch), s.subject.rounds.reached.overlaps, measured_round(p))
        for s in sources
        for p in usable_points(s.profile)
        if not _by_server(s, p)
    ]
    weight = TIE_WEIGHT * len(observed) ** 0.5
    near = [tuple(weight * float(n == m) for m in range(4)) for n in range(4)]
    for _ in range(PASSES):
        rows = [
            tuple(x / seconds for x in _columns(terms, found, overlaps=overlaps))
            for terms, overlaps, seconds in observed
        ]
        solved = non_negative([*rows, *near], [1.0] * len(rows) + [weight] * len(near))
        found = Factors(*(max(LEAST, x) for x in solved))
    return found


def _by_server(source: Source, point: OperatingPoint) -> bool:
    rounds = source.subject.rounds
    limit = rounds.reached.sent_seconds(point.batch, point.batch / rounds.workload.moments.o)
    return abs(measured_round(point) - limit) <= SERVER_SHARE * limit


def _columns(terms: RoundTerms, now: Factors, *, overlaps: bool) -> tuple[float, ...]:
    traffic, compute = terms.weights + terms.kv, terms.compute
    if overlaps:
        longer = now.compute * compute >= now.traffic * traffic
        traffic, compute = (0.0, compute + terms.lumps) if longer else (traffic + terms.lumps, 0.0)
    return terms.fixed, traffic, compute, terms.sequences


def compared(source: Source, found: Profile) -> Mapping[str, tuple[float, float]]:
    """Return each of `FIGURES` as estimated and as measured, at the point nearest to the knee.

    What the device did not expose is left out.
    """
    profile = source.profile
    knee = profile.knee.batch or profile.knee.largest_batch
    point = min(usable_points(profile), key=lambda p: abs(p.batch - knee))
    like = min(found.points, key=lambda p: abs(p.batch - point.batch))
    made = (*_figures(like), found.knee.batch or found.knee.largest_batch)
    measured = (*_figures(point), knee if point.tpot.p95 else None)
    sides = zip(FIGURES, made, measured, strict=True)
    return {name: (ours, told) for name, ours, told in sides if ours and told}


def _figures(point: OperatingPoint) -> tuple[float | None, ...]:
    told = point.telemetry or Telemetry("none")
    return (
        point.output_tokens_per_s, point.ttft.p95, point.tpot.p95, point.footprint_bytes / MIB,
        told.gpu_util, told.sm_activity, point.joules_per_output_token,
    )  # fmt: skip


def errors(source: Source, factors: Factors) -> Mapping[str, float]:
    """Return estimated / measured - 1 of each of `FIGURES` that the device exposed."""
    sides = compared(source, estimated(source, factors))
    return {name: made / told - 1 for name, (made, told) in sides.items()}


def estimated(source: Source, factors: Factors, max_batch: int = 0) -> Profile:
    """Return the estimate of what was measured, up to its largest batch or the given one."""
    profile, subject = source.profile, source.subject
    longest = engine_argument(profile, "--max-model-len")
    return estimate_profile(
        subject,
        int(longest) if longest else profile.workload.longest_tokens,
        profile_id="estimate",
        memory_bytes=None if subject.hardware.memory_bytes else ROOM_BYTES,
        max_batch=max_batch or profile.knee.largest_batch,
        refined=True,
        factors=factors,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class FactorFit:
    """The fit to the profiles of one kind of hardware.

    Attributes:
        factors: fitted to all of its profiles.
        constants: what the constants of `roofline` would be, by their unit.
        shipped, fitted, left_out: median absolute errors of each figure, as a share: with the
            constants as they are, with the fitted ones, and with those fitted to the other models
            alone (empty where there is one model).
    """

    hardware: str
    profiles: int
    models: int
    factors: Factors
    constants: Mapping[str, float]
    shipped: Mapping[str, float]
    fitted: Mapping[str, float]
    left_out: Mapping[str, float]


def fit_kinds(sources: Sequence[Source]) -> tuple[FactorFit, ...]:
    """Fit each kind of hardware by itself."""
    kinds = sorted({source.profile.hardware for source in sources})
    return tuple(_fit([s for s in sources if s.profile.hardware == k], k) for k in kinds)


def fit_all(folder: Path) -> tuple[FactorFit, ...]:
    """Fit the measured profiles of a folder by hardware, and what others published of GPUs."""
    published = _fit(list(published_sources()), "GPUs, published by others")
    return (*fit_kinds(list(sources_in(folder))), published)


def _fit(sources: Sequence[Source], hardware: str) -> FactorFit:
    models = sorted({source.profile.model for source in sources})
    factors = fit_factors(sources)
    others = {m: [s for s in sources if s.profile.model != m] for m in models}
    held = {m: fit_factors(rest) for m, rest in others.items() if rest}
    subject = sources[0].subject
    reached = factors.of(rates(subject.hardware, subject.size, dtype=subject.dtype))
    return FactorFit(
        hardware=hardware,
        profiles=len(sources),
        models=len(models),
        factors=factors,
        constants={
            "step s": reached.step_seconds,
            "layer s": reached.layer_seconds,
            "sequence s": reached.sequence_seconds,
            "bytes/s": reached.bytes_per_s,
            "FLOP/s": reached.flops_per_s,
        },
        shipped=_medians([errors(s, Factors()) for s in sources]),
        fitted=_medians([errors(s, factors) for s in sources]),
        left_out=_medians([errors(s, held[s.profile.model]) for s in sources if held]),
    )


def _medians(found: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    return {
        f: statistics.median(mine)
        for f in FIGURES
        if (mine := [abs(e[f]) for e in found if f in e])
    }


def sources_in(folder: Path) -> Iterator[Source]:
    """Yield the measured profiles of catalog models that tell a decode step's time.

    Answers of one token or of one piece, as embeddings, have no TPOT and no decode steps.
    """
    for path in profile_paths([folder]):
        profile = read_profile(path)
        entry = CATALOG.get(profile.model)
        if entry is None or profile.kind is not ProfileKind.MEASURED or profile.variant:
            continue
        points = usable_points(profile)
        if points and all(point.tpot.p95 > 0 for point in points):
            yield source_of(profile, entry.architecture, hardware_for_key(profile.hardware))


def main() -> int:
    """Print errors of each figure, and the constants that the profiles ask for."""
    given = options(__doc__, folder=Path("profiles")).parse_args()
    found = fit_all(given.folder)
    for one in found:
        print(f"{one.hardware}: {one.profiles} profiles with decode steps, of {one.models} models")
        print(f"{'median absolute error':<24}{'as shipped':>12}{'fitted':>12}{'left out':>12}")
        for figure in FIGURES:
            sides = (one.shipped, one.fitted, one.left_out)
            cells = (f"{side[figure]:.0%}" if figure in side else "-" for side in sides)
            print(f"{figure:<24}" + "".join(f"{cell:>12}" for cell in cells))
        print("fitted: " + ", ".join(f"{x:.3g} {unit}" for unit, x in one.constants.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
