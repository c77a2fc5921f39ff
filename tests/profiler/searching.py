"""Simulates engines for the tests of the search: a curve, noise, and a trial's cost."""

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

from partitiond.core.profile.knee import knee_range, still_grows
from partitiond.profiler import search
from partitiond.profiler.search import NextTrial, Purpose, SearchDone, SearchLimits, Visit

OUTPUT_TOKENS = 32
Curve = Callable[[int], float]


def saturating(base: float, slope: float) -> Curve:
    """Step time base + slope b: grows for ever, ever slower."""
    return lambda b: b / (base + slope * b)


def flattening(knee: float, top: float = 1000.0) -> Curve:
    """Grows in proportion, and not at all beyond the knee."""
    return lambda b: top * min(b, knee) / knee


@dataclasses.dataclass
class Outcome:
    """A finished search."""

    visits: list[Visit]
    done: SearchDone
    elapsed: float

    @property
    def knee(self) -> int:
        rates = search.curve(self.visits)
        best = search.best_rate(self.visits) or max(r.output_tokens_per_s for r in rates)
        return knee_range(rates, best, 0.05)[0]

    @property
    def claims_a_knee(self) -> bool:
        return not still_grows(search.curve(self.visits), 0.05)

    @property
    def counts(self) -> Counter[int]:
        return Counter(v.batch for v in self.visits)

    def of(self, purpose: Purpose) -> list[int]:
        return [v.batch for v in self.visits if v.purpose is purpose]


@dataclasses.dataclass(frozen=True)
class Engine:
    """What a trial gives.

    Attributes:
        noise: relative standard deviation of a window of 10 s.
        kv_batch: beyond it the KV cache limits.
        dies_at: the engine dies at this batch and beyond.
        drift: the machine's speed by the time since the beginning.
    """

    rate: Curve
    noise: float = 0.0
    seed: int = 0
    kv_batch: int = 10**9
    dies_at: int = 10**9
    drift: Callable[[float], float] = lambda _: 1.0

    def trial(self, proposal: NextTrial, at: float) -> Visit:
        """Deterministic in the engine, the trial and its time."""
        draw = random.Random(f"{self.seed}/{proposal.batch}/{at:.6f}")
        batch = proposal.batch
        if batch >= self.dies_at:
            return Visit(batch, proposal.purpose, 0.0, math.inf, 5.0, 0.0, died=True)
        true = self.rate(min(batch, self.kv_batch)) * self.drift(at)
        e2el = batch * OUTPUT_TOKENS / true
        window = max(proposal.min_window_seconds, 2 * e2el)
        wanted = proposal.half_width_share or 0.05
        needed = 10 * (2 * self.noise / wanted) ** 2
        window = max(window, min(proposal.max_window_seconds, needed))
        sigma = self.noise * math.sqrt(10 / window)
        return Visit(
            batch=batch,
            purpose=proposal.purpose,
            output_tokens_per_s=true * (1 + draw.gauss(0, sigma)),
            half_width=true * 2 * sigma,
            seconds=1.2 * e2el + window,
            e2el_seconds=e2el,
            kv_limited=batch > self.kv_batch,
        )


def simulate(engine: Engine, limits: SearchLimits, before: Sequence[Visit] = ()) -> Outcome:
    """Run the search to its end, or go on after these visits."""
    visits = list(before)
    elapsed = math.fsum(v.seconds for v in visits)
    for _ in range(300):
        proposal = search.propose(visits, limits, elapsed)
        if isinstance(proposal, SearchDone):
            return Outcome(visits, proposal, elapsed)
        visits.append(engine.trial(proposal, elapsed))
        elapsed = math.fsum(v.seconds for v in visits)
    raise AssertionError("the search does not end")


def true_knee(rate: Curve, largest: int) -> int:
    """By the definition, of the true search.curve."""
    best = max(rate(b) for b in range(1, largest + 1))
    return next(b for b in range(1, largest + 1) if rate(b) >= 0.95 * best)
