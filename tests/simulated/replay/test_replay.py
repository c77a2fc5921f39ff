"""A plan is replayed: what was promised comes, shared, crowded, overloaded or not."""

import dataclasses

import pytest

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.model.spec import Slo
from partitiond.core.plan.record import Placement
from partitiond.simulated.replay.host import HostCosts
from partitiond.simulated.replay.models import EngineModel
from partitiond.simulated.replay.promise import promises
from partitiond.simulated.replay.replay import OfferedLoad, ReplayOptions, replay_plan
from tests.simulated.replay.samples import (
    BATCH,
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
SLO = Slo(ttft_seconds=0.5, tpot_seconds=0.03)


def test_alone_and_full_the_replay_is_the_promise() -> None:
    made = plan({"gpu": [candidate("m")]}, {"m": None, "nowhere": 5.0})
    (one,) = replay_plan(made, traffic("m"), engine, FULL, OPTIONS).models
    assert one.promise.model == "m", "one that has no place is left out"
    assert one.outcome.output_tokens_per_s == pytest.approx(X, rel=0.01)
    assert one.outcome.tpot_p95_seconds == pytest.approx(STEP_SECONDS)
    assert one.outcome.ttft_p95_seconds == pytest.approx(2 * STEP_SECONDS)


def test_replicas_that_share_a_device_get_what_sigma_leaves_them() -> None:
    shared = [candidate("a", mode=MEMORY, busy=0.8), candidate("b", mode=MEMORY, busy=0.7)]
    made = plan({"gpu": shared}, {"a": None, "b": None}, level=1.5)
    for one in replay_plan(made, traffic("a", "b"), engine, FULL, OPTIONS).models:
        assert one.outcome.output_tokens_per_s == pytest.approx(X / 1.5, rel=0.01)
        assert one.promise.output_tokens_per_s == pytest.approx(X / 1.5)
        assert one.promise.alone[0] == pytest.approx(X)
        assert one.outcome.tpot_p95_seconds == pytest.approx(1.5 * STEP_SECONDS)


def test_what_a_host_costs_is_in_a_replay() -> None:
    def costly(placement: Placement) -> EngineModel:
        costs = HostCosts(way_seconds=0.05, token_cpu_seconds=STEP_SECONDS / BATCH)
        return dataclasses.replace(engine(placement), costs=costs)

    made = plan({"one": [candidate("m")], "two": [candidate("n")]}, {"m": None, "n": None})
    for cores, factor in (((0, 1), 2), ((0, 1, 2), 1)):
        devices = tuple(dataclasses.replace(one, cores=cores) for one in made.devices)
        beside = dataclasses.replace(made, devices=devices)
        for one in replay_plan(beside, traffic("m", "n"), costly, FULL, OPTIONS).models:
            # Two engines of one core each crowd a host of two: full steps take twice as long.
            assert one.outcome.tpot_p95_seconds == pytest.approx(factor * STEP_SECONDS, rel=0.15)
            assert one.outcome.ttft_p50_seconds is not None
            assert 0.05 < one.outcome.ttft_p50_seconds < 0.05 + 3 * factor * STEP_SECONDS


def test_the_demand_is_served_within_the_slo() -> None:
    made = plan({"gpu-0": [candidate("m")], "gpu-1": [candidate("m")]}, {"m": 60.0})
    (one,) = replay_plan(made, traffic("m", slo=SLO), engine, DEMAND, OPTIONS).models
    assert one.promise.served_req_per_s == 60.0
    assert one.outcome.arrivals == pytest.approx(60 * 60, rel=0.05)
    assert one.outcome.attainment == 1.0
    assert one.holds_slo


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


def test_equal_seeds_give_equal_replays() -> None:
    shared = [candidate("a", mode=MEMORY, busy=0.6), candidate("b", mode=MEMORY, busy=0.6)]
    made = plan({"gpu": shared}, {"a": 20.0, "b": 10.0}, level=1.25)
    first, again, other = (
        replay_plan(
            made, traffic("a", "b"), engine, DEMAND, dataclasses.replace(OPTIONS, seed=seed)
        )
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
