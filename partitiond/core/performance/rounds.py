"""Computes rounds of a steady state: a batch's work in the time in which every slot gets one token.

Prompts come in lumps. A step that reads a prompt is bound by arithmetic, a step that only decodes
by memory traffic, and the mean of the longer of two times exceeds the longer of their means
(Jensen). So the time of a step is averaged over the number of prompts that it reads, instead of
being computed for the mean step.

For a request of O output tokens a slot goes through a cycle of O + k steps. In k steps it reads its
prompt (1, or more if the prompt exceeds the tokens of a step), and the last of them gives the first
token. In O - 1 steps it decodes. One step it misses, because the answer comes while the next step
is already under way. Slots are taken as independent, each anywhere in its cycle (a closed loop that
was started out of step, or lengths that vary). So the number of prompts in a step is binomial: for
many slots the Poisson number with mean b / O. Prompts of differing lengths come in lumps of
E[P^2] / E[P] tokens, which keeps the mean and the variance of the tokens of a step. Tokens beyond
the budget of a step make further steps, each of which reads the weights again.

A larger batch never loses throughput, for this reason. Let f(S) be the time for the work of the
slots in S. It is made of sums and maxima of terms that are linear in the work, or constant if there
is any work, or concave in the tokens (experts read). So leaving out each of n slots in turn costs
sum_i f(S without i) >= (n - 1) f(S); hence E f / b falls as b grows (Han's inequality for
fractionally subadditive functions). This needs two things. Without slots at work there is no cost:
the engine makes no step then, which is why a slot alone misses none. And tokens beyond the budget
are charged by a *maximum* with one step; if they were rounded up to whole steps, a batch that just
exceeds a step would pay for two.
"""

import dataclasses
import functools
import math
from typing import Final

from partitiond.core.model.architecture import Architecture
from partitiond.core.model.workload import Workload
from partitiond.core.performance.roofline import (
    Rates,
    Step,
    fixed_seconds,
    flops_per_token,
    prompt_context,
    prompt_token_flops,
    weights_read_bytes,
)

