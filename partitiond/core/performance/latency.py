"""Computes the latency percentiles of an estimate, from the steps of its steady state.

In a closed loop a request takes the time of the first token plus that of the other tokens:
E2EL = TTFT + (O - 1) TPOT. With Little's law this also gives the time that prompts queue if they
need more tokens than the steps have (`_queue_seconds`).
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Final

from partitiond.core.model.workload import Workload
from partitiond.core.performance.rounds import Cycle, RoundCase, StepMix
from partitiond.core.profile.points import Latency

_Z95: Final = 1.645
_Z99: Final = 2.326
"""Standard normal quantiles of 95 and 99 %, one-sided."""
_TPOT_SPREAD: Final = 0.1
"""Relative standard deviation of a request's time per token, for end-to-end latencies: the lengths
vary far more than that. Assumed."""
_STEP_NOISE: Final = 0.03
"""Relative standard deviation of a request's TPOT if all steps are alike: engine noise. Assumed."""
_OWN_PROMPTS: Final = 8
"""Number of equally likely prompts that represent all lengths in a time to first token. Chosen."""
_RARE: Final = 1e-4
"""Rarer steps are left out of latencies: percentiles go to the 99th. Chosen."""


def _spread(mean: float, deviation: float) -> Latency:
    """Return percentiles of a normal latency with this spread, in seconds."""
    return Latency(mean=mean, p50=mean, p95=mean + _Z95 * deviation, p99=mean + _Z99 * deviation)


def _weighted(found: Iterable[tuple[float, float]]) -> Latency:
    """Return the mean and percentiles of (seconds, weight)."""
    ordered = sorted(found)
    total = math.fsum(weight for _, weight in ordered)
    sums = list(itertools.accumulate(weight for _, weight in ordered))

    def at(quantile: float) -> float:
        # A hair less, so that equal weights that add up to the quantile count as reaching it.
        wanted = quantile * total * (1 - 1e-9)
        return next(
            (seconds for (seconds, _), s in zip(ordered, sums, strict=True) if s >= wanted),
            ordered[-1][0],
        )

    mean = math.fsum(seconds * weight for seconds, weight in ordered) / total
    # If fewer than one in twenty is long, the 95th percentile is below the mean, which is no
    # useful bound: take the mean.
    return Latency(mean=mean, p50=at(0.5), p95=max(mean, at(0.95)), p99=max(mean, at(0.99)))


def _common(mix: StepMix) -> list[tuple[float, float]]:
    """Return (seconds, share) of steps that are not rare."""
    found = zip(mix.seconds, mix.shares, strict=True)
    return [(seconds, share) for seconds, share in found if share >= _RARE]


def _decode_seconds(case: RoundCase, cycle: Cycle, batch: int) -> tuple[float, float]:
    """Return the mean and standard deviation of the steps that a decoding slot sees.

    If prompts queue for the tokens of steps, one counted step is in fact several, and a decoding
    slot gets a token in each. A slot alone sees no step with a prompt.
    """
    if batch == 1:
        alone = dataclasses.replace(cycle, reads=0.0, decodes=1.0)
        return case.mix(alone, 1).mean_seconds, 0.0
    mix, times = case.mix(cycle, batch), cycle.saturation(batch)
    return mix.mean_seconds / times, mix.deviation_seconds / times


def tpot_latency(case: RoundCase, batch: int) -> Latency:
    """Return TPOT: the mean step, with the spread that prefills of other slots add.

    A request of O tokens sees O - 1 steps. If the steps are independent, their mean varies by their
    deviation / sqrt(O - 1). If output lengths do not vary, every other slot reads one prompt in
    each cycle, and only prompts at the ends vary. Between these cases, the counts of a renewal
    process vary by the squared variation of its intervals (Cox, Renewal Theory, 1962).
    """
    cycle, moments = case.cycle, case.workload.moments
    held_up = case.round(batch).held_up
    mean, deviation = (held_up * one for one in _decode_seconds(case, cycle, batch))
    variation = max(0.0, moments.oo / moments.o**2 - 1)
    independent = min(1.0, variation + 2 / cycle.steps)
    lengths = case.workload.output_lengths
    of_mean = math.fsum(1 / max(1, length - 1) for length in lengths) / len(lengths)
    return _spread(
        mean, math.hypot(_STEP_NOISE * mean, deviation * math.sqrt(independent * of_mean))
    )


def e2el_latency(workload: Workload, round_seconds: float) -> Latency:
    """Return E2EL: a round per output token; requests vary with their output lengths."""
    moments = workload.moments
    mean = moments.o * round_seconds
    variation = math.sqrt(max(0.0, moments.oo / moments.o**2 - 1))
    deviation = math.hypot(_TPOT_SPREAD, variation) * mean
    lengths = sorted(workload.output_lengths)
    if len(lengths) == 1:
        return _spread(mean, deviation)

    def at(quantile: float, z: float) -> float:
        """Return the quantile by length: the slowest requests are slow because they are long."""
        length = lengths[min(len(lengths) - 1, math.ceil(quantile * len(lengths)) - 1)]
        return length * round_seconds * (1 + z * _TPOT_SPREAD)

    return Latency(mean=mean, p50=at(0.5, 0), p95=at(0.95, _Z95), p99=at(0.99, _Z99))


def _queue_seconds(case: RoundCase, cycle: Cycle, batch: int) -> float:
    """Return seconds that a prompt waits for its turn if prompts need more tokens than the steps
    have.

    Slots that decode get a token in each step and the batch as a whole does not, so by
    E2EL = TTFT + (O - 1) TPOT the rest of a request's time is spent before its first token.
    """
    times = cycle.saturation(batch)
    if times <= 1:
        return 0.0
    return (case.workload.moments.o - 1) * case.mix(cycle, batch).mean_seconds * (1 - 1 / times)


def ttft_latency(case: RoundCase, batch: int) -> Latency:
    """Return TTFT: the time of the step under way, then of the one that computes the prompt.

    A slot is refilled once its answer came, when the next step has just begun, so the new request
    waits for that whole step (measured engines: the median TTFT is two steps at every batch). In
    both steps other slots read prompts, independently of each other; percentiles are of the sum.
    Tokens beyond the budget take further steps. A request alone meets no step under way.
    """
    cycle, others = case.cycle, batch - 1
    lengths = sorted(case.workload.prompt_lengths)
    count = min(_OWN_PROMPTS, len(lengths))
    own = [lengths[int((n + 0.5) * len(lengths) / count)] for n in range(count)]
    # The mean of a few quantiles is lower than the mean of a skewed distribution.
    scale = case.workload.moments.p * len(own) / math.fsum(own)
    waits = _common(case.mix(cycle, others)) if others else [(0.0, 1.0)]
    reads = [one for prompt in own for one in _common(case.mix(cycle, others, scale * prompt))]
    queue = _queue_seconds(case, cycle, batch)
    held_up = case.round(batch).held_up
    return _weighted(
        (held_up * (queue + wait + read), often * chance)
        for wait, often in waits
        for read, chance in reads
    )


def itl_latency(case: RoundCase, batch: int) -> Latency:
    """Return ITL: the steps that a decoding slot sees, some with prompts of other slots."""
    cycle = case.cycle
    mean, _ = _decode_seconds(case, cycle, batch)
    if batch == 1:
        return Latency(mean, mean, mean, mean)
    times = cycle.saturation(batch) / case.round(batch).held_up
    return _weighted((seconds / times, share) for seconds, share in _common(case.mix(cycle, batch)))
