"""The simulated dispatch: production's functions, and what follows from them."""

import pytest

from partitiond.core.admission import ServiceTime
from partitiond.core.hardware import SharingMode
from partitiond.core.routing import ModelAvailability, ModelRoute, ReplicaRoute
from partitiond.proxy import app, live
from partitiond.simulation import dispatch
from partitiond.simulation.batch import Batch
from partitiond.simulation.dispatch import Flight, SimulatedModel, SimulatedReplica
from partitiond.simulation.engine import SharedDevice, SimulatedEngine
from partitiond.simulation.events import Clock
from tests.simulation.samples import ConstantSteps, candidate


@pytest.mark.parametrize(
    "name",
    [
        "OutputP90", "QueueLimits", "ServiceTime", "TokensPerByte", "Waiting", "WaitingQueue",
        "admits", "choose_replica", "refuse_after_waiting", "refuse_to_wait",
    ],
)  # fmt: skip
def test_the_proxys_own_functions_decide(name: str) -> None:
    assert getattr(dispatch, name) is getattr(live, name)


def test_costs_are_estimated_by_the_proxys_own_function() -> None:
    assert getattr(dispatch, "estimate_cost") is getattr(app, "estimate_cost")  # noqa: B009


def model(
    clock: Clock, limits: tuple[int, ...], *, kv_tokens: int = 10_000, wait: float = 30.0
) -> SimulatedModel:
    """A model with a replica for each limit; one step takes a second."""
    replicas = []
    for number, limit in enumerate(limits):
        engine = SimulatedEngine(
            clock,
            SharedDevice(SharingMode.WHOLE),
            candidate("m"),
            Batch(limit, 1000, kv_tokens),
            ConstantSteps(1.0),
        )
        replica = ReplicaRoute(
            f"m-{number}", "m", "", "", limit, kv_tokens, 1000, service_seconds=10.0
        )
        replicas.append(SimulatedReplica(replica, engine))
    route = ModelRoute("m", ModelAvailability.SERVING, "m", max_queue=2, max_wait_seconds=wait)
    return SimulatedModel(clock, route, replicas)


def send(clock: Clock, to: SimulatedModel, count: int, output: int = 10) -> list[Flight]:
    flights = [Flight(clock.now, 10, output) for _ in range(count)]
    for flight in flights:
        to.arrive(flight)
    return flights


def test_requests_fill_replicas_in_proportion_to_their_limits() -> None:
    clock = Clock()
    fleet = model(clock, (2, 6))
    send(clock, fleet, 8)
    assert [replica.sequences for replica in fleet.replicas] == [2, 6]


def test_beyond_the_limits_they_wait_and_beyond_the_queue_they_are_refused() -> None:
    clock = Clock()
    fleet = model(clock, (2,))
    flights = send(clock, fleet, 5)
    assert fleet.waiting == 2
    assert [f.rejected.code for f in flights if f.rejected] == ["queue_full"]
    clock.run(100.0)
    assert [f.ended is not None for f in flights] == [True, True, True, True, False]
    # A slot came free after 10 steps; the next step was under way.
    assert flights[2].ttft_seconds == pytest.approx(12.0)


def test_who_cannot_start_in_time_is_refused() -> None:
    clock = Clock()
    fleet = model(clock, (1,), wait=5.0)
    fleet._service = ServiceTime(1.0)  # it believes that a slot comes free in time
    flights = send(clock, fleet, 2, output=50)
    clock.run(100.0)
    rejected = flights[1].rejected
    assert rejected is not None
    assert rejected.code == "queue_timeout"
    assert flights[1].placed is None


def test_the_kv_limit_holds_back_what_the_sequence_limit_would_admit() -> None:
    clock = Clock()
    fleet = model(clock, (8,), kv_tokens=60)
    send(clock, fleet, 4)
    # 10 prompt tokens at 0.3 tokens a byte and 4 bytes a token, and 10 outputs: 22 each.
    assert fleet.replicas[0].sequences == 2


def test_places_are_given_back() -> None:
    clock = Clock()
    fleet = model(clock, (4, 4))
    done: list[Flight] = []
    fleet.on_done = done.append
    flights = send(clock, fleet, 8)
    clock.run(100.0)
    assert set(done) == set(flights)
    assert [(r.sequences, r.kv_tokens) for r in fleet.replicas] == [(0, 0), (0, 0)]