_NEGLIGIBLE: Final = 1e-16
"""Numbers of prompts are left out if they are rarer than the likeliest number by this factor."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cycle:
    """The cycle of one slot from one request to the next, in steps; means over requests.

    Attributes:
        steps: length of the cycle, including the step that it misses.
        lump_tokens: prompt tokens that it reads at once.
        reads: share of the steps in which it reads a lump.
        decodes: share of the other steps in which it decodes.
        decode_context: tokens of context that a decode reads.
        prompt_context: tokens of context that a prompt token attends to.
        step_tokens: tokens of one engine step.
    """

    steps: float
    lump_tokens: float
    reads: float
    decodes: float
    decode_context: float
    prompt_context: float
    step_tokens: int

    def step(self, prompt_tokens: float, others: float) -> Step:
        """Return a step with this many prompt tokens, and `others` slots that read none."""
        return Step(
            decode_sequences=others * self.decodes,
            decode_context=self.decode_context,
            prefill_tokens=prompt_tokens,
            prefill_context=self.prompt_context,
        )

    def saturation(self, batch: int) -> float:
        """Return steps that the mean tokens of `batch` slots fill; above 1 prompts queue for
        steps.
        """
        tokens = self.reads * self.lump_tokens + (1 - self.reads) * self.decodes
        return max(1.0, batch * tokens / self.step_tokens)


@functools.lru_cache(maxsize=64)
def cycle_of(workload: Workload, max_num_batched_tokens: int) -> Cycle:
    """Return the cycle of a slot under a workload."""
    moments, attended = workload.moments, prompt_context(workload)
    # E[P^2] / E[P] is twice the mean context of a prompt token.
    lump = min(2 * attended, float(max_num_batched_tokens))
    lumps = moments.p / lump
    steps = moments.o + max(1.0, lumps)
    reads = lumps / steps
    return Cycle(
        steps=steps,
        lump_tokens=lump,
        reads=reads,
        decodes=(moments.o - 1) / steps / (1 - reads),
        decode_context=moments.occupancy_mean,
        prompt_context=attended,
        step_tokens=max_num_batched_tokens,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """A steady-state round: every slot advances by one output token.

    Attributes:
        seconds: time of the round, batch / throughput; longer than a step by the steps that a
            slot misses or reads its prompt in.
        steps: engine steps it takes; well above 1 if prompts exceed the token budget.
        held_up: factor by which the API server, which takes one request and sends one token after
            the other, lengthens the engine's round; 1 if it keeps up.
    """

    seconds: float
    steps: float
    held_up: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class RoundTerms:
    """The parts of a round's time, each as if it were alone, in seconds.

    Attributes:
        fixed: the engine's work per step and per layer.
        weights: reading weights.
        compute: arithmetic.
        kv: reading and writing the KV cache.
        sequences: host work per sequence.
        lumps: cost of prompts that come in lumps: the mean of the longer of arithmetic and
            traffic, less the longer of their means. 0 if the two do not overlap.
    """

    fixed: float
    weights: float
    compute: float
    kv: float
    sequences: float
    lumps: float = 0.0

    @property
    def device_seconds(self) -> float:
        """Device time in the round: the longer of arithmetic and traffic, plus lumps."""
        return max(self.compute, self.weights + self.kv) + self.lumps

    @property
    def busy_seconds(self) -> float:
        """Time in which no other process can use the device in turn: launches take some as well."""
        return self.device_seconds + self.fixed


@dataclasses.dataclass(frozen=True, slots=True)
class StepMix:
    """The steps of a steady state, one for each number of prompts read in it.

    Attributes:
        shares: how often each step occurs; together 1.
        seconds: how long each step takes, 0 if no slot is at work; if its tokens exceed the
            budget, of all steps that they take.
        steps: engine steps that each one stands for.
        terms: mean seconds of arithmetic, weights, KV traffic and host work per sequence.
        work_seconds: mean seconds that the device works.
    """

    shares: tuple[float, ...]
    seconds: tuple[float, ...]
    steps: tuple[float, ...]
    terms: tuple[float, float, float, float]
    work_seconds: float

    @property
    def mean_seconds(self) -> float:
        """Mean time of a step."""
        return math.fsum(map(float.__mul__, self.shares, self.seconds))

    @property
    def mean_steps(self) -> float:
        """Mean engine steps."""
        return math.fsum(map(float.__mul__, self.shares, self.steps))

    @property
    def deviation_seconds(self) -> float:
        """Standard deviation of a step's time."""
        mean = self.mean_seconds
        squares = (
            share * (seconds - mean) ** 2
            for share, seconds in zip(self.shares, self.seconds, strict=True)
        )
        return math.sqrt(math.fsum(squares))


@functools.lru_cache(maxsize=1024)
def binomial(trials: int, chance: float) -> tuple[tuple[int, float], ...]:
    """Return (number, probability) of successes, numbers ascending; negligible ones are left
    out.
    """
    if trials == 0 or chance <= 0:
        return ((0, 1.0),)
    mode = min(trials, int((trials + 1) * chance))
    odds = chance / (1 - chance)
    found = {mode: 1.0}
    for number in range(mode + 1, trials + 1):
        found[number] = found[number - 1] * odds * (trials - number + 1) / number
        if found[number] < _NEGLIGIBLE:
            break
    for number in range(mode - 1, -1, -1):
        found[number] = found[number + 1] * (number + 1) / (trials - number) / odds
        if found[number] < _NEGLIGIBLE:
            break
    total = math.fsum(found.values())
    return tuple((number, found[number] / total) for number in sorted(found))


