"""Hosts that die and come back: found out, repaired and counted with again as in production."""

import dataclasses
import math
from collections.abc import Iterator

import pytest

from loadgen.load.arrivals import poisson
from partitiond.core.errors import InputError
from partitiond.core.hardware.host_state import HostLimits
from partitiond.core.hardware.kinds import Device
from partitiond.core.model.spec import FaultDomain, PlacementRules
from partitiond.core.plan.record import MAX_MOVE_PRICE, ModelDemand, Placement, Plan
from partitiond.core.replica.states import ReplicaState
from partitiond.core.units import Bytes
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from partitiond.simulated.fleet.arrivals import Arrival
from partitiond.simulated.fleet.outages import (
    LOOK_SECONDS,
    HostOutage,
    HostOutages,
    read_outage,
)
from partitiond.simulated.fleet.report import FleetReport
from partitiond.simulated.fleet.run import FleetOptions, FleetRun
from tests.planner.build import gpu, want
from tests.simulated.fleet.fleet_samples import fleet_run, replica_of

START = {"m": 10.0}
EACH = replica_of("m", gib=30).capacity_req_per_s
LIMITS = HostLimits(silent_seconds=10.0, lost_seconds=40.0)


def fleet(hosts: int) -> tuple[Device, ...]:
    """As many hosts of one GPU each, which holds two replicas."""
    return tuple(
        dataclasses.replace(gpu(f"gpu-{n}", host=f"h{n}", gib=62, hardware="test"), idle_watts=50.0)
        for n in range(hosts)
    )


def asked(model: str, replicas: float, survive: FaultDomain | None = None) -> ModelDemand:
    """A demand of so many replicas' capacity."""
    rules = PlacementRules(survive=survive)
    return want(model, replica_of(model, gib=30), rate=replicas * EACH, rules=rules)


class Away:
    """A planned fleet in which hosts go away."""

    def __init__(
        self, devices: tuple[Device, ...], models: tuple[ModelDemand, ...], *outages: HostOutage
    ) -> None:
        self.request = PlanRequest(devices=devices, models=models, time_limit_seconds=2.0)
        self.outages = HostOutages(outages, self.repaired, LIMITS)
        first = solve(self.request)
        assert isinstance(first, Plan)
        self.first = first
        self.asked: list[bool] = []

    def repaired(self, running: tuple[Placement, ...], lost: bool) -> Plan | None:
        self.asked.append(lost)
        found = solve(
            dataclasses.replace(
                self.request,
                devices=self.outages.as_seen(self.request.devices, running),
                running=running,
                move_price=MAX_MOVE_PRICE if lost else self.request.move_price,
                may_search=not lost,
            )
        )
        return found if isinstance(found, Plan) else None

    def simulated(self, seconds: float, req_per_s: float) -> tuple[FleetRun, FleetReport]:
        names = [demand.model for demand in self.request.models]
        options = FleetOptions(seconds, start_seconds=START)
        run = fleet_run(self.first, options, names, self.outages)
        arrivals: dict[str, Iterator[Arrival]] = {
            name: ((when, 32, 16) for when in poisson(req_per_s, n)) for n, name in enumerate(names)
        }
        return run, run.run(arrivals)


def hosts_of(plan: Plan, model: str) -> list[str]:
    host_of = {device.id: device.host for device in plan.devices}
    return sorted(host_of[p.device_id] for p in plan.placements if p.model == model)


def test_what_survives_a_host_serves_on_is_repaired_elsewhere_and_loses_only_what_ran() -> None:
    """`survive = "host"` keeps the room for the demand; repair fills it up on the other hosts."""
    away = Away(fleet(4), (asked("m", 2.0, FaultDomain.HOST),), HostOutage("h0", 20.0, 120.0))
    assert hosts_of(away.first, "m")[0] == "h0"
    run, report = away.simulated(160.0, 0.8 * EACH)
    (outage,) = away.outages.reports
    lost = outage.lost_seconds
    assert lost is not None
    assert lost == pytest.approx(20.0 + LIMITS.lost_seconds, abs=LOOK_SECONDS)
    assert outage.repaired_seconds is not None
    assert lost + START["m"] <= outage.repaired_seconds <= lost + 4 * START["m"]
    assert outage.back_seconds == pytest.approx(120.0, abs=LOOK_SECONDS)
    assert outage.waited == 0
    assert away.asked == [True, False]  # once it is lost, and once it is back
    served = report.all.served
    assert not served.refused
    assert 0 < served.failed <= 2 * 8  # what was in two engines of eight slots
    assert served.answered + served.failed == served.arrivals
    assert len(run.plan.placements) == len(away.first.placements)


