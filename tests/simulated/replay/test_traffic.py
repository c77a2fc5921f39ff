"""Traffic of a simulation is what the load generator would send."""

import itertools

import pytest

from loadgen.load.arrivals import poisson
from partitiond.core.model.workload import Workload
from partitiond.profiler.sweep import load
from partitiond.simulated.replay.dispatch import SimulatedModel, SimulatedRequest
from partitiond.simulated.replay.events import SimulatedClock
from partitiond.simulated.replay.outcome import Observer
from partitiond.simulated.replay.traffic import closed_traffic, lengths_of, open_traffic
from tests.simulated.replay.samples import replicas, route

MIXED = Workload.lognormal(40, 20, 0.7, 0.7)


def test_arrivals_and_lengths_are_the_load_generators_own_until_they_are_told_to_end() -> None:
    clock = SimulatedClock()
    sent: list[SimulatedRequest] = []
    fleet = SimulatedModel(clock, route(), replicas(clock, (100,)))
    open_traffic(clock, fleet, MIXED, 2.0, seed=3, until=lambda: clock.now > 20, sent=sent.append)
    clock.run(100.0)
    due = list(itertools.takewhile(lambda at: at <= 20.0, poisson(2.0, 3)))
    assert [flight.arrived for flight in sent] == pytest.approx(due)
    pairs = [(flight.prompt_tokens, flight.output_tokens) for flight in sent]
    assert pairs == [lengths_of(MIXED).pair(i, 3) for i in range(len(sent))]
    for workload in (MIXED, Workload.of_trace([(10, 5), (30, 7)])):
        profiled = load.lengths_of(workload)
        assert profiled is not None
        for i in range(50):
            assert lengths_of(workload).pair(i, 7) == profiled.pair(i, 7)
    assert lengths_of(Workload(40, 20)).pair(3, 7) == (40, 20)


def test_a_closed_loop_holds_its_slots_in_flight_and_does_not_finish_in_waves() -> None:
    clock = SimulatedClock()
    fleet = SimulatedModel(clock, route(), replicas(clock, (8,)))
    sent: list[SimulatedRequest] = []
    fleet.on_done = closed_traffic(clock, fleet, Workload(10, 16), 8, seed=0, sent=sent.append)
    clock.run(0.0)
    assert [flight.output_tokens for flight in sent] == [2, 4, 6, 8, 10, 12, 14, 16]
    for until in (10.0, 50.0, 90.5):
        clock.run(until)
        assert fleet.replicas[0].sequences == 8
    assert all(flight.output_tokens == 16 for flight in sent[8:])


def test_an_observer_counts_the_window_alone() -> None:
    observer = Observer(10.0, 20.0)
    early, inside = SimulatedRequest(9.9, 1, 1), SimulatedRequest(10.0, 1, 2)
    for flight in (early, inside):
        observer.sent(flight)
    assert observer.pending == 1
    inside.first, inside.ended = 11.0, 12.5
    observer.done(inside)
    observer.done(early)
    observer.tokens(5.0, 15.0, 100)
    found = observer.outcome(None)
    assert (found.arrivals, found.answered, observer.pending) == (1, 1, 0)
    assert found.output_tokens_per_s == pytest.approx(5.0)
    assert (found.ttft_p95_seconds, found.tpot_p95_seconds) == (1.0, 1.5)
