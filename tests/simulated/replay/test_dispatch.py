"""The simulated dispatch gives the dispatcher's decisions their results, and takes them back.

That it decides as the proxy does is in test_same_as_proxy.
"""

from partitiond.simulated.replay.dispatch import SimulatedModel, SimulatedRequest
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


def test_costs_count_against_the_cache() -> None:
    clock = SimulatedClock()
    # 10 prompt tokens at 0.3 a byte and 4 bytes a token, and 10.
    fleet = SimulatedModel(clock, route(), replicas(clock, (8,), kv_tokens=60))
    send(clock, fleet, 4)
    assert fleet.replicas[0].sequences == 2