def test_a_repaired_fleet_survives_the_next_host() -> None:
    devices = fleet(5)
    away = Away(
        devices,
        (asked("m", 2.0, FaultDomain.HOST),),
        HostOutage("h0", 20.0),
        HostOutage("h1", 100.0),
    )
    run, report = away.simulated(200.0, 0.8 * EACH)
    assert [one.repaired_seconds is not None for one in away.outages.reports] == [True, True]
    assert not report.all.served.refused
    left = run.plan.placements
    assert {"gpu-0", "gpu-1"}.isdisjoint(p.device_id for p in left)
    by_host = [sum(p.device_id == device.id for p in left) for device in devices]
    assert (sum(by_host) - max(by_host)) * EACH >= 2.0 * EACH - 1e-6


def on_one(hosts: int, begin: float, end: float = math.inf) -> tuple[Away, str]:
    """A model whose two replicas are on one host, which goes away."""
    models = (asked("m", 1.7),)
    (host,) = set(hosts_of(Away(fleet(hosts), models).first, "m"))
    return Away(fleet(hosts), models, HostOutage(host, begin, end)), host


def test_without_survive_requests_are_refused_until_the_host_is_repaired() -> None:
    away, _ = on_one(3, 20.0)
    run, report = away.simulated(140.0, EACH)
    (outage,) = away.outages.reports
    assert outage.repaired_seconds is not None
    assert outage.back_seconds is None
    served = report.all.served
    waiting = outage.repaired_seconds - 20.0
    assert sum(served.refused.values()) == pytest.approx(waiting * EACH, rel=0.25)
    assert len(run.plan.placements) == 2
    assert report.engine_starts == 2


@pytest.mark.parametrize(("begin", "end"), [(20.0, 50.0), (21.0, 22.0)])
def test_a_host_that_is_back_before_it_is_lost_starts_its_own_engines_again(
    begin: float, end: float
) -> None:
    """A restart between two looks is found out, too."""
    away, host = on_one(3, begin, end)
    run, report = away.simulated(120.0, 0.5 * EACH)
    (outage,) = away.outages.reports
    assert (outage.lost_seconds, outage.repaired_seconds) == (None, None)
    assert run.plan == away.first
    assert report.engine_starts == 2
    serving = [e for e in run.hosts[host].engines if e.runs]
    assert len(serving) == 2
    assert min(e.since for e in serving) >= end + START["m"]


def test_nothing_is_begun_while_a_host_is_silent_and_it_uses_nothing() -> None:
    """Also where another plan is applied meanwhile."""
    away, host = on_one(3, 20.0, 80.0)
    run, report = away.simulated(45.0, 0.5 * EACH)
    assert report.engine_starts == 0
    assert report.all.used.gpu_hours * 3600 == pytest.approx(20.0, abs=1.0)
    assert not any(engine.runs for engine in run.hosts[host].engines)
    assert {engine.state for engine in run.hosts[host].engines} == {ReplicaState.SERVING}

    away, _ = on_one(3, 20.0, 50.0)
    run = fleet_run(away.first, FleetOptions(90.0, start_seconds=START), ("m",), away.outages)
    one = away.first.placements[0]
    roomy = dataclasses.replace(one.partition, memory_bytes=Bytes(1))
    third = dataclasses.replace(one, replica_id="m-9", partition=roomy)
    other = dataclasses.replace(away.first, placements=(*away.first.placements, third))
    run.clock.at(40.0, lambda: run.apply(other))
    starts: list[int] = []
    run.clock.at(49.0, lambda: starts.append(run.starts))
    run.run({})
    assert (starts, run.starts) == ([0], 3)


def test_an_engine_that_starts_or_ends_as_its_host_goes_is_no_engine_afterwards() -> None:
    away, host = on_one(2, 15.0, 30.0)
    options = FleetOptions(100.0, cold=True, start_seconds=START)
    run = fleet_run(away.first, options, ("m",), away.outages)
    serving: list[int] = []
    run.clock.at(25.0, lambda: serving.append(len(run.models["m"].replicas)))
    run.run({})
    assert serving == [0]
    assert [e.since >= 30.0 + START["m"] for e in run.hosts[host].engines if e.runs] == [True] * 2
    assert run.starts == 4  # the first served, the second was starting


def test_an_outage_is_written_in_a_word_and_anything_else_is_refused() -> None:
    assert read_outage("node-1-0:300-900") == HostOutage("node-1-0", 300.0, 900.0)
    assert read_outage("a:b:0") == HostOutage("a:b", 0.0, math.inf)
    for text in ("", "h", "h:", ":3", "h:9-3", "h:3-3", "h:-3", "h:3-", "h:1.2.3"):
        with pytest.raises(InputError, match="no outage of a host"):
            read_outage(text)
    away = Away(fleet(2), (asked("m", 1.0),), HostOutage("h7", 100.0))
    with pytest.raises(InputError, match="no host h7") as refused:
        away.simulated(10.0, 1.0)
    assert "h0, h1" in refused.value.hint
