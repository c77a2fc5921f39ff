"""Models fitted to what was measured: footprint by terms, and the engine's step time.

The step time of the definitions is t = a + b (tokens computed) + c (sequences) + d (KV tokens
read). In a closed loop of one workload the last three all grow in proportion to the batch, so
one profile tells only their sum: t(B) = base + per_sequence B. It predicts throughput at
batches between the measured ones; other lengths need profiles of several workloads.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

from partitiond.core.architecture import Architecture
from partitiond.core.footprint import (
    EngineLimits,
    footprint,
    kv_cache_bytes,
    kv_tokens,
)
from partitiond.core.hardware import DeviceKind
from partitiond.core.profile import Footprint, OperatingPoint
from partitiond.core.units import Bytes
from partitiond.core.workload import Workload

MIN_FIT_POINTS: Final = 2


@dataclasses.dataclass(frozen=True, slots=True)
class StepTime:
    """t(B) = base + per_sequence B, in seconds per engine step, prefill spread over the steps.

    Attributes:
        residual_share: root mean square of the relative error over the points it was fitted to.
    """

    base_seconds: float
    per_sequence_seconds: float
    residual_share: float

    def output_tokens_per_s(self, batch: int) -> float:
        """Predicted X(b): each step gives every sequence one token."""
        return batch / (self.base_seconds + batch * self.per_sequence_seconds)


def fit_step_time(points: Sequence[OperatingPoint]) -> StepTime | None:
    """Least squares on the relative error of b / X(b); None for fewer than two batches.

    KV-limited points are left out: their batch was not in the engine. Neither coefficient is
    below 0: noise in the small batches must not give steps that take no time.
    """
    usable = [p for p in points if not p.kv_limited and p.output_tokens_per_s > 0]
    if len({p.batch for p in usable}) < MIN_FIT_POINTS:
        return None
    steps = [(p.batch, p.batch / p.output_tokens_per_s) for p in usable]
    base, slope = _relative_least_squares(steps)
    if base < 0 or slope < 0:
        base, slope = _best_single_term(steps)
    errors = [(base + slope * batch) / seconds - 1 for batch, seconds in steps]
    residual = math.sqrt(math.fsum(e**2 for e in errors) / len(errors))
    return StepTime(base, slope, residual)


def _relative_least_squares(steps: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Minimise the sum of ((base + slope x) / y - 1)^2 by its normal equations."""
    uu = math.fsum(1 / y**2 for _, y in steps)
    uv = math.fsum(x / y**2 for x, y in steps)
    vv = math.fsum(x**2 / y**2 for x, y in steps)
    u1 = math.fsum(1 / y for _, y in steps)
    v1 = math.fsum(x / y for x, y in steps)
    determinant = uu * vv - uv**2
    return (u1 * vv - v1 * uv) / determinant, (uu * v1 - uv * u1) / determinant


def _best_single_term(steps: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """A constant or a line through the origin, whichever errs less."""
    constant = math.fsum(1 / y for _, y in steps) / math.fsum(1 / y**2 for _, y in steps)
    slope = math.fsum(x / y for x, y in steps) / math.fsum((x / y) ** 2 for x, y in steps)
    constant_error = math.fsum((constant / y - 1) ** 2 for _, y in steps)
    slope_error = math.fsum((slope * x / y - 1) ** 2 for x, y in steps)
    return (constant, 0.0) if constant_error <= slope_error else (0.0, slope)


def explain_footprint(
    architecture: Architecture,
    limits: EngineLimits,
    kind: DeviceKind,
    *,
    started_kv_bytes: int,
    peak_bytes: int,
) -> Footprint:
    """The measured peak, with the terms that explain it and what they leave unexplained.

    W and K are exact; A, G and C are models (`core.footprint`), so the rest may be negative. On
    a CPU it also is so because the part of K that was never written is not resident.
    """
    terms = footprint(architecture, limits, started_kv_bytes, kind)
    return dataclasses.replace(
        terms,
        peak_bytes=Bytes(peak_bytes),
        unexplained_bytes=peak_bytes - terms.peak_bytes,
    )


def point_kv_bytes(
    architecture: Architecture, batch: int, workload: Workload, max_model_len: int, block: int
) -> int:
    """Bytes of the KV blocks that batch b needs."""
    return kv_cache_bytes(architecture, kv_tokens(batch, workload, max_model_len, block), block)


def resident_kv_bytes(
    architecture: Architecture,
    kind: DeviceKind,
    *,
    started_kv_bytes: int,
    largest_batch: int,
    workload: Workload,
) -> int:
    """KV bytes that are surely inside the measured peak.

    On a GPU the whole cache is allocated at start. On a CPU it is reserved, and a page becomes
    resident when it is first written; without prefix caching the engine reuses free blocks last
    in, first out, so only what the largest batch held at once was ever written: every request
    at its full length.
    """
    if kind is DeviceKind.GPU:
        return started_kv_bytes
    written = largest_batch * workload.total_tokens * architecture.kv_bytes_per_token
    return min(started_kv_bytes, written)


def point_footprint(peak_bytes: int, resident: int, needed_kv_bytes: int) -> Bytes:
    """Footprint at an operating point: peak - K resident + K needed.

    One engine start serves all batches, with a KV cache for the largest. What is surely KV
    cache is taken off the measured peak, and all that batch b needs is put in its place: an
    engine that runs long enough writes all of its cache. The rest (weights, context,
    activations and what nothing explains) stays as it was at the peak of the largest batch, too
    much rather than too little.
    """
    return Bytes(max(0, peak_bytes - resident) + needed_kv_bytes)
