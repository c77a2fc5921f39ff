"""Measures how often 95 % intervals hold the truth on simulated engines.

    python -m bench.profiler.intervals [--runs 200] [--seed 1]

An engine step gives each running request a token and takes the same time for all of them; a new
request's prompt lengthens the step in which the request begins. Step times are independent or a
first-order autoregressive series (rho). The window's rule, the throughput and the latency summaries
are the load generator's own; the combined rate is the profiler's. The truth is a run many times as
long.
"""

import dataclasses
import itertools
import math
import random
from array import array
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from bench.command import options
from loadgen.load.lengths import lognormal_list
from loadgen.loops.window import WindowRule, WindowState
from loadgen.results.records import Outcome, Record
from loadgen.results.statistics import LatencySummary, Samples, TokenTimeline, summarise
from loadgen.results.statistics import throughput as measured_throughput
from partitiond.profiler.search import combine

BATCH: Final = 16
STEP_SECONDS: Final = 0.025
PREFILL_SECONDS: Final = 0.02
"""Time that a prompt of mean length adds to its step."""
OUTPUTS: Final = lognormal_list(256, 0.5)
PROMPTS: Final = lognormal_list(512, 0.5)
WARM_STEPS: Final = 2500
TRUE_STEPS: Final = 400_000
LATENCIES: Final = ("ttft", "tpot", "itl", "e2el")
FIGURES: Final = ("mean", "p50", "p95", "p99")

Series = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Step times and the interval that closes a window.

    Attributes:
        memory: correlation of neighbouring step times.
        variation: standard deviation / mean of step times.
    """

    memory: float
    variation: float
    half_width_share: float

    def __str__(self) -> str:
        return (
            f"rho {self.memory:g}, step times vary by {self.variation:.0%}, "
            f"asked for {self.half_width_share:.0%}"
        )


SCENARIOS: Final = (
    Scenario(0.0, 0.3, 0.02),
    Scenario(0.0, 0.3, 0.05),
    Scenario(0.9, 0.15, 0.05),
    Scenario(0.95, 0.1, 0.05),
    Scenario(0.97, 0.1, 0.05),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of an engine: when its steps ended, and each request's (first step, tokens)."""

    ends: Series
    requests: tuple[tuple[int, int], ...]

    def timeline(self) -> TokenTimeline:
        """The run's tokens in the order they arrived."""
        made = TokenTimeline()
        for at in self.ends:
            made.add(float(at), BATCH)
        return made

    def records(self, opened: float, closed: float) -> list[Record]:
        """The run's requests that overlap this time."""
        found: list[Record] = []
        for start, tokens in self.requests:
            times = self.ends[start : start + tokens]
            if times[-1] < opened or times[0] >= closed:
                continue
            sent = float(self.ends[start - 1])
            record = Record(len(found), sent=sent, end=float(times[-1]), outcome=Outcome.OK)
            record.chunk_times = array("d", times.tobytes())
            record.output_tokens = tokens
            found.append(record)
        return found


def run_engine(scenario: Scenario, steps: int, seed: int) -> Run:
    """Simulate a closed loop in steady state for this number of steps."""
    draw, generator = random.Random(seed), np.random.default_rng(seed)
    noise = generator.standard_normal(steps) * math.sqrt(1 - scenario.memory**2)
    noise[0] = generator.standard_normal()
    state = 0.0
    states = [state := scenario.memory * state + float(e) for e in noise]
    sigma = math.sqrt(math.log1p(scenario.variation**2))
    lasts = STEP_SECONDS * np.exp(sigma * np.array(states) - sigma**2 / 2)
    requests: list[tuple[int, int]] = []
    for _ in range(BATCH):
        at = 1 + draw.randrange(256)
        while at + (tokens := draw.choice(OUTPUTS)) < steps:
            requests.append((at, tokens))
            lasts[at] += PREFILL_SECONDS * draw.choice(PROMPTS) / 512
            at += tokens
    # Requests are numbered in the order of their sending, as in a load generator.
    return Run(np.cumsum(lasts), tuple(sorted(requests)))


@dataclasses.dataclass(frozen=True)
class Window:
    """A closed window: seconds from the run's begin; tokens/s and its 95 % half-width."""

    opened: float
    closed: float
    rate: float
    half_width: float


def window(timeline: TokenTimeline, rule: WindowRule, e2el: float, opened: float) -> Window:
    """A window by the load generator's rule."""
    elapsed = rule.next_look(0.0, e2el)
    while True:
        seen = measured_throughput(timeline, opened, opened + elapsed)
        if rule.state(elapsed, e2el, seen.half_width_share) is not WindowState.OPEN:
            return Window(opened, opened + elapsed, seen.output_tokens_per_s, seen.half_width)
        elapsed = rule.next_look(elapsed, e2el)


@dataclasses.dataclass
class Tally:
    """Counts of intervals and of those that contain the truth, and the sum of their widths."""

    inside: int = 0
    count: int = 0
    asked: int = 0
    shares: float = 0.0

    def add(self, interval: tuple[float, float] | None, truth: float) -> None:
        """Count one interval."""
        self.asked += 1
        if interval is None:
            return
        self.count += 1
        self.inside += interval[0] <= truth <= interval[1]
        self.shares += (interval[1] - interval[0]) / 2 / truth

    def __str__(self) -> str:
        if not self.count:
            return "none"
        told = "" if self.count == self.asked else f", told in {self.count / self.asked:.0%}"
        return f"{self.inside / self.count:.1%} (± {self.shares / self.count:.1%}{told})"


