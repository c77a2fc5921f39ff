"""The fleet's engines and dispatch take the same times as those of
`partitiond.simulated.replay`."""

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.dispatch.admission import Rejected
from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute, ReplicaRoute
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.performance.interference import Interference
from partitiond.core.profile.confirmed import StepTime
from partitiond.simulated.fleet.device import FleetDevice
from partitiond.simulated.fleet.dispatch import FinishedRequest, FleetModel
from partitiond.simulated.fleet.engine import FleetEngine, FleetRequest
from partitiond.simulated.fleet.places import FleetReplica
from partitiond.simulated.replay import dispatch
from partitiond.simulated.replay.batch import Batch
from partitiond.simulated.replay.engine import SharedDevice, SteppedEngine
from partitiond.simulated.replay.events import SimulatedClock
from partitiond.simulated.replay.host import NO_COSTS, Host, HostCosts
from partitiond.simulated.replay.models import EngineModel
from partitiond.simulated.replay.steps import FittedSteps
from tests.simulated.replay.samples import candidate, host_costs

STEPS = FittedSteps(StepTime(0.01, 1e-4, 1e-3, 1e-5, 0.0, 3, 3), 20)
INTERFERENCE = Interference(kappa_memory=0.1)
STEP_TOKENS = 48
Arrival = tuple[float, int, int]
Ended = tuple[float, float, float]
"""First and last token, -1 for none; status of a refusal, 0 for none."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """Replicas as (device, slots, KV tokens), and the queue."""

    replicas: tuple[tuple[int, int, int], ...]
    max_queue: int
    max_wait_seconds: float
    busy: float
    costs: HostCosts = NO_COSTS
    cores: int = 0

    @property
    def route(self) -> ModelRoute:
        return ModelRoute(
            "m", ModelAvailability.SERVING, "m",
            max_queue=self.max_queue, max_wait_seconds=self.max_wait_seconds,
        )  # fmt: skip

    def replica(self, number: int) -> ReplicaRoute:
        _, slots, tokens = self.replicas[number]
        return ReplicaRoute(f"m-{number}", "m", "", "", slots, tokens, 200, service_seconds=0.4)


def in_simulation(shape: Shape, arrivals: Sequence[Arrival]) -> list[Ended]:
    clock, host = SimulatedClock(), Host(shape.cores)
    devices: dict[int, SharedDevice] = {}
    replicas = []
    for number, (where, slots, tokens) in enumerate(shape.replicas):
        device = devices.setdefault(where, SharedDevice(SharingMode.MEMORY, INTERFERENCE, host))
        made = candidate("m", mode=SharingMode.MEMORY, busy=shape.busy)
        batch = Batch(slots, STEP_TOKENS, tokens)
        engine = SteppedEngine(clock, device, made, batch, STEPS, costs=shape.costs)
        replicas.append(dispatch.SimulatedReplica(shape.replica(number), engine))
    model = dispatch.SimulatedModel(clock, shape.route, replicas, seed=3)
    flights = [dispatch.SimulatedRequest(when, prompt, output) for when, prompt, output in arrivals]
    for flight in flights:
        clock.at(flight.arrived, lambda flight=flight: model.arrive(flight))  # type: ignore[misc]
    clock.run(10_000.0)
    return [
        (
            -1.0 if f.first is None else f.first,
            -1.0 if f.ended is None else f.ended,
            0 if f.rejected is None else f.rejected.status,
        )
        for f in flights
    ]


class Notes(FinishedRequest):
    def __init__(self) -> None:
        self.found: dict[int, list[Ended]] = {}
        self.ended: list[tuple[FleetRequest, int]] = []

    def answered(self, request: FleetRequest) -> None:
        self.ended.append((request, 0))

    def refused(self, request: FleetRequest, rejected: Rejected) -> None:
        self.ended.append((request, rejected.status))


def in_fleet(shape: Shape, arrivals: Sequence[Arrival]) -> list[Ended]:
    clock, notes, host = SimulatedClock(), Notes(), Host(shape.cores)
    model = FleetModel(clock, shape.route, notes, seed=3)
    devices: dict[int, FleetDevice] = {}
    for number, (where, slots, tokens) in enumerate(shape.replicas):
        shared = FleetDevice(clock, SharingMode.MEMORY, INTERFERENCE, host)
        device = devices.setdefault(where, shared)
        made = candidate("m", mode=SharingMode.MEMORY, busy=shape.busy)
        made = dataclasses.replace(made, batch=slots)
        replica = FleetReplica(shape.replica(number), model.clock, model.ended)
        behaves = EngineModel(STEPS, tokens, 200, STEP_TOKENS, shape.costs)
        replica.engine = FleetEngine(clock, device, made, behaves, replica)
        model.add(replica)
    for when, prompt, output in arrivals:
        clock.at(when, lambda p=prompt, o=output: model.arrive(p, o))  # type: ignore[misc]
    clock.run(10_000.0)
    assert model.in_flight == 0
    assert model.waiting == 0
    assert all(device.working == 0 for device in devices.values())
    # Arrival times are all different, so they name the requests.
    by_arrival = {request.arrived: (request, status) for request, status in notes.ended}
    assert len(by_arrival) == len(arrivals)
    made_of = [by_arrival[when] for when, *_ in arrivals]
    return [(request.first, request.ended, status) for request, status in made_of]


def distinct(arrival: Arrival) -> float:
    return arrival[0]


SHAPES = st.builds(
    Shape,
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(1, 6), st.integers(150, 400)),
        min_size=1,
        max_size=5,
    ).map(tuple),
    st.integers(0, 12),
    st.floats(0.05, 5.0),
    st.floats(0.0, 1.0),
    st.just(NO_COSTS) | host_costs(),
    st.integers(0, 5),
)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.floats(0.0, 3.0), st.integers(1, 90), st.integers(1, 60)),
        max_size=60,
        unique_by=distinct,
    ),
    SHAPES,
)
def test_every_request_has_the_same_times(arrivals: list[Arrival], shape: Shape) -> None:
    expected = in_simulation(shape, arrivals)
    found = in_fleet(shape, arrivals)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-9)
