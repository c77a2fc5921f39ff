"""A plan is replayed: what was promised comes, shared, crowded, overloaded or not."""

import dataclasses

import pytest

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.model.spec import Slo
from partitiond.simulated.replay.promise import promises
from partitiond.simulated.replay.replay import OfferedLoad, ReplayOptions, replay_plan
from tests.simulated.replay.samples import (
    NO_LOSS,
    STEP_SECONDS,
    WORKLOAD,
    X,
    candidate,
    engine,
    plan,
    traffic,
)

FULL, DEMAND = OfferedLoad.FULL, OfferedLoad.DEMAND
MEMORY = SharingMode.MEMORY
OPTIONS = ReplayOptions(seconds=60.0, interference=NO_LOSS)


@pytest.mark.parametrize("level", [1.0, 1.5])
def test_replicas_get_what_sigma_leaves_them_of_their_device(level: float) -> None:
    """Full, alone or two of them, the replay is the promise."""
    shared = [candidate("a", mode=MEMORY, busy=0.8), candidate("b", mode=MEMORY, busy=0.7)]
    placed = {"gpu": shared} if level > 1 else {"g0": shared[:1], "g1": shared[1:]}
    made = plan(placed, {"a": None, "b": None}, level=level)
    for one in replay_plan(made, traffic("a", "b"), engine, FULL, OPTIONS).models:
        assert one.outcome.output_tokens_per_s == pytest.approx(X / level, rel=0.01)
        assert one.promise.output_tokens_per_s == pytest.approx(X / level)
        assert one.promise.alone[0] == pytest.approx(X)
        assert one.outcome.tpot_p95_seconds == pytest.approx(level * STEP_SECONDS)
        if level == 1:
            assert one.outcome.ttft_p95_seconds == pytest.approx(2 * STEP_SECONDS)


def test_overload_is_refused_and_what_is_served_is_served_in_time() -> None:
    made = plan({"gpu": [candidate("m", share=1.0)]}, {"m": None})
    options = dataclasses.replace(OPTIONS, factor=2.0)
    slo = Slo(0.2, 0.03)
    (one,) = replay_plan(made, traffic("m", slo=slo), engine, DEMAND, options).models
    assert one.outcome.refused > 0.4 * one.outcome.arrivals
    assert one.outcome.req_per_s == pytest.approx(X / WORKLOAD.output_tokens, rel=0.05)
    assert one.outcome.good > 0.9 * one.outcome.answered
    assert not one.holds_slo
    (promise,) = promises(plan({"gpu": [candidate("m")]}, {"m": 1000.0}))
    assert promise.served_req_per_s == promise.capacity_req_per_s


def test_the_demand_is_served_within_the_slo_and_equal_seeds_give_equal_replays() -> None:
    """A model that has no place is left out."""
    made = plan({"gpu-0": [candidate("m")], "gpu-1": [candidate("m")]}, {"m": 60.0, "none": 5.0})
    first, again, other = (
        replay_plan(
            made,
            traffic("m", slo=Slo(0.5, 0.03)),
            engine,
            DEMAND,
            dataclasses.replace(OPTIONS, seed=seed),
        )
        for seed in (0, 0, 1)
    )
    (one,) = first.models
    assert one.promise.served_req_per_s == 60.0
    assert one.outcome.arrivals == pytest.approx(60 * 60, rel=0.05)
    assert one.outcome.attainment == 1.0
    assert one.holds_slo
    assert first == again
    assert first != other
