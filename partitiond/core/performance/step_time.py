"""Fits the engine's step time: t = a + b (tokens computed) + c (sequences) + d (KV tokens read).

In steady state a round gives each of B slots one output token. On average it computes
B E[P + O - 1] / E[O] tokens: a request's prompt, and its outputs but the first, which comes with
the prompt. Each slot's attention reads the m tokens it holds (definitions: the length-biased mean).
So a measured throughput X(B) is one equation

    B / X(B) = a n + b B E[P + O - 1] / E[O] + c B + d B m

with n the steps of a round: 1, or more if its tokens exceed what one step may compute.

Within one workload b, c and d all multiply B: only their sum is known, and it is kept in c. Two
workloads separate two of them, three workloads all. Coefficients are never negative, and the
squares of the *relative* error are minimised: a step of 5 ms counts as much as one of 500 ms. Each
point is weighted by the inverse square of its noise and of the form's own error, so a short window
weighs less than a minute.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from partitiond.core.model.workload import Workload
from partitiond.core.numbers.least_squares import non_negative
from partitiond.core.performance.footprint import MAX_NUM_BATCHED_TOKENS
from partitiond.core.profile.confirmed import StepTime
from partitiond.core.profile.record import Profile

MIN_BATCHES: Final = 2
"""One batch cannot separate what a step costs by itself from what a sequence adds."""


LEAST_SPREAD: Final = 0.01
"""Least standard error of a point, as a share: no engine follows the form more closely, so a quiet
window does not outweigh all others. Assumed."""


class StepSample(NamedTuple):
    """One measured operating point; a plain (batch, workload, X) serves as well.

    `half_width` is that of X, in tokens/s; 0 if it is not known.
    """

    batch: int
    workload: Workload
    output_tokens_per_s: float
    half_width: float = 0.0


class StepWork(NamedTuple):
    """The work of a round, in the order of the coefficients a, b, c, d."""

    steps: float
    tokens: float
    sequences: float
    kv_tokens: float


def round_work(
    workload: Workload, batch: float, max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS
) -> StepWork:
    """Steps, tokens computed, sequences and KV tokens read of the mean round at a batch."""
    moments = workload.moments
    tokens = batch * (moments.p + moments.o - 1) / moments.o
    return StepWork(
        steps=max(1.0, tokens / max_num_batched_tokens),
        tokens=tokens,
        sequences=batch,
        kv_tokens=batch * moments.occupancy_mean,
    )


def samples_of(profile: Profile) -> tuple[StepSample, ...]:
    """Return the points of a profile that tell its step time: those that the KV cache did not
    limit.
    """
    return tuple(
        StepSample(point.batch, profile.workload, point.output_tokens_per_s, point.half_width)
        for point in profile.points
        if not point.kv_limited and point.output_tokens_per_s > 0
    )


def fit(
    samples: Sequence[StepSample | tuple[int, Workload, float]],
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS,
) -> StepTime | None:
    """Return the step time that explains these operating points best.

    Args:
        samples: batch, workload, throughput X in tokens/s and, where known, its half-width, of one
            engine and partition.
        max_num_batched_tokens: tokens of one engine step when they were measured.

    Returns:
        The fit; None for fewer than two different batches.
    """
    usable = [StepSample(*sample) for sample in samples if sample[2] > 0]
    if len({sample.batch for sample in usable}) < MIN_BATCHES:
        return None
    seconds = [sample.batch / sample.output_tokens_per_s for sample in usable]
    works = [round_work(s.workload, s.batch, max_num_batched_tokens) for s in usable]
    weights = [_weight(sample) for sample in usable]
    rows = [[w * x / t for x in work] for work, t, w in zip(works, seconds, weights, strict=True)]
    workloads = len({sample.workload for sample in usable})
    directions = len({_shape(work) for work in works})
    a, b, c, d = non_negative(rows, weights, _identifiable(directions))
    fitted = StepTime(a, b, c, d, 0.0, len(usable), workloads)
    residuals = errors(fitted, usable, max_num_batched_tokens)
    mean_square = math.fsum(error**2 for error in residuals) / len(residuals)
    return dataclasses.replace(fitted, residual_share=math.sqrt(mean_square))


def _weight(sample: StepSample) -> float:
    """Return the weight of one row: the square root of the weight of its squared error."""
    noise = min(1.0, sample.half_width / sample.output_tokens_per_s / 2)
    return LEAST_SPREAD / math.hypot(LEAST_SPREAD, noise)


def _shape(work: StepWork) -> tuple[float, float]:
    """Return tokens and KV tokens per sequence: they distinguish one workload's rounds from
    another's.
    """
    return round(work.tokens / work.sequences, 9), round(work.kv_tokens / work.sequences, 9)


def _identifiable(directions: int) -> Callable[[tuple[int, ...]], bool]:
    """Return which coefficients may be positive together: as many as workloads can separate.

    With one workload that is c alone. With two, tokens and sequences are preferred to KV tokens by
    their order if both explain the same. The base a is always allowed.
    """

    def allowed(chosen: tuple[int, ...]) -> bool:
        per_sequence = [n for n in chosen if n != 0]
        if directions == 1:
            return per_sequence in ([], [2])
        return len(per_sequence) <= directions

    return allowed


def round_seconds(
    step: StepTime,
    workload: Workload,
    batch: float,
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS,
) -> float:
    """Return the predicted time of a round, in seconds."""
    work = round_work(workload, batch, max_num_batched_tokens)
    return (
        step.base_seconds * work.steps
        + step.per_token_seconds * work.tokens
        + step.per_sequence_seconds * work.sequences
        + step.per_kv_token_seconds * work.kv_tokens
    )


def predict_output_tokens_per_s(
    step: StepTime,
    workload: Workload,
    batch: float,
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS,
) -> float:
    """Return the predicted X(batch), in tokens/s. A fit to one workload predicts other batches of
    that one.
    """
    seconds = round_seconds(step, workload, batch, max_num_batched_tokens)
    return batch / seconds if seconds > 0 else 0.0


def tells_lengths(step: StepTime) -> bool:
    """Return whether the fit can predict workloads it was not fitted to."""
    return step.workloads > 1


def rescaled(
    step: StepTime,
    output_tokens_per_s: float,
    measured: Workload,
    wanted: Workload,
    batch: float,
    *,
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS,
) -> float:
    """Rescale a measured throughput to other lengths by the ratio of the fit's predictions.

    This keeps the part of the measured rate that the fit does not explain.
    """
    before = predict_output_tokens_per_s(step, measured, batch, max_num_batched_tokens)
    after = predict_output_tokens_per_s(step, wanted, batch, max_num_batched_tokens)
    return output_tokens_per_s * after / before if before > 0 else 0.0


def errors(
    step: StepTime,
    samples: Sequence[StepSample | tuple[int, Workload, float]],
    max_num_batched_tokens: int = MAX_NUM_BATCHED_TOKENS,
) -> tuple[float, ...]:
    """Return the relative errors of the predicted round times, one per sample: predicted / measured
    - 1.
    """
    return tuple(
        round_seconds(step, s.workload, s.batch, max_num_batched_tokens)
        * s.output_tokens_per_s
        / s.batch
        - 1
        for s in (StepSample(*sample) for sample in samples)
        if s.output_tokens_per_s > 0
    )
