"""The time at which a model without a replica will serve again is predicted."""

import dataclasses

import pytest

from partitiond.core.plan.outage import drain_seconds
from partitiond.core.plan.record import Placement
from partitiond.core.replica.observation import ObservedReplica
from partitiond.core.replica.ready_times import LONGER, Starts, ready_times, settled
from partitiond.core.replica.states import ReplicaState
from tests.core.simulated_host import placement

STARTS = Starts({"a-1": 10.0, "a-2": 10.0, "b-1": 20.0}, {"a-1": 4.0})


def engine(
    wanted: Placement, state: ReplicaState, since: float, failures: int = 0
) -> ObservedReplica:
    return ObservedReplica(wanted.replica_id, "g", wanted, state, 0, since, failures)


def test_a_start_under_way_is_over_when_those_before_were() -> None:
    wanted = placement("a-1")
    starting = engine(wanted, ReplicaState.STARTING, 100.0)
    assert ready_times((wanted,), (starting,), STARTS, 103.0) == {"a": 110.0}


def test_one_that_takes_longer_is_looked_for_later_and_later() -> None:
    wanted = placement("a-1")
    starting = engine(wanted, ReplicaState.STARTING, 100.0)
    times = [ready_times((wanted,), (starting,), STARTS, now)["a"] for now in (111.0, 116.0)]
    assert times == pytest.approx([100 + 10 * LONGER, 100 + 10 * LONGER**2])


def test_on_one_device_each_waits_for_the_one_before() -> None:
    first, second = placement("a-1"), placement("b-1", [1])
    starting = engine(first, ReplicaState.STARTING, 100.0)
    assert ready_times((first, second), (starting,), STARTS, 103.0) == {"a": 110.0, "b": 130.0}


def test_a_start_that_waits_for_a_drain_comes_after_it() -> None:
    old, new = placement("a-1"), placement("a-1", batch=16)
    leaving = engine(old, ReplicaState.DRAINING, 100.0)
    full = dataclasses.replace(leaving, in_flight=old.candidate.batch)
    expected = 100.0 + drain_seconds(old) + 10.0
    assert ready_times((new,), (full,), STARTS, 101.0) == {"a": expected}
    assert ready_times((new,), (leaving,), STARTS, 101.0) == {"a": 111.0}


def test_a_failed_replica_waits_out_its_back_off_and_one_that_fails_for_ever_is_not_expected() -> (
    None
):
    wanted = placement("a-1")
    once = engine(wanted, ReplicaState.FAILED, 100.0, failures=1)
    assert ready_times((wanted,), (once,), STARTS, 101.0) == {"a": 114.0}
    often = dataclasses.replace(once, failures=3)
    assert ready_times((wanted,), (often,), STARTS, 101.0) == {}


def test_who_serves_sleeps_or_was_never_seen_to_start_is_left_out() -> None:
    wanted = placement("a-1")
    assert ready_times((wanted,), (engine(wanted, ReplicaState.SERVING, 0.0),), STARTS, 1.0) == {}
    assert ready_times((wanted,), (engine(wanted, ReplicaState.SLEEPING, 0.0),), STARTS, 1.0) == {}
    assert ready_times((placement("c-1"),), (), STARTS, 1.0) == {}


def test_a_time_that_says_nearly_the_same_is_not_told_anew() -> None:
    assert settled({"a": 110.0}, {"a": 110.9}, 100.0) == {"a": 110.0}
    assert settled({"a": 110.0}, {"a": 120.0}, 100.0) == {"a": 120.0}
    assert settled({"a": 110.0}, {"a": 110.5}, 110.2) == {"a": 110.5}
    assert settled({"a": 110.0}, {}, 100.0) == {}
