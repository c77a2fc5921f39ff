"""A replay's figures are compared with what the plan promised."""

import pytest

from partitiond.simulated.replay.comparison import (
    ComparedFigure,
    Difference,
    by_figure,
    differences,
    differences_of,
    summarise,
)
from partitiond.simulated.replay.outcome import Outcome
from partitiond.simulated.replay.promise import promises
from partitiond.simulated.replay.replay import OfferedLoad, ReplayOptions, replay_plan
from tests.simulated.replay.samples import candidate, engine, plan, traffic

FULL, DEMAND = OfferedLoad.FULL, OfferedLoad.DEMAND
SERVED, THROUGHPUT = ComparedFigure.SERVED, ComparedFigure.THROUGHPUT
TTFT, TPOT = ComparedFigure.TTFT, ComparedFigure.TPOT


@pytest.mark.parametrize(
    ("load", "good", "ttft", "errors", "misses"),
    [
        # At full load, faster than promised is an error, too; at the demand it is none.
        (FULL, 100, 0.02, {TTFT: 0.0, TPOT: -0.5}, {TPOT}),
        (DEMAND, 100, 0.03, {TTFT: 0.5, TPOT: 0.0}, {TTFT}),
        (DEMAND, 95, 0.02, {TTFT: 0.0}, set()),
        (DEMAND, 94, 0.02, {TTFT: 0.0}, {SERVED}),
    ],
)
def test_what_of_the_promise_is_an_error_and_a_miss(
    load: OfferedLoad,
    good: int,
    ttft: float,
    errors: dict[ComparedFigure, float],
    misses: set[ComparedFigure],
) -> None:
    (promise,) = promises(plan({"gpu": [candidate("m")]}, {"m": 40.0}))
    rate = promise.output_tokens_per_s
    one = Outcome(10.0, 100, 100, 0, good, rate, ttft, 0.005)
    found = {d.figure: d for d in differences(promise, one, load, 0.95)}
    assert set(found) == {THROUGHPUT if load is FULL else SERVED, TTFT, TPOT}
    assert {figure: found[figure].error for figure in errors} == pytest.approx(errors)
    assert {figure for figure, one in found.items() if one.is_miss} == misses
    nothing = Outcome(10.0, 0, 0, 0, 0, 0.0, None, None)
    assert load is FULL or list(differences(promise, nothing, load, 0.95)) == []


def test_a_summary_has_the_baseline_beside_it() -> None:
    those = [
        Difference("a", FULL, THROUGHPUT, 100.0, 90.0, naive=200.0),
        Difference("b", FULL, THROUGHPUT, 100.0, 70.0, naive=100.0),
        Difference("c", FULL, THROUGHPUT, 100.0, 105.0, naive=105.0),
    ]
    summary = summarise(those)
    assert summary is not None
    assert (summary.count, summary.misses) == (3, 1)
    assert (summary.median, summary.worst) == pytest.approx((0.1, 0.3))
    assert summary.naive_median == pytest.approx(0.3)
    assert summarise([]) is None
    made = plan({"gpu-0": [candidate("a")], "gpu-1": [candidate("b")]}, {"a": 20.0, "b": 10.0})
    replay = replay_plan(made, traffic("a", "b"), engine, FULL, ReplayOptions(seconds=10.0))
    of_each = differences_of(replay)
    assert [one.model for one in of_each] == ["a"] * 3 + ["b"] * 3
    figures = {key: s.misses for key, s in by_figure(of_each).items()}
    assert figures == {(FULL, figure): 0 for figure in (THROUGHPUT, TTFT, TPOT)}
