"""A fake GPU whose interference law is known: the check finds it within its own intervals.

The GPU is a sampler on virtual time: an engine's steps, with correlated noise and another speed in
each window, become tokens that the load generator's own statistics read.
"""

import asyncio
import dataclasses
import math
import random
from collections.abc import Sequence

import pytest

from bench.gpu_check.gain import Rate, gain, rate_of
from bench.gpu_check.side_by_side import Together
from bench.gpu_check.steps.grid import (
    Arm,
    again,
    alternated,
    as_run,
    gains_of,
    headline,
    rows_of,
)
from bench.profiler.sharing_fit import fit_sharing
from loadgen.results.statistics import TokenTimeline, throughput
from partitiond.core.hardware.kinds import SharingMode

SEEDS = 100
WINDOW_SECONDS = 8.0
BATCH = 128
COUNTS = (1, 2, 4)


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One replica alone, u and kappa of replicas side by side, and single engines by API servers.

    Attributes:
        noise: standard deviation of a step's time, by its mean; half of it stays for the next.
        drift: standard deviation of the speed from one window to the next.
    """

    alone: float
    busy: float
    kappa: float
    singles: tuple[float, ...]
    noise: float = 0.1
    drift: float = 0.0075

    def rate(self, arm: Arm) -> float:
        """True output tokens/s of each engine under load."""
        if arm.single:
            return self.singles[int(arm.columns["n"])]
        count = len(arm.engines)
        return self.alone / (max(1.0, count * self.busy) * (1 + self.kappa * (count - 1)))

    def gain(self, count: int) -> float:
        """True gain of so many replicas over the best single engine."""
        return count * self.rate(ARMS[COUNTS.index(count)]) / max(self.singles)


ARMS = (
    *(Arm({"replicas": n}, tuple(range(n)), BATCH) for n in COUNTS),
    *(Arm({"n": n}, (4 + n,), 4 * BATCH, single=True) for n in range(2)),
)


def sampled(gpu: Gpu, arm: Arm, draw: random.Random) -> Together:
    """One window of an arm."""
    clock = draw.gauss(1.0, gpu.drift)
    each = []
    for _ in arm.engines:
        timeline, at, noise = TokenTimeline(), 0.0, 0.0
        while at < WINDOW_SECONDS + 2:
            noise = 0.5 * noise + draw.gauss(0.0, gpu.noise)
            at += clock * max(0.2, 1 + noise) * arm.batch / gpu.rate(arm)
            timeline.add(at, arm.batch)
        found = throughput(timeline, 1.0, 1.0 + WINDOW_SECONDS)
        each.append(
            {
                "output_tokens_per_s": found.output_tokens_per_s,
                "half_width": found.half_width,
                "tpot_p95_seconds": arm.batch / gpu.rate(arm),
                "ttft_p95_seconds": 0.1,
                "e2el_mean_seconds": 1.0,
                "cpu_share": 0.1,
            }
        )
    return Together(tuple(each), None, WINDOW_SECONDS)


def measured(gpu: Gpu, seed: int) -> list[list[Together]]:
    draw = random.Random(seed)

    async def measure(arm: Arm) -> Together:
        return sampled(gpu, arm, draw)

    return asyncio.run(alternated(ARMS, measure))


def covered(gpu: Gpu, found: Sequence[Sequence[Together]]) -> list[bool]:
    """Whether the interval of each gain holds the truth, for 1, 2 and 4 replicas."""
    gains = gains_of(ARMS, [rate_of(windows) for windows in found])
    return [
        abs(over.ratio - gpu.gain(count)) <= over.half_width
        for count, over in zip(COUNTS, gains, strict=False)
        if over is not None
    ]


GAINS = Gpu(alone=4000.0, busy=0.3, kappa=0.04, singles=(7000.0, 9000.0))
NONE = Gpu(alone=4000.0, busy=0.8, kappa=0.0, singles=(4200.0, 5000.0))
"""Four replicas reach 5000 tokens/s together, as the best single engine does."""
NOISY = dataclasses.replace(GAINS, noise=0.3)


@pytest.mark.parametrize(
    ("gpu", "verdict"),
    [(GAINS, "gain"), (NONE, "no gain shown"), pytest.param(NOISY, "gain", marks=pytest.mark.full)],
    ids=["gains", "none", "noisy"],
)
def test_the_truth_lies_in_the_intervals_of_95_of_100_seeds(gpu: Gpu, verdict: str) -> None:
    found = [measured(gpu, seed) for seed in range(SEEDS)]
    held = [covered(gpu, windows) for windows in found]
    assert sum(sum(counts) for counts in held) >= 0.95 * SEEDS * len(COUNTS)
    said = [rows_of(ARMS, windows)[2]["shown"] for windows in found]
    assert said.count(verdict) >= 0.95 * SEEDS
    assert verdict in headline(ARMS, found[0])


def test_the_law_that_is_fitted_gives_the_sums_that_are_true() -> None:
    runs = [
        as_run(arm, windows, SharingMode.MPS, 2)
        for arm, windows in zip(ARMS, measured(GAINS, 1), strict=True)
        if not arm.single
    ]
    found = fit_sharing(runs)
    for run in runs[1:]:
        count = run.replicas
        slow = max(1.0, count * found.busy) * (1 + found.kappa * (count - 1))
        true = count * GAINS.rate(ARMS[COUNTS.index(count)])
        width = run.half_width + count * runs[0].half_width
        assert count * runs[0].total_output_tokens_per_s / slow == pytest.approx(true, abs=width)
        assert run.total_output_tokens_per_s == pytest.approx(true, abs=2 * run.half_width)


def test_what_is_measured_once_more_is_uncertain_or_decides() -> None:
    def windows(rate: float, width: float) -> list[Together]:
        figures = {"output_tokens_per_s": rate, "half_width": width}
        return [Together((figures,), None, 8.0)]

    found = [windows(100, 1), windows(190, 9), windows(300, 1), windows(90, 1), windows(120, 1)]
    assert again(ARMS, found) == [1, 2, 4], "uncertain, the best replicas, the best single engine"
    assert again(ARMS[:3], found[:3]) == [1], "nothing is compared with a single engine"
    assert gain(Rate(110.0, 2.0), Rate(100.0, 2.0)).verdict == "gain"
    assert gain(Rate(90.0, 2.0), Rate(100.0, 2.0)).verdict == "loss"
    assert gain(Rate(102.5, 2.0), Rate(100.0, 2.0)).verdict == "no gain shown"
    assert gain(Rate(103.0, 2.0), Rate(0.0, math.inf)).verdict == "no gain shown"
    each = ({"output_tokens_per_s": 1.0, "half_width": None},)
    assert Together(each, None).half_width == math.inf, "an unknown interval is not a narrow one"
