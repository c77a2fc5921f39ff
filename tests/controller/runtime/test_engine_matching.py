"""Engines that start or wake are waited for; engines that fail again and again are not."""

import pytest

from partitiond.controller.runtime.engine_matching import first_starts
from partitiond.controller.runtime.engines import Engine
from partitiond.core.replica.observation import HOPELESS_FAILURES
from partitiond.core.replica.states import ReplicaState
from tests.controller.fakes import POLICY, FakeClock, FakeRunner
from tests.controller.samples import placement


def engine(name: str, state: ReplicaState, failed_starts: int = 0) -> Engine:
    made = Engine(
        name,
        placement(name),
        runner=FakeRunner(),
        clock=FakeClock(),
        policy=POLICY,
        note=lambda *_: None,
        wake=lambda: None,
        failed_starts=failed_starts,
    )
    made.state = state
    return made


@pytest.mark.parametrize("state", list(ReplicaState))
def test_engines_that_start_or_wake_are_waited_for(state: ReplicaState) -> None:
    coming = state in {ReplicaState.STARTING, ReplicaState.WAKING}
    found = first_starts([engine("b-1", state), engine("a-1", state)])
    assert found == (("a-1", "b-1") if coming else ())


def test_nobody_waits_for_one_that_fails_again_and_again() -> None:
    for failed, waits in ((HOPELESS_FAILURES - 1, True), (HOPELESS_FAILURES, False)):
        assert bool(first_starts([engine("a-1", ReplicaState.STARTING, failed)])) is waits