@functools.lru_cache(maxsize=64)
def step_mix(
    architecture: Architecture,
    cycle: Cycle,
    batch: int,
    reached: Rates,
    own_prompt_tokens: float = 0.0,
) -> StepMix:
    """Return the mix of steps that `batch` slots make.

    Args:
        architecture: as loaded.
        cycle: of each slot.
        batch: slots; may be 0 beside an own prompt.
        reached: how fast the partition works.
        own_prompt_tokens: of one more slot, which reads its prompt in each of these steps.
    """
    shares, seconds, counts, works = [], [], [], []
    columns: list[tuple[float, float, float, float]] = []
    fixed = fixed_seconds(architecture, reached)
    # A step's work is linear in what it decodes and reads, as in `roofline.step_flops` and
    # `kv_traffic_bytes`; their factors are computed once for all steps.
    decode_flops = flops_per_token(architecture, cycle.decode_context)
    prompt_flops = prompt_token_flops(architecture, cycle.prompt_context)
    read_bytes = architecture.kv_bytes(cycle.decode_context)
    token_bytes = architecture.kv_bytes_per_token
    for prompts, share in binomial(batch, cycle.reads):
        others = batch - prompts
        decoded = others * cycle.decodes
        prefilled = own_prompt_tokens + prompts * cycle.lump_tokens
        at_work = 1.0
        if prompts == 0 and own_prompt_tokens == 0:
            at_work -= math.pow(1 - cycle.decodes, others)
        tokens = decoded + prefilled
        count = max(at_work, tokens / cycle.step_tokens)
        weights = weights_read_bytes(architecture, tokens / count) if count > 0 else 0.0
        kv = decoded * read_bytes + (decoded + 2 * prefilled) * token_bytes
        parts = (
            (decoded * decode_flops + prefilled * prompt_flops) / reached.flops_per_s,
            count * weights / reached.bytes_per_s,
            kv / reached.bytes_per_s,
            reached.sequence_seconds * decoded,
        )
        traffic = parts[1] + parts[2]
        work = max(parts[0], traffic) if reached.overlaps else parts[0] + traffic
        shares.append(share)
        counts.append(count)
        works.append(work)
        columns.append(parts)
        seconds.append(work + count * fixed + parts[3])

    def mean(values: list[float]) -> float:
        return math.fsum(map(float.__mul__, shares, values))

    compute, weights, kv, sequences = (mean(list(column)) for column in zip(*columns, strict=True))
    return StepMix(
        shares=tuple(shares),
        seconds=tuple(seconds),
        steps=tuple(counts),
        terms=(compute, weights, kv, sequences),
        work_seconds=mean(works),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class RoundCase:
    """A model under a workload on a partition, for any batch.

    Attributes:
        architecture: as loaded.
        workload: request shape.
        reached: rates that the partition reaches.
        max_num_batched_tokens: tokens of one engine step.
    """

    architecture: Architecture
    workload: Workload
    reached: Rates
    max_num_batched_tokens: int

    @property
    def cycle(self) -> Cycle:
        """Cycle that each slot goes through."""
        return cycle_of(self.workload, self.max_num_batched_tokens)

    def mix(self, cycle: Cycle, others: int, own_prompt_tokens: float = 0.0) -> StepMix:
        """Return the steps of `others` slots, beside one more prompt if given."""
        return step_mix(self.architecture, cycle, others, self.reached, own_prompt_tokens)

    @property
    def _steps(self) -> float:
        """Steps of a slot's cycle per output token."""
        return self.cycle.steps / self.workload.moments.o

    def round(self, batch: int) -> Round:
        """Return the mean round of `batch` slots that are refilled as soon as they finish."""
        mix = self.mix(self.cycle, batch)
        engine = self._steps * mix.mean_seconds
        sent = self.reached.sent_seconds(batch, batch / self.workload.moments.o)
        seconds = max(engine, sent)
        return Round(seconds, self._steps * mix.mean_steps, seconds / engine)

    def terms(self, batch: int) -> RoundTerms:
        """Split a round's time by what it is spent on."""
        mix, steps, reached = self.mix(self.cycle, batch), self._steps, self.reached
        compute, weights, kv, sequences = (steps * seconds for seconds in mix.terms)
        lumps = steps * mix.work_seconds - max(compute, weights + kv) if reached.overlaps else 0.0
        return RoundTerms(
            fixed=steps * mix.mean_steps * fixed_seconds(self.architecture, reached),
            weights=weights,
            compute=compute,
            kv=kv,
            sequences=sequences,
            lumps=max(0.0, lumps),
        )
