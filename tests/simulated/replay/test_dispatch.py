"""The simulated dispatch gives the dispatcher's decisions their results, and takes them back.

That it decides as the proxy does is in test_same_as_proxy.
"""

from partitiond.simulated.replay.dispatch import (
    DispatchOptions,
    SimulatedCaller,
    SimulatedModel,
    SimulatedRequest,
)
from partitiond.simulated.replay.events import SimulatedClock
from tests.simulated.replay.samples import replicas, route, send


def test_requests_wait_for_a_place_which_is_given_back_or_are_refused() -> None:
    clock = SimulatedClock()
    fleet = SimulatedModel(clock, route(), replicas(clock, (2,)))
    done: list[SimulatedRequest] = []
    fleet.on_done = done.append
    flights = send(clock, fleet, 5)
    assert fleet.waiting == 2
    assert [f.rejected.code for f in flights if f.rejected] == ["queue_full"]
    clock.run(100.0)
    assert set(done) == set(flights)
    assert [f.ended is not None for f in flights] == [True, True, True, True, False]
    # A slot came free after 10 steps; the next step was under way.
    assert flights[2].ttft_seconds == 12.0
    assert [(r.sequences, r.kv_tokens) for r in fleet.replicas] == [(0, 0)]


def test_a_conversation_comes_back_to_its_replica_and_finds_its_beginning_there() -> None:
    clock = SimulatedClock()
    seen: list[tuple[str, str]] = []

    def cache(flight: SimulatedRequest, replica_id: str) -> int:
        found = (flight.caller.session, replica_id) in seen
        seen.append((flight.caller.session, replica_id))
        return 5 if found else 0

    options = DispatchOptions(affinity_seconds=60.0, cache=cache)
    fleet = SimulatedModel(clock, route(), replicas(clock, (8, 8, 8)), options=options)
    first, again = (SimulatedRequest(0.0, 10, 10, SimulatedCaller(session="s")) for _ in range(2))
    fleet.arrive(first)
    send(clock, fleet, 1)
    clock.run(50.0)
    fleet.arrive(again)
    assert again.replica is first.replica
    assert (first.cached_tokens, again.cached_tokens) == (0, 5)


def test_prompts_that_begin_alike_go_where_the_beginning_is() -> None:
    clock = SimulatedClock()
    options = DispatchOptions(prefixes=True)
    fleet = SimulatedModel(clock, route(), replicas(clock, (32, 32, 32)), options=options)
    callers = [SimulatedCaller(prompt=b"s" * 600 + bytes([n])) for n in range(6)]
    flights = [SimulatedRequest(0.0, 10, 10, caller) for caller in callers]
    for flight in flights:
        fleet.arrive(flight)
    assert len({flight.replica for flight in flights}) == 1
    # Costs count against the cache: 10 prompt tokens at 0.3 a byte and 4 bytes a token, and 10.
    fleet = SimulatedModel(clock, route(), replicas(clock, (8,), kv_tokens=60))
    send(clock, fleet, 4)
    assert fleet.replicas[0].sequences == 2
