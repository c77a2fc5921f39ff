"""Engines of a fleet that end lose the requests that are on their way to them."""

import pytest

from partitiond.core.dispatch.admission import Cost
from partitiond.core.hardware.kinds import SharingMode
from partitiond.simulated.fleet.device import FleetDevice
from partitiond.simulated.fleet.engine import FleetEngine, FleetRequest
from partitiond.simulated.fleet.engine_model import EngineModel
from partitiond.simulated.fleet.events import SimulatedClock
from partitiond.simulated.fleet.host_costs import Host, HostCosts
from tests.simulated.samples import ConstantSteps, Noted, candidate


def noted() -> tuple[SimulatedClock, Noted]:
    clock = SimulatedClock()
    return clock, Noted(clock)


def engine(clock: SimulatedClock, costs: HostCosts, notes: Noted) -> FleetEngine:
    behaves = EngineModel(ConstantSteps(), 10_000, 1000, costs=costs)
    device = FleetDevice(clock, SharingMode.WHOLE, host=Host(1))
    return FleetEngine(clock, device, candidate("m"), behaves, notes)


def test_an_engine_that_ends_loses_what_is_on_its_way_and_what_no_step_knows_of() -> None:
    clock, notes = noted()
    one = engine(clock, HostCosts(way_seconds=0.015, schedules_ahead=True), notes)
    running, coming, unseen = (FleetRequest(0.0, 1, 100, Cost(1, 0)) for _ in range(3))
    one.add(running)
    clock.at(0.021, lambda: one.add(unseen))
    clock.at(0.03, lambda: one.add(coming))
    clock.run(0.04)
    assert sorted(map(id, one.requests)) == sorted(map(id, (running, coming, unseen)))
    one.halt()
    assert not any(one.requests)
    clock.run(10.0)
    assert list(notes.first) == [running]
    assert not notes.last


def test_an_engine_owes_nothing_after_it_has_ended() -> None:
    clock, notes = noted()
    one = engine(clock, HostCosts(request_cpu_seconds=1.0), notes)
    one.add(FleetRequest(0.0, 1, 100, Cost(1, 0)))
    clock.at(0.005, lambda: one.add(FleetRequest(0.0, 1, 1, Cost(1, 0))))
    clock.run(0.006)
    one.halt()
    later = FleetRequest(0.0, 1, 1, Cost(1, 0))
    clock.at(1.0, lambda: one.add(later))
    clock.run(1.0 + 0.011)
    assert list(notes.last) == [later]


def test_a_fitted_slowdown_stands_in_for_what_the_plan_says_of_neighbours() -> None:
    clock, notes = noted()
    behaves = EngineModel(ConstantSteps(), 10_000, 1000, kappa=0.5)
    shared = candidate("m", mode=SharingMode.MEMORY, busy=1.0)
    device = FleetDevice(clock, SharingMode.MEMORY)
    for _ in range(2):
        FleetEngine(clock, device, shared, behaves, notes).add(FleetRequest(0.0, 1, 11, Cost(1, 0)))
    clock.run(10.0)
    # The first one began alone; each further step beside the other takes half as long again.
    first, second = notes.last.values()
    assert first == pytest.approx(0.01 + 10 * 0.015)
    assert second == pytest.approx(11 * 0.015)
