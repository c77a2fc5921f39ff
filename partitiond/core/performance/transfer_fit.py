"""Calibrates the roofline's terms on measured points.

A round of an engine is spent on five things: fixed work per step and layer, reading weights,
arithmetic, the KV cache, and host work per sequence. The roofline says how long each would take if
the hardware did what it promises; measured points say how long a round really took. The factors
between the two, one per term, are what a profile teaches about an engine. They can be carried over
to another partition, device, model or length: there every term differs, but the factors stay.

One profile cannot separate fixed work from weights (neither grows with the batch), nor arithmetic
from KV traffic and host work (all grow in proportion to it), and one batch cannot separate these
two groups. Weak equations that hold factors equal decide what measurements leave open, and nothing
else. With two profiles, on
one core and on two, the part that does not shrink with cores separates by itself (Amdahl's law).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

from partitiond.core.hardware.kinds import DeviceKind, HardwareSpec
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.precision import as_loaded, engine_dtype
from partitiond.core.model.spec import ModelSpec
from partitiond.core.model.workload import Workload
from partitiond.core.numbers.least_squares import non_negative
from partitiond.core.performance.footprint import (
    MAX_NUM_BATCHED_TOKENS,
    EngineLimits,
    footprint_at,
)
from partitiond.core.performance.roofline import (
    BANDWIDTH_EFFICIENCY,
    FLOPS_EFFICIENCY,
    rates,
)
from partitiond.core.performance.rounds import RoundCase, RoundTerms
from partitiond.core.profile.points import Footprint, OperatingPoint
from partitiond.core.profile.record import Profile

TIE_WEIGHT: Final = 0.1
"""Weight of an equation that holds two factors equal. Factors that differ by half of themselves
cost as much as a point that is 5 % off, which is a measurement's own noise. Chosen so."""

_TIES: Final = ((0, 1), (2, 3), (2, 4))
"""Terms that one profile cannot separate: fixed and weights; compute, KV and sequences."""

_ACROSS: Final = (1, 2)
ACROSS_WEIGHT: Final = 0.025
"""Weight of the equation that holds the two groups equal, however many points there are: factors
that differ by twice themselves cost as much as a point that is 5 % off. One batch alone cannot
tell the groups apart, and points close together hardly: all of the round would go into one group,
and another batch would be predicted up to 19 times too fast. Chosen so."""


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """A model on a partition under a workload: the subject of a profile.

    Attributes:
        model: name.
        architecture: of the 16-bit model; `dtype` and the two precisions say how it is loaded.
        hardware: kind of device.
        size: partition of it.
        workload: request shape.
        dtype, quantization, kv_cache_dtype: the engine's.
        max_num_batched_tokens: tokens of one step.
    """

    model: str
    architecture: Architecture
    hardware: HardwareSpec
    size: PartitionSize
    workload: Workload
    dtype: str = "bfloat16"
    quantization: str = ""
    kv_cache_dtype: str = "auto"
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS

    @property
    def loaded(self) -> Architecture:
        """The architecture as the engine loads it."""
        return as_loaded(
            self.architecture,
            dtype=self.dtype,
            quantization=self.quantization,
            kv_cache_dtype=self.kv_cache_dtype,
        )

    @property
    def rounds(self) -> RoundCase:
        """Its rounds by the roofline. Raises SpecError if there is none for the partition."""
        reached = rates(self.hardware, self.size, dtype=self.dtype, quantization=self.quantization)
        return RoundCase(self.loaded, self.workload, reached, self.max_num_batched_tokens)

    def terms(self, batch: int) -> RoundTerms:
        """Return the roofline's parts of a round."""
        return self.rounds.terms(batch)

    def footprint(self, batch: int, max_model_len: int) -> Footprint:
        """Return the footprint of an engine for so many requests of that context, in tokens."""
        limits = EngineLimits(batch, max_model_len, self.max_num_batched_tokens)
        return footprint_at(self.loaded, self.workload, limits, self.hardware.kind)


