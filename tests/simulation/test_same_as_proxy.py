"""What the proxy and both simulators tell those who waited in vain: the same."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.admission import Cost, Rejected
from partitiond.core.hardware import SharingMode
from partitiond.core.quarantine import Exposure
from partitiond.core.routing import ModelAvailability, ModelRoute, ReplicaRoute
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.flights import Flight
from partitiond.proxy.live import LiveModel
from partitiond.proxy.replicas import LiveReplica
from partitiond.simulation import dispatch
from partitiond.simulation.batch import Batch
from partitiond.simulation.engine import SharedDevice, SimulatedEngine
from partitiond.simulation.events import Clock
from partitiond.simulation.fleet.clock import FleetClock
from partitiond.simulation.fleet.dispatch import Finished, FleetModel
from partitiond.simulation.fleet.engine import Request
from partitiond.simulation.fleet.places import FleetReplica
from tests.simulation.samples import ConstantSteps, candidate

WAIT_SECONDS = 1e6
FOR_EVER = 1e9
Told = tuple[str, int | None]
"""Code and Retry-After of a refusal."""

ROUTE = ModelRoute(
    "m", ModelAvailability.SERVING, "m", max_queue=200, max_wait_seconds=WAIT_SECONDS
)


def told(rejected: Rejected) -> Told:
    return rejected.code, rejected.retry_after_seconds


def routes(slots: list[int], seconds: float) -> list[ReplicaRoute]:
    return [
        ReplicaRoute(f"m-{n}", "m", f"/none/{n}", "", limit, 0, 1000, service_seconds=seconds)
        for n, limit in enumerate(slots)
    ]


class Owner:
    """Of a request in the proxy."""

    def __init__(self, refusals: list[Told]) -> None:
        self._refusals = refusals

    def placed(self, replica: LiveReplica) -> None:
        raise NotImplementedError

    def refused(self, rejected: Rejected) -> None:
        self._refusals.append(told(rejected))

    def exposure(self, now: float) -> Exposure:
        raise NotImplementedError

    def suspected(self) -> None:
        raise NotImplementedError

    def crashed(self) -> None:
        raise NotImplementedError


def in_proxy(slots: list[int], waiting: int, seconds: float) -> list[Told]:
    refusals: list[Told] = []

    async def run() -> None:
        model = LiveModel(ROUTE)
        model.apply(ROUTE, routes(slots, seconds), ProxyOptions())
        for number in range(sum(slots) + waiting):
            model.place(Flight(Owner(refusals), str(number), Cost(1, 1), 0.0))
        for entry in list(model.slots.queue):
            model._expire(entry)  # what its timer calls

    asyncio.run(run())
    return refusals


def in_simulation(slots: list[int], waiting: int, seconds: float) -> list[Told]:
    clock, refusals = Clock(), list[Told]()
    replicas = []
    for route in routes(slots, seconds):
        batch = Batch(route.max_sequences, 1000, 10**6)
        device = SharedDevice(SharingMode.WHOLE)
        steps = ConstantSteps(FOR_EVER)
        engine = SimulatedEngine(clock, device, candidate("m"), batch, steps)
        replicas.append(dispatch.SimulatedReplica(route, engine))
    model = dispatch.SimulatedModel(clock, ROUTE, replicas)
    model.on_done = lambda flight: refusals.append(told(flight.rejected))  # type: ignore[arg-type]
    for _ in range(sum(slots) + waiting):
        model.arrive(dispatch.Flight(0.0, 10, 10))
    clock.run(WAIT_SECONDS)
    return refusals


class Refused(Finished):
    """Notes who is sent away."""

    def __init__(self) -> None:
        self.refusals: list[Told] = []

    def refused(self, request: Request, rejected: Rejected) -> None:
        del request
        self.refusals.append(told(rejected))


def in_fleet(slots: list[int], waiting: int, seconds: float) -> list[Told]:
    clock, finished = FleetClock(), Refused()
    model = FleetModel(clock, ROUTE, finished)
    for route in routes(slots, seconds):
        model.add(FleetReplica(model, route))
    for _ in range(sum(slots) + waiting):
        model.arrive(10, 10)
    clock.run(WAIT_SECONDS)
    return finished.refusals


@settings(max_examples=30)
@given(
    slots=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    waiting=st.integers(0, 40),
    seconds=st.floats(0.01, 30.0),
)
def test_who_waited_in_vain_is_told_the_same_by_all_three(
    slots: list[int], waiting: int, seconds: float
) -> None:
    expected = in_proxy(slots, waiting, seconds)
    assert len(expected) == waiting
    assert in_simulation(slots, waiting, seconds) == expected
    assert in_fleet(slots, waiting, seconds) == expected


@pytest.mark.parametrize("run", [in_proxy, in_simulation, in_fleet])
def test_who_waited_in_vain_is_told_to_come_after_those_that_still_wait(
    run: Callable[[list[int], int, float], list[Told]],
) -> None:
    """100 wait for 4 slots of 2 s: the first that leaves would come after 99 others."""
    refusals = run([4], 100, 2.0)
    assert refusals[0] == ("queue_timeout", 50)
    assert refusals[-1] == ("queue_timeout", 1), "nobody waits any more"
