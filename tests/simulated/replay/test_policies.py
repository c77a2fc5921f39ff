"""The dispatch of plain load balancers, a baseline, does what it claims to do."""

import pytest

from partitiond.simulated.replay.events import SimulatedClock
from partitiond.simulated.replay.policies import BaselineModel, PolicyChoice
from tests.simulated.replay.samples import replicas, route, send


@pytest.mark.parametrize("choice", PolicyChoice)
def test_with_a_limit_they_wait_and_are_refused_as_with_ours(choice: PolicyChoice) -> None:
    clock = SimulatedClock()
    endless = BaselineModel(clock, route(), replicas(clock, (1, 1)), choice, limited=False)
    assert all(flight.placed == 0.0 for flight in send(clock, endless, 20))
    assert [replica.sequences for replica in endless.replicas] == [10, 10], "in the engines"
    model = BaselineModel(clock, route(20.0), replicas(clock, (1, 1)), choice, limited=True)
    flights = [*send(clock, model, 3), *send(clock, model, 1, output=100), *send(clock, model, 2)]
    assert [replica.sequences for replica in model.replicas] == [1, 1]
    clock.run(1000.0)
    codes = [flight.rejected.code if flight.rejected else "" for flight in flights]
    assert codes == ["", "", "", "", "queue_full", "queue_full"]
    assert [flight.ended is not None for flight in flights] == [True] * 4 + [False] * 2
    late = [*send(clock, model, 2, output=100), *send(clock, model, 1)]
    clock.run(2000.0)
    assert late[2].rejected is not None
    assert late[2].rejected.code == "queue_timeout"


def test_round_robin_takes_turns_and_least_connections_counts_requests_not_shares() -> None:
    for choice, limits, count, expected in (
        (PolicyChoice.ROUND_ROBIN, (8, 1), 8, [4, 4]),
        (PolicyChoice.LEAST_CONNECTIONS, (8, 2), 6, [4, 2]),
    ):
        clock = SimulatedClock()
        limited = choice is PolicyChoice.LEAST_CONNECTIONS
        model = BaselineModel(clock, route(), replicas(clock, limits), choice, limited=limited)
        send(clock, model, count)
        assert [replica.sequences for replica in model.replicas] == expected
