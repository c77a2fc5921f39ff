"""A host's cost for its engines' requests is right by hand, and sound for every parameter."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.dispatch.admission import Cost
from partitiond.core.hardware.kinds import SharingMode
from partitiond.simulated.fleet.device import FleetDevice
from partitiond.simulated.fleet.engine import FleetEngine, FleetRequest
from partitiond.simulated.fleet.engine_model import EngineModel
from partitiond.simulated.fleet.events import SimulatedClock
from partitiond.simulated.fleet.host_costs import NO_COSTS, Host, HostCosts
from tests.simulated.samples import ConstantSteps, Noted, candidate, host_costs

Arrival = tuple[float, int, int]
"""When, prompt and output tokens."""
Times = list[tuple[float, float]]


def times(engines: Sequence[Sequence[Arrival]], costs: HostCosts, cores: int = 0) -> list[Times]:
    """First and last token of each request; each engine has one core of one host."""
    clock, host = SimulatedClock(), Host(cores)
    notes = Noted(clock)
    made: list[list[FleetRequest]] = []
    for arrivals in engines:
        device = FleetDevice(clock, SharingMode.WHOLE, host=host)
        behaves = EngineModel(ConstantSteps(), 4000, 1000, 64, costs)
        engine = FleetEngine(clock, device, candidate("m"), behaves, notes)
        made.append([FleetRequest(*arrival, Cost(1, 0)) for arrival in arrivals])
        for request in made[-1]:
            clock.at(request.arrived, functools.partial(engine.add, request))
    clock.run(1e5)
    return [[(notes.first[r], notes.last[r]) for r in mine] for mine in made]


ARRIVALS = st.lists(
    st.tuples(st.floats(0.0, 1.0), st.integers(1, 60), st.integers(1, 30)), max_size=12
)


def test_a_crowded_host_lengthens_the_way_and_takes_from_steps() -> None:
    costs = HostCosts(0.004, 0.006, 0.0, request_cpu_seconds=0.003, token_cpu_seconds=0.001)
    busy = (0.0, 10, 1000)
    # One core: the engine at work is the whole host.
    [[_, (first, last)]] = times([[busy, (1.0, 10, 2)]], costs, cores=1)
    # Its steps take 11 ms. On its way for 10 ms; the step under way then began at 1.002.
    begin = 0.004 + 0.011 * math.ceil((1.010 - 0.004) / 0.011)
    assert first == pytest.approx(begin + 0.01 + 0.003 + 2 * 0.001)
    assert last == pytest.approx(first + 0.01 + 2 * 0.001)
    # With an idle core there is neither.
    [[_, (first, _)]] = times([[busy, (1.0, 10, 2)]], costs, cores=2)
    begin = 0.004 + 0.01 * math.ceil((1.004 - 0.004) / 0.01 - 1e-9)
    assert first == pytest.approx(begin + 0.01)


def test_a_neighbour_that_begins_and_rests_changes_the_pace() -> None:
    costs = HostCosts(token_cpu_seconds=0.01)
    # Two cores: alone a step of the first one takes 10 ms, beside the other one 20 ms.
    [[(_, last)], [(_, other)]] = times([[(0.0, 1, 100)], [(0.095, 1, 20)]], costs, cores=2)
    assert other == pytest.approx(0.095 + 20 * 0.02)
    # Ten steps up to 0.1, twenty of 20 ms beside it (the last began before it ended), 70 alone.
    assert last == pytest.approx(0.1 + 20 * 0.02 + 70 * 0.01)


def test_an_engine_that_schedules_ahead_lets_a_request_wait_one_step_more() -> None:
    costs = HostCosts(schedules_ahead=True)
    [[_, (first, _)]] = times([[(0.0, 1, 100), (0.035, 1, 1)]], costs)
    assert first == pytest.approx(0.06)
    [[_, (first, _)]] = times([[(0.0, 1, 100), (0.035, 1, 1)]], NO_COSTS)
    assert first == pytest.approx(0.05)
    # Where the engine has nothing else to do there is no such step.
    [[_, (first, _)]] = times([[(0.0, 1, 4), (0.035, 1, 1)]], costs)
    assert first == pytest.approx(0.05)


@given(ARRIVALS.filter(bool), host_costs())
def test_work_is_conserved(arrivals: list[Arrival], costs: HostCosts) -> None:
    # All come while one long request keeps the only core busy, so that all of it is crowded.
    late = [(0.5 + 0.1 * when, prompt, output) for when, prompt, output in arrivals]
    costs = dataclasses.replace(costs, way_seconds=0.0, crowded_seconds=0.0)
    many = [(0.0, 1, 3000), *late]
    [ended] = times([many], costs, cores=1)
    [free] = times([many], NO_COSTS, cores=1)
    tokens = 3000 + sum(output for *_, output in late)
    owed = (
        len(many) * costs.admit_seconds
        + len(late) * costs.request_cpu_seconds
        + tokens * costs.token_cpu_seconds
    )
    # The long request ends last. Its steps are as many as before, each token and request is paid
    # for once, whatever ran beside what.
    assert ended[0][1] == max(last for _, last in ended)
    assert ended[0][1] == pytest.approx(free[0][1] + owed, rel=1e-9)
