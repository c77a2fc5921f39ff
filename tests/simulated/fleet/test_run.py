"""Fleets in simulated time are counted correctly, also when plans change."""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import pytest

from loadgen.load.arrivals import constant, poisson, until
from partitiond.core.demand.forecast import ForecastPolicy
from partitiond.core.demand.scaling import ScalingPolicy
from partitiond.core.hardware.partition import MpsShare
from partitiond.core.model.autoscale import Autoscale
from partitiond.core.plan.record import Placement, Plan
from partitiond.simulated.fleet.arrivals import Arrival
from partitiond.simulated.fleet.hosts import LOOP_SECONDS, STOP_SECONDS
from partitiond.simulated.fleet.run import FleetOptions
from partitiond.simulated.fleet.scaling import Scaler
from tests.simulated.fleet.fleet_samples import fleet_run, placed, replica_of
from tests.simulated.samples import STEP_SECONDS

START = {"m": 30.0, "n": 30.0}
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


def test_a_cold_fleet_starts_its_engines_and_holds_requests_until_then() -> None:
    options = FleetOptions(120.0, cold=True, start_seconds=START)
    replicas = [(f"m-{n}", "gpu-0", replica_of("m")) for n in range(3)]
    run = fleet_run(placed(replicas, {"m": 5.0}), options)
    report = run.run(steady(5.0))
    assert report.engine_starts == 3
    # One start at a time on a device: the third serves after 90 s.
    assert {e.since for e in run.hosts["host"].engines} == {30.0, 60.0, 90.0}
    assert report.all.served.good < report.all.served.arrivals


def test_another_plan_is_made_before_it_breaks_and_loses_nothing() -> None:
    run = fleet_run(two_replicas(), FleetOptions(300.0, start_seconds=START))
    bigger = dataclasses.replace(replica_of("m"), batch=16)
    other = placed([("m-0", "gpu-0", bigger), ("m-1", "gpu-1", bigger)], {"m": 20.0})
    run.clock.at(100.0, lambda: run.apply(other))
    report = run.run(steady(20.0))
    assert report.all.served.good == report.all.served.arrivals
    assert report.engine_starts == 2
    assert {e.placement.candidate.batch for e in run.hosts["host"].engines} == {16}
    # Old and new ran side by side on the same devices, so no GPU hour came on top.
    assert report.all.used.gpu_hours == pytest.approx(2 * 300 / 3600)


@pytest.mark.parametrize(("group", "waits"), [("", 0.0), ("lab", STOP_SECONDS)])
def test_a_gpu_under_mps_passes_to_another_isolation_group_once_it_is_empty(
    group: str, waits: float
) -> None:
    def under_mps(model: str, isolation_group: str) -> Plan:
        plan = placed([(f"{model}-0", "gpu-0", replica_of(model))], {model: 1.0})
        (one,) = plan.placements
        share = MpsShare("gpu-0", one.partition.memory_bytes, 40, isolation_group=isolation_group)
        return dataclasses.replace(plan, placements=(dataclasses.replace(one, partition=share),))

    options = FleetOptions(300.0, start_seconds=START)
    run = fleet_run(under_mps("m", ""), options, ("m", "n"))
    run.clock.at(100.0, lambda: run.apply(under_mps("n", group)))
    run.run({})
    (engine,) = run.hosts["host"].engines
    assert engine.placement.model == "n"
    begun = engine.since - START["n"]
    assert 100.0 + waits <= begun <= 100.0 + waits + 2 * LOOP_SECONDS


def test_a_device_is_paid_for_until_its_last_engine_is_gone() -> None:
    run = fleet_run(two_replicas(), FleetOptions(300.0))
    only = placed([("m-0", "gpu-0", replica_of("m"))], {"m": 5.0})
    run.clock.at(100.0, lambda: run.apply(only))
    report = run.run(steady(5.0))
    assert report.all.served.good == report.all.served.arrivals
    held = 300 + 100 + STOP_SECONDS
    assert report.all.used.gpu_hours * 3600 == pytest.approx(held, abs=3.0)


def one_size(wanted: Mapping[str, float], _running: tuple[Placement, ...]) -> Plan:
    """As many replicas as a rate needs, on four devices in turn."""
    each = replica_of("m").capacity_req_per_s
    count = max(1, math.ceil(wanted["m"] / each))
    names = [f"gpu-{n}" for n in range(4)]
    made = [(f"m-{n}", names[n % 4], replica_of("m")) for n in range(count)]
    return placed(made, dict(wanted), names)


POLICY = ScalingPolicy(ForecastPolicy(step_seconds=10.0), down_window_seconds=60.0)


def test_demand_that_grows_gets_replicas_and_gives_them_back() -> None:
    each = replica_of("m").capacity_req_per_s
    low, high = 0.2 * each, 3 * each

    def times() -> Iterator[float]:
        yield from until(poisson(low, 1), 100.0)
        yield from (100 + t for t in until(poisson(high, 2), 200.0))
        yield from (300 + t for t in poisson(low, 3))

    scaler = Scaler(POLICY, {"m": Autoscale()}, one_size)
    first = one_size({"m": low}, ())
    options = FleetOptions(800.0, start_seconds=START)
    run = fleet_run(first, options, ("m",), scaler)
    serving: dict[float, int] = {}
    for when in (95.0, 290.0, 790.0):
        run.clock.at(when, lambda: serving.update({run.clock.now: len(run.models["m"].replicas)}))
    report = run.run(sent(times()))
    assert serving[95.0] == 1
    assert serving[290.0] >= 3
    assert serving[790.0] <= 2
    assert report.plans <= 8
    assert report.all.served.failed == 0


def test_an_idle_model_goes_to_zero_and_comes_back_for_a_request() -> None:
    scaler = Scaler(POLICY, {"m": Autoscale(scale_to_zero_seconds=60.0)}, one_size)
    options = FleetOptions(1000.0, start_seconds=START)
    run = fleet_run(one_size({"m": 1.0}, ()), options, ("m",), scaler)

    def times() -> Iterator[float]:
        yield from until(constant(1.0), 100.0)
        yield 500.0

    report = run.run(sent(times()))
    served = report.all.served
    assert served.answered == served.arrivals == 101
    # The last one waited for a start, and nobody else did.
    assert served.good == 100
    # 100 s of use, 60 s until it was idle, a start of 30 s and 60 s more.
    assert report.all.used.gpu_hours * 3600 == pytest.approx(250, abs=10)
