"""The dispatch of plain load balancers, a baseline, does what it claims to do."""

import pytest

from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute, ReplicaRoute
from partitiond.core.hardware.kinds import SharingMode
from partitiond.simulated.replay.batch import Batch
from partitiond.simulated.replay.dispatch import SimulatedReplica, SimulatedRequest
from partitiond.simulated.replay.engine import SharedDevice, SteppedEngine
from partitiond.simulated.replay.events import SimulatedClock
from partitiond.simulated.replay.policies import BaselineModel, PolicyChoice
from tests.simulated.replay.samples import ConstantSteps, candidate

EITHER = pytest.mark.parametrize("choice", PolicyChoice)


def fleet(
    clock: SimulatedClock, limits: tuple[int, ...], choice: PolicyChoice, limited: bool
) -> BaselineModel:
    replicas = []
    for number, limit in enumerate(limits):
        engine = SteppedEngine(
            clock,
            SharedDevice(SharingMode.WHOLE),
            candidate("m"),
            Batch(limit, 1000, 10_000),
            ConstantSteps(1.0),
        )
        route = ReplicaRoute(f"m-{number}", "m", "", "", limit, 10_000, 1000, service_seconds=10)
        replicas.append(SimulatedReplica(route, engine))
    model = ModelRoute("m", ModelAvailability.SERVING, "m", max_queue=2, max_wait_seconds=20.0)
    return BaselineModel(clock, model, replicas, choice, limited=limited)


def send(
    clock: SimulatedClock, to: BaselineModel, count: int, output: int = 10
) -> list[SimulatedRequest]:
    flights = [SimulatedRequest(clock.now, 10, output) for _ in range(count)]
    for flight in flights:
        to.arrive(flight)
    return flights


@EITHER
def test_without_a_limit_everything_waits_in_the_engines(choice: PolicyChoice) -> None:
    clock = SimulatedClock()
    model = fleet(clock, (1, 1), choice, limited=False)
    flights = send(clock, model, 20)
    assert all(flight.rejected is None and flight.placed == 0.0 for flight in flights)
    assert [replica.sequences for replica in model.replicas] == [10, 10]
    clock.run(1000.0)
    assert all(flight.ended is not None for flight in flights)


@EITHER
def test_with_a_limit_they_wait_and_are_refused_as_with_ours(choice: PolicyChoice) -> None:
    clock = SimulatedClock()
    model = fleet(clock, (1, 1), choice, limited=True)
    flights = send(clock, model, 6)
    assert [replica.sequences for replica in model.replicas] == [1, 1]
    codes = [flight.rejected.code if flight.rejected else "" for flight in flights]
    assert codes == ["", "", "", "", "queue_full", "queue_full"]
    clock.run(1000.0)
    assert [flight.ended is not None for flight in flights] == [True] * 4 + [False] * 2


@EITHER
def test_with_a_limit_nobody_waits_beyond_the_deadline(choice: PolicyChoice) -> None:
    clock = SimulatedClock()
    model = fleet(clock, (1,), choice, limited=True)
    flights = send(clock, model, 2, output=100)
    clock.run(1000.0)
    assert flights[1].rejected is not None
    assert flights[1].rejected.code == "queue_timeout"


def test_round_robin_takes_turns_whatever_runs_there() -> None:
    clock = SimulatedClock()
    model = fleet(clock, (8, 1), PolicyChoice.ROUND_ROBIN, limited=False)
    send(clock, model, 8)
    assert [replica.sequences for replica in model.replicas] == [4, 4]


def test_least_connections_counts_requests_not_shares() -> None:
    clock = SimulatedClock()
    model = fleet(clock, (8, 2), PolicyChoice.LEAST_CONNECTIONS, limited=True)
    send(clock, model, 6)
    assert [replica.sequences for replica in model.replicas] == [4, 2]
