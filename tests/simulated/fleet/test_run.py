"""Fleets in simulated time are counted correctly."""

from collections.abc import Iterator

import pytest

from loadgen.load.arrivals import poisson
from partitiond.core.plan.record import Plan
from partitiond.simulated.fleet.arrivals import Arrival
from partitiond.simulated.fleet.run import FleetOptions
from tests.simulated.fleet.fleet_samples import fleet_run, placed, replica_of
from tests.simulated.samples import STEP_SECONDS

PROMPT, OUTPUT = 32, 16


def sent(times: Iterator[float]) -> dict[str, Iterator[Arrival]]:
    return {"m": ((when, PROMPT, OUTPUT) for when in times)}


def steady(req_per_s: float, seed: int = 1) -> dict[str, Iterator[Arrival]]:
    return sent(poisson(req_per_s, seed))


def two_replicas() -> Plan:
    made = [("m-0", "gpu-0", replica_of("m")), ("m-1", "gpu-1", replica_of("m"))]
    return placed(made, {"m": 20.0})


def test_a_calm_fleet_answers_everything_at_the_speed_of_its_engines() -> None:
    report = fleet_run(two_replicas(), FleetOptions(200.0, 10.0)).run(steady(5.0))
    served = report.all.served
    assert served.arrivals == pytest.approx(1000, rel=0.15)
    assert served.answered == served.good == served.arrivals
    assert served.unfinished == 0
    assert served.tpot.p50 == pytest.approx(STEP_SECONDS)
    # The step under way at most, and its own.
    assert served.ttft.p99 is not None
    assert STEP_SECONDS <= served.ttft.p99 <= 2 * STEP_SECONDS + 1e-9


def test_gpu_hours_and_energy_are_those_of_the_window() -> None:
    report = fleet_run(two_replicas(), FleetOptions(900.0, 100.0)).run(steady(5.0))
    used, served = report.all.used, report.all.served
    assert used.gpu_hours == pytest.approx(2 * 0.25)
    assert used.idle_joules == pytest.approx(2 * 900 * 50)
    joules_per_token = 100.0 / replica_of("m").output_tokens_per_s
    assert used.work_joules == pytest.approx(served.output_tokens * joules_per_token, rel=0.02)


def test_models_share_the_hours_of_a_device_by_what_they_hold_of_it() -> None:
    """Where a draw is not known the energy is left open."""
    unknown = replica_of("m", watts=None, gib=30)
    replicas = [("m-0", "gpu-0", unknown), ("n-0", "gpu-0", replica_of("n"))]
    made = placed(replicas, {"m": 1.0, "n": 1.0})
    report = fleet_run(made, FleetOptions(3600.0), ("m", "n")).run(steady(1.0))
    hours = {one.model: one.used.gpu_hours for one in report.models}
    assert hours == {"m": pytest.approx(0.75), "n": pytest.approx(0.25)}
    assert report.all.used.kwh is None