def subject_of(
    spec: ModelSpec,
    architecture: Architecture,
    hardware: HardwareSpec,
    size: PartitionSize,
    dtype: str = "",
) -> Subject:
    """Return what an estimate or a simulated engine of a model is about.

    Args:
        spec: recognised, of the form that runs (`ModelSpec.as_variant`).
        architecture: of that form, before its precision is applied.
        hardware, size: the partition.
        dtype: in which it runs; empty for what its options lead to on this hardware.
    """
    engine = spec.engine
    return Subject(
        model=spec.name,
        architecture=architecture,
        hardware=hardware,
        size=size,
        workload=spec.workload,
        dtype=engine_dtype(hardware, dtype or engine.dtype, architecture, engine.quantization),
        quantization=engine.quantization,
        kv_cache_dtype=engine.kv_cache_dtype,
        max_num_batched_tokens=engine.max_num_batched_tokens or MAX_NUM_BATCHED_TOKENS,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """A measured profile, and the inputs of its roofline."""

    profile: Profile
    subject: Subject


def source_of(profile: Profile, architecture: Architecture, hardware: HardwareSpec) -> Source:
    """Make a source of a measured profile.

    Args:
        profile: the fit learns from its points.
        architecture: of the profile's model, as published.
        hardware: the kind of device that the profile's hardware key names.
    """
    return Source(
        profile,
        Subject(
            model=profile.model,
            architecture=architecture,
            hardware=hardware,
            size=profile.size,
            workload=profile.workload,
            dtype=profile.dtype,
            quantization=engine_argument(profile, "--quantization") or "",
            kv_cache_dtype=profile.kv_cache_dtype,
            max_num_batched_tokens=profile.max_num_batched_tokens or MAX_NUM_BATCHED_TOKENS,
        ),
    )


def engine_argument(profile: Profile, name: str) -> str | None:
    """Return the value of an argument that its engine was started with, as
    "--max-model-len=256".
    """
    found = (
        a.partition("=")[2] for a in profile.provenance.engine_args if a.startswith(name + "=")
    )
    return next(found, None)


@dataclasses.dataclass(frozen=True, slots=True)
class TermFit:
    """Factors between the roofline's terms and measured rounds.

    Attributes:
        fixed, weights, compute, kv, sequences: one per term; 2 takes twice the roofline's time.
        residual_share: root mean square of the relative error over the points.
        points: points it was fitted to.
    """

    fixed: float
    weights: float
    compute: float
    kv: float
    sequences: float
    residual_share: float
    points: int

    def seconds(self, terms: RoundTerms) -> float:
        """Return the predicted time of a round, in seconds."""
        return math.fsum(self.parts(terms))

    def parts(self, terms: RoundTerms) -> tuple[float, float, float, float, float]:
        """Return the predicted time of a round by terms, in seconds."""
        return (
            self.fixed * terms.fixed,
            self.weights * terms.weights,
            self.compute * terms.compute,
            self.kv * terms.kv,
            self.sequences * terms.sequences,
        )


def least_seconds(subject: Subject, terms: RoundTerms) -> float:
    """Return the shortest time that a round can take on a GPU: by its datasheet's bandwidth and
    arithmetic. 0 on a CPU, whose bandwidth is not on a datasheet.
    """
    if subject.hardware.kind is not DeviceKind.GPU:
        return 0.0
    traffic = BANDWIDTH_EFFICIENCY * (terms.weights + terms.kv)
    return max(traffic, FLOPS_EFFICIENCY * terms.compute)


def distinct_batches(sources: Sequence[Source]) -> int:
    """Return how many batches the points have; one cannot tell what grows with it."""
    return len({p.batch for source in sources for p in usable_points(source.profile)})


def usable_points(profile: Profile) -> tuple[OperatingPoint, ...]:
    """Return points that tell a round's time, batches ascending."""
    usable = [p for p in profile.points if not p.kv_limited and p.output_tokens_per_s > 0]
    return tuple(sorted(usable, key=lambda p: p.batch))


def measured_round(point: OperatingPoint) -> float:
    """Return seconds in which every slot got one token."""
    return point.batch / point.output_tokens_per_s


def fit_terms(sources: Sequence[Source]) -> TermFit:
    """Fit factors that explain these profiles together, by least squares on relative errors.

    Raises:
        ValueError: no source has a usable point.
    """
    observed = [
        (_columns(source.subject.terms(point.batch)), measured_round(point))
        for source in sources
        for point in usable_points(source.profile)
    ]
    if not observed:
        raise ValueError("a fit needs at least one measured point")
    overall = _overall(observed)
    rows = [tuple(overall * x / seconds for x in terms) for terms, seconds in observed]
    ties = [_tie(one, other) for one, other in _TIES]
    weight = math.sqrt(len(rows) / len(ties)) * TIE_WEIGHT
    across = tuple(ACROSS_WEIGHT * x for x in _tie(*_ACROSS))
    equal = [*(tuple(weight * x for x in tie) for tie in ties), across]
    found = non_negative([*rows, *equal], [1.0] * len(rows) + [0.0] * len(equal))
    factors = [overall * factor for factor in found]
    errors = [
        math.fsum(f * x for f, x in zip(factors, terms, strict=True)) / seconds - 1
        for terms, seconds in observed
    ]
    residual = math.sqrt(math.fsum(e * e for e in errors) / len(errors))
    fixed, weights, compute, kv, sequences = factors
    return TermFit(fixed, weights, compute, kv, sequences, residual, len(rows))


def _columns(terms: RoundTerms) -> tuple[float, float, float, float, float]:
    return terms.fixed, terms.weights, terms.compute, terms.kv, terms.sequences


def _overall(observed: Sequence[tuple[tuple[float, ...], float]]) -> float:
    """Return one factor for all terms, which makes the single factors comparable to 1."""
    shares = [math.fsum(terms) / seconds for terms, seconds in observed]
    return math.fsum(shares) / math.fsum(share * share for share in shares)


def _tie(one: int, other: int) -> tuple[float, ...]:
    return tuple(1.0 if n == one else -1.0 if n == other else 0.0 for n in range(5))
