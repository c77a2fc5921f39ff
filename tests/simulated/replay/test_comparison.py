import pytest

from partitiond.simulated.replay.comparison import (
    ComparedFigure,
    Difference,
    by_figure,
    differences,
    differences_of,
    summarise,
)
from partitiond.simulated.replay.models import SimulatedTraffic
from partitiond.simulated.replay.outcome import Outcome
from partitiond.simulated.replay.promise import promises
from partitiond.simulated.replay.replay import OfferedLoad, ReplayOptions, replay_plan
from tests.simulated.replay.samples import WORKLOAD, candidate, engine, plan


def outcome(*, arrivals: int = 100, good: int = 100, ttft: float = 0.02) -> Outcome:
    return Outcome(10.0, arrivals, arrivals, 0, good, 70.0, ttft, 0.005)


(PROMISE,) = promises(plan({"gpu": [candidate("m")]}, {"m": 40.0}))


def found(one: Outcome, load: OfferedLoad) -> dict[ComparedFigure, Difference]:
    return {d.figure: d for d in differences(PROMISE, one, load, 0.95)}


def test_at_full_load_faster_than_promised_is_an_error_too() -> None:
    those = found(outcome(), OfferedLoad.FULL)
    assert set(those) == {ComparedFigure.THROUGHPUT, ComparedFigure.TTFT, ComparedFigure.TPOT}
    assert those[ComparedFigure.TPOT].error == pytest.approx(-0.5)
    assert those[ComparedFigure.TPOT].is_miss
    assert not those[ComparedFigure.TTFT].is_miss


def test_at_the_demand_only_a_broken_promise_is_one() -> None:
    those = found(outcome(ttft=0.03), OfferedLoad.DEMAND)
    assert set(those) == {ComparedFigure.SERVED, ComparedFigure.TTFT, ComparedFigure.TPOT}
    assert those[ComparedFigure.TPOT].error == 0
    assert those[ComparedFigure.TTFT].error == pytest.approx(0.5)
    assert those[ComparedFigure.TTFT].is_miss


def test_any_shortfall_of_the_served_share_is_a_miss() -> None:
    assert not found(outcome(good=95), OfferedLoad.DEMAND)[ComparedFigure.SERVED].is_miss
    assert found(outcome(good=94), OfferedLoad.DEMAND)[ComparedFigure.SERVED].is_miss


def test_nothing_is_said_of_a_model_to_which_nothing_came() -> None:
    assert found(outcome(arrivals=0, good=0), OfferedLoad.DEMAND) == {}


def test_a_summary_has_the_baseline_beside_it() -> None:
    those = [
        Difference("a", OfferedLoad.FULL, ComparedFigure.THROUGHPUT, 100.0, 90.0, naive=200.0),
        Difference("b", OfferedLoad.FULL, ComparedFigure.THROUGHPUT, 100.0, 70.0, naive=100.0),
        Difference("c", OfferedLoad.FULL, ComparedFigure.THROUGHPUT, 100.0, 105.0, naive=105.0),
    ]
    summary = summarise(those)
    assert summary is not None
    assert (summary.count, summary.misses) == (3, 1)
    assert summary.median == pytest.approx(0.1)
    assert summary.worst == pytest.approx(0.3)
    assert summary.naive_median == pytest.approx(0.3)
    assert summarise([]) is None


def test_a_replay_is_compared_model_by_model() -> None:
    made = plan({"gpu-0": [candidate("a")], "gpu-1": [candidate("b")]}, {"a": 20.0, "b": 10.0})
    traffic = [SimulatedTraffic("a", WORKLOAD), SimulatedTraffic("b", WORKLOAD)]
    replay = replay_plan(made, traffic, engine, OfferedLoad.FULL, ReplayOptions(seconds=10.0))
    those = differences_of(replay)
    assert [one.model for one in those] == ["a"] * 3 + ["b"] * 3
    assert {key: s.misses for key, s in by_figure(those).items()} == {
        (OfferedLoad.FULL, figure): 0
        for figure in (ComparedFigure.THROUGHPUT, ComparedFigure.TTFT, ComparedFigure.TPOT)
    }
