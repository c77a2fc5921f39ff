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