@dataclasses.dataclass
class Coverage:
    """Results of one scenario: tallies by figure, and the mean length of windows in seconds."""

    tallies: dict[str, Tally] = dataclasses.field(default_factory=lambda: defaultdict(Tally))
    seconds: float = 0.0

    def add(self, name: str, interval: tuple[float, float] | None, truth: float) -> None:
        """Count one interval of a figure."""
        self.tallies[name].add(interval, truth)


def latencies(records: Sequence[Record], opened: float, closed: float) -> dict[str, LatencySummary]:
    """Latency summaries by name."""
    samples = Samples.of_window(records, opened, closed)
    found = {name: summarise(getattr(samples, name)) for name in LATENCIES}
    return {name: summary for name, summary in found.items() if summary is not None}


def cover(scenario: Scenario, runs: int, seed: int) -> Coverage:
    """Simulate one scenario and count its intervals."""
    long = run_engine(scenario, TRUE_STEPS, seed)
    begin, end = float(long.ends[WARM_STEPS]), float(long.ends[-WARM_STEPS])
    truths = latencies(long.records(begin, end), begin, end)
    rate = BATCH * (TRUE_STEPS - 2 * WARM_STEPS) / (end - begin)
    rule = WindowRule(half_width_share=scenario.half_width_share)
    coverage = Coverage()
    for index in range(runs):
        steps = WARM_STEPS + round(2.2 * rule.max_seconds / STEP_SECONDS)
        engine = run_engine(scenario, steps, 1000 * seed + index + 1)
        opened, e2el = float(engine.ends[WARM_STEPS]) + 0.01, truths["e2el"].mean
        seen = window(engine.timeline(), rule, e2el, opened)
        coverage.seconds += (seen.closed - opened) / runs
        coverage.add("throughput", (seen.rate - seen.half_width, seen.rate + seen.half_width), rate)
        summaries = latencies(engine.records(seen.opened, seen.closed), seen.opened, seen.closed)
        for name, summary in summaries.items():
            for figure in FIGURES:
                interval = getattr(summary, f"{figure}_interval")
                coverage.add(f"{name} {figure}", interval, getattr(truths[name], figure))
    return coverage


VISITS: Final = (
    WindowRule(max_seconds=20.0, half_width_share=0.10),
    WindowRule(half_width_share=0.02),
    WindowRule(min_seconds=20.0, half_width_share=0.02),
    WindowRule(half_width_share=0.02),
)
"""A glance, a second visit, a fresh window for X*, and a repeat: the windows of a search."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """Variation between windows: speed (standard deviation) and the share of disturbed windows."""

    speed: float
    disturbed: float

    def factor(self, draw: random.Random) -> float:
        """Speed of one window."""
        slow = draw.uniform(0.6, 0.9) if draw.random() < self.disturbed else 1.0
        return slow * (1 + draw.gauss(0, self.speed))


MACHINES: Final = (Machine(0.0, 0.0), Machine(0.01, 0.0), Machine(0.01, 0.05))


def visit_windows(scenario: Scenario, runs: int, seed: int) -> list[list[tuple[float, float]]]:
    """For each run, (rate, half-width) of the windows of `VISITS`, relative to the truth."""
    long = run_engine(scenario, TRUE_STEPS, seed)
    truth = BATCH * (TRUE_STEPS - WARM_STEPS) / float(long.ends[-1] - long.ends[WARM_STEPS - 1])
    e2el = 256 * BATCH / truth
    found = []
    for index in range(runs):
        steps = WARM_STEPS + round(2.2 * 60 / STEP_SECONDS)
        seen = []
        for number, rule in enumerate(VISITS):
            engine = run_engine(scenario, steps, (1000 * seed + index) * 10 + number)
            made = window(engine.timeline(), rule, e2el, float(engine.ends[WARM_STEPS]) + 0.01)
            seen.append((made.rate / truth, made.half_width / truth))
        found.append(seen)
    return found


def combined(
    windows: Sequence[Sequence[tuple[float, float]]], machine: Machine, visits: int, seed: int
) -> Tally:
    """Coverage of the combined rate of the first `visits` windows."""
    draw = random.Random(seed)
    tally = Tally()
    for seen in windows:
        factors = [machine.factor(draw) for _ in seen[:visits]]
        rates = [rate * factor for (rate, _), factor in zip(seen, factors, strict=False)]
        widths = [width * factor for (_, width), factor in zip(seen, factors, strict=False)]
        mean, width = combine(rates, widths)
        tally.add((mean - width, mean + width), 1.0)
    return tally


def main() -> None:
    """Print the coverage of all intervals."""
    given = options(__doc__, runs=200, seed=1).parse_args()
    for scenario in SCENARIOS:
        coverage = cover(scenario, given.runs, given.seed)
        print(f"\n{scenario}: windows of {coverage.seconds:.1f} s; coverage (mean half-width)")
        for name, tally in coverage.tallies.items():
            print(f"  {name:<12}{tally}")
    for scenario in (SCENARIOS[0], SCENARIOS[3]):
        windows = visit_windows(scenario, given.runs, given.seed)
        for machine, visits in itertools.product(MACHINES, (2, 3, 4)):
            tally = combined(windows, machine, visits, given.seed)
            print(
                f"  combined: rho {scenario.memory:g}, {visits} windows, speed ± "
                f"{machine.speed:.0%}, {machine.disturbed:.0%} disturbed: {tally}"
            )


if __name__ == "__main__":
    main()
