"""The simulated dispatch uses production's functions, with the results that follow."""

import pytest

from partitiond.core.dispatch.admission import ServiceTime
from partitiond.core.dispatch.routing import ModelAvailability, ModelRoute, ReplicaRoute
from partitiond.core.hardware.kinds import SharingMode
from partitiond.proxy.dispatch import estimates, live
from partitiond.simulated.replay import dispatch
from partitiond.simulated.replay.batch import Batch
from partitiond.simulated.replay.dispatch import (
    DispatchOptions,
    SimulatedCaller,
    SimulatedModel,
    SimulatedReplica,
    SimulatedRequest,
)
from partitiond.simulated.replay.engine import SharedDevice, SteppedEngine
from partitiond.simulated.replay.events import SimulatedClock
from tests.simulated.replay.samples import ConstantSteps, candidate


@pytest.mark.parametrize("name", ["Dispatcher", "OutputP90", "PromptRatios", "ServiceTime"])
def test_the_proxys_own_functions_decide(name: str) -> None:
    assert getattr(dispatch, name) is getattr(live, name)


def test_costs_are_estimated_by_the_proxys_own_function() -> None:
    assert getattr(dispatch, "estimate_cost") is getattr(estimates, "estimate_cost")  # noqa: B009


def model(
    clock: SimulatedClock,
    limits: tuple[int, ...],
    *,
    kv_tokens: int = 10_000,
    wait: float = 30.0,
    seconds: tuple[float, ...] = (),
    options: DispatchOptions = DispatchOptions(),  # noqa: B008 -- frozen
) -> SimulatedModel:
    """A model with a replica for each limit; one step takes a second, or as told."""
    replicas = []
    for number, limit in enumerate(limits):
        engine = SteppedEngine(
            clock,
            SharedDevice(SharingMode.WHOLE),
            candidate("m"),
            Batch(limit, 1000, kv_tokens),
            ConstantSteps(seconds[number] if seconds else 1.0),
        )
        replica = ReplicaRoute(
            f"m-{number}", "m", "", "", limit, kv_tokens, 1000, service_seconds=10.0
        )
        replicas.append(SimulatedReplica(replica, engine))
    route = ModelRoute("m", ModelAvailability.SERVING, "m", max_queue=2, max_wait_seconds=wait)
    return SimulatedModel(clock, route, replicas, options=options)


def send(
    clock: SimulatedClock, to: SimulatedModel, count: int, output: int = 10
) -> list[SimulatedRequest]:
    flights = [SimulatedRequest(clock.now, 10, output) for _ in range(count)]
    for flight in flights:
        to.arrive(flight)
    return flights


def test_requests_fill_replicas_in_proportion_to_their_limits() -> None:
    clock = SimulatedClock()
    fleet = model(clock, (2, 6))
    send(clock, fleet, 8)
    assert [replica.sequences for replica in fleet.replicas] == [2, 6]


def test_beyond_the_limits_they_wait_and_beyond_the_queue_they_are_refused() -> None:
    clock = SimulatedClock()
    fleet = model(clock, (2,))
    flights = send(clock, fleet, 5)
    assert fleet.waiting == 2
    assert [f.rejected.code for f in flights if f.rejected] == ["queue_full"]
    clock.run(100.0)
    assert [f.ended is not None for f in flights] == [True, True, True, True, False]
    # A slot came free after 10 steps; the next step was under way.
    assert flights[2].ttft_seconds == pytest.approx(12.0)


def test_who_cannot_start_in_time_is_refused() -> None:
    clock = SimulatedClock()
    fleet = model(clock, (1,), wait=5.0)
    fleet.dispatcher.service = ServiceTime(1.0)  # it believes that a slot comes free in time
    flights = send(clock, fleet, 2, output=50)
    clock.run(100.0)
    rejected = flights[1].rejected
    assert rejected is not None
    assert rejected.code == "queue_timeout"
    assert flights[1].placed is None


def test_the_kv_limit_holds_back_what_the_sequence_limit_would_admit() -> None:
    clock = SimulatedClock()
    fleet = model(clock, (8,), kv_tokens=60)
    send(clock, fleet, 4)
    # 10 prompt tokens at 0.3 tokens a byte and 4 bytes a token, and 10 outputs: 22 each.
    assert fleet.replicas[0].sequences == 2


def test_places_are_given_back() -> None:
    clock = SimulatedClock()
    fleet = model(clock, (4, 4))
    done: list[SimulatedRequest] = []
    fleet.on_done = done.append
    flights = send(clock, fleet, 8)
    clock.run(100.0)
    assert set(done) == set(flights)
    assert [(r.sequences, r.kv_tokens) for r in fleet.replicas] == [(0, 0), (0, 0)]


def send_as(
    clock: SimulatedClock, to: SimulatedModel, caller: SimulatedCaller, output: int = 10
) -> SimulatedRequest:
    flight = SimulatedRequest(clock.now, 10, output, caller)
    to.arrive(flight)
    return flight


def test_a_flooding_key_gives_way_to_another_in_order_and_in_places() -> None:
    clock = SimulatedClock()
    fleet = model(clock, (1,))
    flood = [send_as(clock, fleet, SimulatedCaller("flood")) for _ in range(3)]
    modest = send_as(clock, fleet, SimulatedCaller("modest"))
    rejected = flood[2].rejected
    assert rejected is not None
    assert rejected.code == "queue_full"
    clock.run(100.0)
    assert modest.placed is not None
    assert flood[1].placed is not None
    assert modest.placed < flood[1].placed


def test_a_conversation_comes_back_to_its_replica_and_finds_its_beginning_there() -> None:
    clock = SimulatedClock()
    seen: list[tuple[str, str]] = []

    def cache(flight: SimulatedRequest, replica_id: str) -> int:
        found = (flight.caller.session, replica_id) in seen
        seen.append((flight.caller.session, replica_id))
        return 5 if found else 0

    options = DispatchOptions(affinity_seconds=60.0, cache=cache)
    fleet = model(clock, (8, 8, 8), options=options)
    first = send_as(clock, fleet, SimulatedCaller(session="s"))
    send(clock, fleet, 1)
    clock.run(50.0)
    again = send_as(clock, fleet, SimulatedCaller(session="s"))
    assert again.replica is first.replica
    assert (first.cached_tokens, again.cached_tokens) == (0, 5)


def test_prompts_that_begin_alike_go_where_the_beginning_is() -> None:
    clock = SimulatedClock()
    fleet = model(clock, (32, 32, 32), options=DispatchOptions(prefixes=True))
    prompt = b"s" * 600
    flights = [send_as(clock, fleet, SimulatedCaller(prompt=prompt + bytes([n]))) for n in range(6)]
    assert len({flight.replica for flight in flights}) == 1


def test_a_slow_replica_gets_less_and_is_tried_again() -> None:
    clock = SimulatedClock()
    fleet = model(clock, (8, 8, 8), seconds=(0.01, 0.01, 0.05))
    slow = fleet.replicas[2]
    flights: list[SimulatedRequest] = []

    def arrive() -> None:
        flights.append(send_as(clock, fleet, SimulatedCaller()))
        if clock.now < 100:
            clock.at(clock.now + 0.02, arrive)

    clock.at(0.0, arrive)
    clock.run(110.0)
    late = [flight for flight in flights if flight.arrived > 20]
    share = sum(flight.replica is slow for flight in late) / len(late)
    assert 0 < share < 0.1
