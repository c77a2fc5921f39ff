"""What a plan promised is compared with the rounds of a measurement."""

import pytest

from bench.serving.mixed_plan import rows_of, table
from bench.serving.promises import (
    ComparedFigure,
    OfferedLoad,
    Outcome,
    differences,
    promises,
)
from tests.simulated.samples import candidate, plan

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
    one = Outcome(100, good, promise.output_tokens_per_s, ttft, 0.005)
    found = {d.figure: d for d in differences(promise, one, load, 0.95)}
    assert set(found) == {THROUGHPUT if load is FULL else SERVED, TTFT, TPOT}
    assert {figure: found[figure].error for figure in errors} == pytest.approx(errors)
    assert {figure for figure, one in found.items() if one.is_miss} == misses
    assert not differences(promise, Outcome(0, 0, 0.0, None, None), load, 0.95)


def test_rounds_of_a_real_plan_are_compared_by_their_median() -> None:
    told = promises(plan({"cpu": [candidate("m")]}, {"m": 20.0}))
    rounds = {
        FULL: [{"m": _measured(rate)} for rate in (60.0, 90.0, 70.0)],
        DEMAND: [{"m": _measured(30.0)}],
    }
    rows = list(rows_of(told, rounds, {"m": 0.95}))
    full = next(row for row in rows if row.plan.figure is THROUGHPUT)
    assert full.plan.got == 70.0
    assert full.rounds == (60.0, 90.0, 70.0)
    assert "3 of 3 promises were kept" in "\n".join(table(rows))


def _measured(rate: float) -> Outcome:
    return Outcome(50, 50, rate, 0.015, 0.008)
