"""The time at which a model without a replica will serve again is predicted."""

import dataclasses
from typing import Any

import pytest

from partitiond.core.plan.outage import drain_seconds
from partitiond.core.plan.record import Placement
from partitiond.core.replica.observation import ObservedReplica
from partitiond.core.replica.ready_times import LONGER, Starts, ready_times, settled
from partitiond.core.replica.states import ReplicaState
from tests.core.simulated_host import placement

STARTS = Starts({"a-1": 10.0, "a-2": 10.0, "b-1": 20.0}, {"a-1": 4.0})
A, B, C, ANEW = (
    placement("a-1"), placement("b-1", [1]), placement("c-1"), placement("a-1", batch=16)
)  # fmt: skip


def engine(state: ReplicaState, in_flight: int | None = 0, failures: int = 0) -> ObservedReplica:
    """That of A, in this state since second 100."""
    return ObservedReplica("a-1", "g", A, state, in_flight, 100.0, failures)


STARTING, LEAVING = engine(ReplicaState.STARTING), engine(ReplicaState.DRAINING)


@pytest.mark.parametrize(
    ("wanted", "there", "now", "times"),
    [
        ([A], [STARTING], 103.0, {"a": 110.0}),
        # One that takes longer is looked for later and later.
        ([A], [STARTING], 111.0, {"a": 100 + 10 * LONGER}),
        # On one device each waits for the one before, and for a drain.
        ([A, B], [STARTING], 103.0, {"a": 110.0, "b": 130.0}),
        ([ANEW], [engine(ReplicaState.DRAINING, A.candidate.batch)], 101.0,
         {"a": 110.0 + drain_seconds(A)}),
        ([ANEW], [LEAVING], 101.0, {"a": 111.0}),
        ([ANEW], [engine(ReplicaState.DRAINING, None)], 100.0, {"a": 110.0}),
        # A failed one waits out its back-off; one that fails for ever is not expected.
        ([A], [engine(ReplicaState.FAILED, failures=1)], 101.0, {"a": 114.0}),
        ([A], [engine(ReplicaState.FAILED, failures=3)], 101.0, {}),
        # Nor is who serves or sleeps, or was never seen to start.
        ([A], [engine(ReplicaState.SLEEPING)], 101.0, {}),
    ],
)  # fmt: skip
def test_when_a_model_serves_again(
    wanted: list[Placement], there: list[ObservedReplica], now: float, times: dict[str, Any]
) -> None:
    assert ready_times(tuple(wanted), tuple(there), STARTS, now) == pytest.approx(times)


@pytest.mark.parametrize(
    ("cores", "times"),
    [(1, {"a": 110.0, "b": 130.0}), (2, {"a": 110.0, "b": 121.0, "c": 115.0})],
)
def test_those_that_start_together_are_ready_sooner(cores: int, times: dict[str, Any]) -> None:
    """The third has its turn once the first is ready."""
    starts = dataclasses.replace(STARTS, cores={"cpu": cores})
    if cores > 1:
        starts = dataclasses.replace(starts, seconds={**STARTS.seconds, "c-1": 5.0})
    ready = ready_times((A, B, C), (STARTING,), starts, 101.0)
    assert ready == pytest.approx(times)


def test_a_time_that_says_nearly_the_same_is_not_told_anew() -> None:
    for new, now, told in (
        ({"a": 110.9}, 100.0, {"a": 110.0}),
        ({"a": 120.0}, 100.0, {"a": 120.0}),
        ({"a": 110.5}, 110.2, {"a": 110.5}),
        ({}, 100.0, {}),
    ):
        assert settled({"a": 110.0}, new, now) == told
