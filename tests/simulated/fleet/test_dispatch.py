"""The simulator carries out what the dispatcher decides, and tells it what came of it."""

import pytest

from partitiond.core.dispatch.admission import Rejected, service_time
from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute, ReplicaRoute
from partitiond.core.hardware.kinds import SharingMode
from partitiond.simulated.fleet.device import FleetDevice
from partitiond.simulated.fleet.dispatch import FinishedRequest, FleetModel
from partitiond.simulated.fleet.engine import FleetEngine, FleetRequest
from partitiond.simulated.fleet.engine_model import EngineModel
from partitiond.simulated.fleet.events import SimulatedClock
from partitiond.simulated.fleet.places import FleetReplica
from tests.simulated.samples import STEP_SECONDS, ConstantSteps, candidate

OUTPUT = 10


class Stand(FinishedRequest):
    """One model whose route has room for two waiting requests, for up to ten seconds."""

    def __init__(self) -> None:
        self.clock = SimulatedClock()
        coming = ModelAvailability.STARTING
        route = ModelRoute("m", coming, "m", max_queue=2, max_wait_seconds=10.0, holds=True)
        self.model = FleetModel(self.clock, route, self)
        self.ended: list[float] = []
        self.codes: list[tuple[float, str]] = []

    def answered(self, request: FleetRequest) -> None:
        self.ended.append(self.clock.now)

    def refused(self, request: FleetRequest, rejected: Rejected) -> None:
        self.codes.append((self.clock.now, rejected.code))

    def add(self, name: str) -> FleetReplica:
        """A replica with one slot, told to take a second for a request."""
        route = ReplicaRoute(name, "m", "", "", 1, 0, 1000, service_seconds=1.0)
        replica = FleetReplica(route, self.clock, self.model.ended)
        behaves = EngineModel(ConstantSteps(), 10**6, 1000)
        device = FleetDevice(self.clock, SharingMode.WHOLE)
        replica.engine = FleetEngine(self.clock, device, candidate("m"), behaves, replica)
        self.model.add(replica)
        return replica


def test_what_waits_starts_on_the_replica_that_comes_and_then_one_after_the_other() -> None:
    stand = Stand()
    for _ in range(3):
        stand.model.arrive(5, OUTPUT)
    assert [code for _, code in stand.codes] == ["queue_full"]
    assert (stand.model.waiting, stand.model.in_flight) == (2, 0)
    replica = stand.add("m-0")
    assert (stand.model.waiting, stand.model.in_flight) == (1, 1)
    assert replica.kv_tokens > 0
    stand.clock.run(5.0)
    assert stand.ended == pytest.approx([OUTPUT * STEP_SECONDS, 2 * OUTPUT * STEP_SECONDS])
    assert (stand.model.in_flight, replica.kv_tokens) == (0, 0)


def test_who_waits_too_long_is_refused_at_his_deadline() -> None:
    stand = Stand()
    stand.model.arrive(5, OUTPUT)
    stand.clock.run(60.0)
    assert [when for when, _ in stand.codes] == [10.0]
    assert stand.model.waiting == 0


def test_the_dispatcher_learns_what_requests_took(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand()
    stand.add("m-0")
    dispatcher = stand.model.dispatcher
    settled: list[float] = []
    monkeypatch.setattr(dispatcher, "settle", lambda _, tokens: settled.append(tokens))
    assert dispatcher.service == service_time(1.0)
    stand.model.arrive(5, OUTPUT)
    stand.clock.run(1.0)
    assert settled == [5 + OUTPUT]
    assert dispatcher.service == service_time(1.0).observe(OUTPUT * STEP_SECONDS)
