"""Latencies of a steady state, from its step times: how an estimate comes to percentiles."""

import dataclasses
import math
from typing import Final

from partitiond.core.architecture import Architecture
from partitiond.core.profile import Latency
from partitiond.core.roofline import (
    Rates,
    Round,
    Step,
    decode_round,
    prompt_context,
    step_seconds,
)
from partitiond.core.workload import Workload

_Z95: Final = 1.645
_Z99: Final = 2.326
_TPOT_SPREAD: Final = 0.1
"""Relative standard deviation of a request's TPOT around the mean round: steps with a prefill
are longer, and a request meets more or fewer of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class RoundCase:
    """A model under a workload on a partition, whatever the batch.

    Attributes:
        architecture: as loaded.
        workload: request shape.
        reached: how fast the partition works.
        max_num_batched_tokens: tokens of one engine step.
    """

    architecture: Architecture
    workload: Workload
    reached: Rates
    max_num_batched_tokens: int

    def round(self, batch: int) -> Round:
        """The mean round of `batch` slots."""
        return decode_round(
            self.architecture, self.workload, batch, self.reached, self.max_num_batched_tokens
        )

    def step_seconds(self, decoding: float, prompt_tokens: float) -> float:
        """A step that decodes so many sequences and computes so many prompt tokens."""
        step = Step(
            decode_sequences=decoding,
            decode_context=self.workload.moments.occupancy_mean,
            prefill_tokens=prompt_tokens,
            prefill_context=prompt_context(self.workload),
        )
        return step_seconds(self.architecture, step, self.reached)


def _spread(mean: float, deviation: float) -> Latency:
    """Percentiles of a normal latency with this spread, in seconds."""
    return Latency(mean=mean, p50=mean, p95=mean + _Z95 * deviation, p99=mean + _Z99 * deviation)


def tpot_latency(round_seconds: float) -> Latency:
    """A token per round, with the spread that prefills of others bring."""
    return _spread(round_seconds, _TPOT_SPREAD * round_seconds)


def e2el_latency(workload: Workload, round_seconds: float) -> Latency:
    """A round per output token; where output lengths vary, requests vary with them."""
    moments = workload.moments
    mean = moments.o * round_seconds
    variation = math.sqrt(max(0.0, moments.oo / moments.o**2 - 1))
    deviation = math.hypot(_TPOT_SPREAD, variation) * mean
    lengths = sorted(workload.output_lengths)
    if len(lengths) == 1:
        return _spread(mean, deviation)

    def at(quantile: float, z: float) -> float:
        """The longest requests are long because of their length: a quantile of lengths."""
        length = lengths[min(len(lengths) - 1, math.ceil(quantile * len(lengths)) - 1)]
        return length * round_seconds * (1 + z * _TPOT_SPREAD)

    return Latency(mean=mean, p50=at(0.5, 0), p95=at(0.95, _Z95), p99=at(0.99, _Z99))


def ttft_latency(case: RoundCase, batch: int) -> Latency:
    """Time to the first token: the step under way, then the steps that compute the prompt.

    A refilled slot waits for half a step in the mean. In the step that takes its prompt, others
    finish and are refilled at batch / O per round; at a percentile z, about
    lambda + z sqrt(lambda) of them share the tokens of its steps, though never more than there are.
    """
    round_seconds = case.round(batch).seconds
    moments = case.workload.moments
    arrivals = batch / moments.o
    prompts = sorted(case.workload.prompt_lengths)

    def after(wait_steps: float, others: float, quantile: float) -> float:
        own = prompts[min(len(prompts) - 1, math.ceil(quantile * len(prompts)) - 1)]
        prompt = (moments.p if quantile == 0.5 else own) + moments.p * min(others, batch - 1)
        steps = max(1.0, (prompt + batch) / case.max_num_batched_tokens)
        return wait_steps * round_seconds + steps * case.step_seconds(batch / steps, prompt / steps)

    deviation = math.sqrt(arrivals)
    return Latency(
        mean=after(0.5, arrivals, 0.5),
        p50=after(0.5, arrivals, 0.5),
        p95=after(0.95, arrivals + _Z95 * deviation, 0.95),
        p99=after(0.99, arrivals + _Z99 * deviation, 0.99),
    )


def itl_latency(case: RoundCase, batch: int) -> Latency:
    """Gaps between tokens: a round; at the tail one that carries a whole prompt."""
    round_seconds = case.round(batch).seconds
    moments = case.workload.moments
    tail = max(
        round_seconds,
        case.step_seconds(batch, min(moments.p, case.max_num_batched_tokens)),
    )
    # A step carries a prompt in about batch / O of all rounds: rare ones touch only the p99.
    prompts_per_round = batch / moments.o
    return Latency(
        mean=round_seconds,
        p50=round_seconds,
        p95=tail if prompts_per_round > 0.05 else round_seconds,
        p99=tail if prompts_per_round > 0.01 else round_seconds,
    )
