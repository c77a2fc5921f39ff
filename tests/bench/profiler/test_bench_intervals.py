"""Intervals hold the truth of simulated engines as often as the benchmark states.

The bounds are about three standard deviations, for that number of runs, below the stated shares.
"""

import random

import pytest

from bench.profiler import intervals

RUNS = 60


def share(tally: intervals.Tally) -> float:
    return tally.inside / tally.count


@pytest.mark.soak
@pytest.mark.parametrize("parameters", [(0.0, 0.3, 0.05), (0.9, 0.15, 0.05), (0.97, 0.1, 0.05)])
def test_throughput_and_gaps_are_covered(parameters: tuple[float, float, float]) -> None:
    tallies = intervals.cover(intervals.Scenario(*parameters), RUNS, seed=3).tallies
    least = 0.84 if parameters[0] < 0.95 else 0.74
    for name in ("throughput", "itl mean", "itl p50", "itl p95", "ttft mean", "e2el mean"):
        assert share(tallies[name]) >= least, name
    assert share(tallies["tpot mean"]) >= 0.7


def test_every_running_request_gets_a_token_of_every_step() -> None:
    run = intervals.run_engine(intervals.Scenario(0.5, 0.2, 0.05), 4000, 1)
    tokens = [0] * 4000
    for start, count in run.requests:
        for step in range(start, start + count):
            tokens[step] += 1
    assert set(tokens[257:1500]) == {intervals.BATCH}


def test_combined_windows_are_covered_where_the_machine_is_as_assumed() -> None:
    draw = random.Random(1)
    windows = [[(1 + draw.gauss(0, 0.01), 0.02) for _ in range(4)] for _ in range(600)]
    for machine in intervals.MACHINES[:2]:
        for visits in (2, 3, 4):
            assert share(intervals.combined(windows, machine, visits, 5)) >= 0.91
