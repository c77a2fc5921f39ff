"""Engines that start or wake are waited for; engines that fail again and again are not."""

import dataclasses

from partitiond.controller.runtime.adoption import unknown_handles
from partitiond.controller.runtime.engine_matching import first_starts, flights_of
from partitiond.controller.runtime.engines import Engine
from partitiond.core.replica.engine import EngineHandle
from partitiond.core.replica.observation import HOPELESS_FAILURES
from partitiond.core.replica.states import ReplicaState
from tests.controller.fakes import POLICY, FakeClock, FakeRunner, a_moment
from tests.controller.samples import cpu, placement
from tests.engine_fixtures import simulated_launch

DEVICES = (
    dataclasses.replace(cpu(4), host="one"),
    dataclasses.replace(cpu(4), id="cpu-two", host="two"),
)


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


def test_engines_that_start_or_wake_are_waited_for_unless_they_fail_again_and_again() -> None:
    for state in ReplicaState:
        coming = state in {ReplicaState.STARTING, ReplicaState.WAKING}
        found = first_starts([engine("b-1", state), engine("a-1", state)], DEVICES)
        assert found == {"one": ("a-1", "b-1") if coming else (), "two": ()}
    for failed, waits in ((HOPELESS_FAILURES - 1, True), (HOPELESS_FAILURES, False)):
        found = first_starts([engine("a-1", ReplicaState.STARTING, failed)], DEVICES)
        assert bool(found["one"]) is waits


def test_engines_are_waited_for_on_their_host_and_those_of_a_device_that_is_gone_on_each() -> None:
    lost, there = engine("b-1", ReplicaState.STARTING), engine("c-1", ReplicaState.WAKING)
    lost.placement = dataclasses.replace(lost.placement, device_id="gone")
    there.placement = dataclasses.replace(there.placement, device_id="cpu-two")
    found = first_starts([there, lost, engine("a-1", ReplicaState.STARTING)], DEVICES)
    assert found == {"one": ("a-1", "b-1"), "two": ("b-1", "c-1")}


def handle(name: str, host: str, pid: int) -> EngineHandle:
    launch = dataclasses.replace(simulated_launch(name), host=host)
    return EngineHandle(launch, pid, 1, "boot", "/s", "/log", "/run")


async def test_engines_are_known_by_host_and_process_and_not_while_they_are_being_started() -> None:
    known, coming, failed = (engine(name, ReplicaState.PENDING) for name in ("a-1", "a-2", "a-3"))
    known.adopt(handle("a-1", "one", 7))
    coming.begin(dataclasses.replace(simulated_launch("a-2"), host="two"))
    found = [
        handle("a-1", "one", 7),
        handle("a-1", "two", 7),  # another host's process of the same number
        handle("a-2", "two", 8),  # the answer of its start is still to come
        handle("a-2", "one", 8),  # not this one's: it runs elsewhere
        handle("a-3", "two", 9),
    ]
    assert unknown_handles(found, [known, coming, failed]) == (found[1], *found[3:])
    renamed = engine("a-1.2", ReplicaState.PENDING)
    renamed.adopt(found[1])  # another host has one of its name
    counts = {"one": {"a-1": 3, "a-1.2": 4}, "two": {"a-1": 1, "a-1.2": 1}, "three": None}
    assert (flights_of(known, counts), flights_of(renamed, counts)) == (3, 2)
    assert flights_of(renamed, {"two": None}) is None
    await a_moment()
    for one in (known, coming, renamed):
        await one.detach()
