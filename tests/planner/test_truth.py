"""Certificates hold for the figures as given: bytes and floats, without a grid."""

import dataclasses
import threading

import pytest

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.model.spec import FaultDomain, PlacementRules, Slo
from partitiond.core.performance.interference import Interference
from partitiond.core.plan.record import Infeasible, ModelDemand, Objective, Plan, Status
from partitiond.core.units import GIB, MIB, Bytes
from partitiond.planner.answers.certify import certify
from partitiond.planner.api import solve
from partitiond.planner.bounds.prices import bound_of
from partitiond.planner.check import check_plan
from partitiond.planner.market.beside import ColumnWorker
from partitiond.planner.model.figures import down, up
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.progress.watch import SolveMonitor
from partitiond.planner.search.portfolio import solve_portfolio
from tests.planner.build import FREE, cpu, gpu, gpus, on_cores, point, want

LEVELS = Interference((1.0, 1.1, 1.25, 1.5), (1.0, 1.1, 1.25, 1.5), 0.05, 0.02, 0.0)


def planned(request: PlanRequest) -> Plan:
    """The answer, which is a plan."""
    answer = solve(request)
    assert isinstance(answer, Plan), answer
    return answer


def asked(devices: tuple[object, ...], *models: ModelDemand, **more: object) -> PlanRequest:
    """A question that is answered at once."""
    values: dict[str, object] = {"time_limit_seconds": 5, "interference": LEVELS, **more}
    return PlanRequest(devices, models, may_search=False, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(("spare", "devices"), [(1, 1), (0, 1), (-1, 2)])
def test_memory_counts_to_the_byte(spare: int, devices: int) -> None:
    one = dataclasses.replace(point("a", 1.0, 1), memory_bytes=Bytes(20_542 * MIB))
    # Free memory as given, in mode MPS or not: what is usable is two replicas and the rest.
    room = gpu(gib=80)
    over = room.memory_bytes - room.free_bytes
    assert over == 0
    usable = 2 * 20_542 * MIB + spare
    free = Bytes(room.free_bytes - (80 * 1024 + 256) * MIB + usable)
    there = tuple(dataclasses.replace(room, id=f"g{n}", free_bytes=free) for n in range(2))
    plan = planned(asked(there, want("a", one, rate=2.0), interference=FREE))
    assert plan.certificate.value == plan.certificate.bound == devices
    assert plan.certificate.status is Status.OPTIMAL


def test_shares_that_reach_a_level_exactly_do_not_exceed_it() -> None:
    one = point("a", 1.1, 5, busy=1 / 3)
    plan = planned(asked(gpus(2), want("a", one, rate=3.0)))
    assert plan.certificate.value == plan.certificate.bound == 1


@pytest.mark.parametrize(("rate", "times"), [(0.50004, 2), (0.00019, 4), (1234.567, 3), (1 / 3, 3)])
def test_a_demand_of_whole_replicas_takes_so_many(rate: float, times: int) -> None:
    model = want("a", point("a", rate, 60), rate=rate * times)
    plan = planned(asked(gpus(5), model, interference=FREE))
    assert plan.certificate.value == plan.certificate.bound == times
    assert plan.unplaced == ()


@pytest.mark.parametrize("rate", [1e-4, 0.50004, 1000.1])
def test_a_demand_that_is_a_trifle_more_takes_one_more(rate: float) -> None:
    model = want("a", point("a", rate, 60), rate=rate * 2.00004)
    assert planned(asked(gpus(5), model, interference=FREE)).certificate.value == 3


def test_what_is_missing_is_told_in_true_figures() -> None:
    model = want("a", point("a", 0.0003, 60, busy=1 / 3), rate=0.001)
    plan = planned(asked(gpus(2), model, objective=Objective.MAX_GOODPUT))
    assert plan.unplaced[0].missing_req_per_s == pytest.approx(0.0004, rel=1e-6)
    assert plan.certificate.status is Status.OPTIMAL


def test_sizes_of_a_model_without_a_rate_are_mixed_where_that_gives_more() -> None:
    sizes = point("a", 6.4, 52, sm=50), point("a", 1.2, 23, sm=50)
    levels = Interference((1.0,), (1.0, 1.04), 0.0, 0.02, 0.0)
    plan = planned(
        asked(gpus(1), want("a", *sizes), objective=Objective.MAX_GOODPUT, interference=levels)
    )
    assert plan.certificate.value == pytest.approx(7.6 / 1.04)
    assert plan.certificate.bound == pytest.approx(7.6 / 1.04)


def test_a_lower_priority_is_not_rounded_away() -> None:
    def of(name: str, rate: float, priority: int, gib: float) -> ModelDemand:
        rules = PlacementRules(priority=priority)
        return want(name, point(name, rate, gib), rate=rate, rules=rules)

    models = of("top", 1.0, 2, 40), of("mid", 1.0, 0, 40), of("low", 3.0, -2, 40)
    plan = planned(asked(gpus(1), *models, objective=Objective.MAX_GOODPUT, interference=FREE))
    assert plan.certificate.value == pytest.approx(10_001, rel=1e-9)
    assert plan.certificate.bound == pytest.approx(10_001, rel=1e-6)


@pytest.mark.parametrize("worse", ["slo", "cores", "host"])
def test_a_whole_device_stays_where_a_share_does_not_do(worse: str) -> None:
    whole = point("a", 5, 40, mode=SharingMode.WHOLE)
    share = point("a", 5, 40)
    if worse == "slo":
        share = dataclasses.replace(share, ttft_p95_seconds=9.0)
    elif worse == "cores":
        share = dataclasses.replace(share, size=dataclasses.replace(share.size, cores=9))
    else:
        share = dataclasses.replace(share, host_memory_bytes=Bytes(100 * MIB))
    model = want("a", whole, share, rate=5, slo=Slo(1.0, 1.0))
    more = {"host_memory_bytes": (("host", 50 * MIB),)} if worse == "host" else {}
    plan = planned(asked(gpus(1, cores=(0, 1)), model, **more))
    assert [p.candidate for p in plan.placements] == [whole]


@pytest.mark.parametrize("objective", Objective)
def test_a_plan_better_than_its_bound_is_not_hidden(objective: Objective) -> None:
    models = tuple(
        want(n, dataclasses.replace(point(n, 5, 30, sm=40), watts=80.0), rate=7) for n in "ab"
    )
    request = asked(gpus(3), *models, objective=objective)
    plan = planned(request)
    instance = build_instance(request)
    found = solve_portfolio(instance)
    better = found.bound * 1.9 + 1 if objective.is_cost else found.bound * 0.9
    wrong = dataclasses.replace(found, bound=better)
    levels = {d.id: _level(plan, d.id) for d in plan.devices}
    proof = certify(instance, wrong, plan.placements, levels, 1.0)
    assert proof.status is not Status.OPTIMAL
    said = check_plan(dataclasses.replace(plan, certificate=proof), models, LEVELS)
    assert any("better than its bound" in line for line in said)


def _level(plan: Plan, device: str) -> float:
    here = plan.on_device(device)
    crowd = 1 + 0.02 * (len(here) - 1)
    return next(x for x in LEVELS.levels_mps if x >= crowd)


@pytest.mark.parametrize(("share", "devices"), [(1.0, 3), (0.5, 2)])
def test_what_has_to_survive_asks_for_no_more_than_that(share: float, devices: int) -> None:
    rules = PlacementRules(survive=FaultDomain.DEVICE, survive_share=share)
    request = asked(gpus(3), want("a", point("a", 1.0, 60), rate=2.0, rules=rules))
    plan = planned(request)
    assert plan.certificate.value == plan.certificate.bound == devices
    value = bound_of(build_instance(request), as_cost=True)
    assert value is not None
    assert value <= devices


@pytest.mark.parametrize("objective", [Objective.MAX_MIN, Objective.MAX_HEADROOM])
def test_of_models_that_fill_devices_each_gets_half(objective: Objective) -> None:
    models = want("a", point("a", 1.0, 80), rate=8.0), want("b", point("b", 1.0, 80), rate=8.0)
    request = asked(gpus(8), *models, objective=objective, interference=FREE)
    proof = planned(request).certificate
    assert proof.value == pytest.approx(0.5)
    assert proof.status is Status.OPTIMAL


def test_what_fits_by_no_byte_is_impossible() -> None:
    one = dataclasses.replace(point("a", 1.0, 1), memory_bytes=Bytes(gpu().memory_bytes))
    assert isinstance(solve(asked(gpus(1), want("a", one, rate=1.0))), Infeasible)


def test_what_its_host_has_no_memory_for_fits_no_device() -> None:
    """Neither less demand nor a further device of that host would help it."""
    size = point("a", 30, 5, sm=10, host_gib=10)
    models = want("a", size, rate=20), want("b", point("b", 30, 5, sm=10), rate=20)
    few = (("host", 5 * GIB),)
    plan = planned(asked(gpus(1), *models, host_memory_bytes=few))
    assert plan.certificate.objective is Objective.MIN_DEVICES
    assert plan.certificate.status is Status.OPTIMAL
    (left,) = plan.unplaced
    assert (left.model, left.reason) == ("a", "a fits no device with what its host has.")
    assert left.remedy == "Add memory or cores to a host."
    enough = planned(asked(gpus(1), *models, host_memory_bytes=(("host", 10 * GIB),)))
    assert not enough.unplaced
    on_cpu = dataclasses.replace(on_cores("c", 3, 1), host_memory_bytes=Bytes(10 * GIB))
    other = planned(asked((cpu(),), want("c", on_cpu, rate=2), host_memory_bytes=few))
    assert not other.unplaced, "there it takes its footprint"


def test_a_model_without_an_slo_is_not_said_to_miss_it() -> None:
    """Under MPS the device lacks the byte that the mode takes."""
    one = point("a", 1.0, 1, sm=50)
    one = dataclasses.replace(one, memory_bytes=Bytes(80 * 1024 * MIB + 1))
    answer = solve(asked(gpus(1), want("a", one, rate=1.0)))
    assert isinstance(answer, Infeasible)
    assert "GiB free, it needs" in answer.reasons[0]
    busy = solve(asked(gpus(1), want("a", point("a", 1.0, 1, busy=1.6), rate=1.0)))
    assert isinstance(busy, Infeasible)
    assert "SLO" not in busy.reasons[0]


@pytest.mark.parametrize("value", [1 / 3, 0.1, 1e-4, 0.50004, 1234.567])
def test_floats_are_rounded_outwards_and_whole_numbers_kept(value: float) -> None:
    assert down(value, 10**9) <= value * 10**9 * (1 + 1e-12) <= up(value, 10**9) * (1 + 1e-9)
    assert up(value, 10**9) - down(value, 10**9) <= 1
    assert up(10.45, 10**9, 1.1) == down(10.45, 10**9, 1.1) == 9_500_000_000


def test_columns_beside_a_search_end_with_it_and_tell_what_broke() -> None:
    main, broke = threading.current_thread(), threading.Event()

    def stop() -> bool:
        if threading.current_thread() is not main:
            broke.set()
            raise RuntimeError("broke in the thread")
        return False

    model = want("a", point("a", 1.0, 30), rate=9.0)
    instance = build_instance(asked(gpus(4), model, objective=Objective.MAX_GOODPUT))
    beside = ColumnWorker(build_sites(instance), SolveMonitor(instance, None, stop))
    before = threading.active_count()
    beside.start(5.0)
    broke.wait()
    with pytest.raises(RuntimeError, match="broke in the thread"):
        beside.end()
    assert threading.active_count() == before


@pytest.mark.parametrize("objective", [o for o in Objective if o is not Objective.MIN_ENERGY])
@pytest.mark.parametrize(("rate", "each"), [(1e-6, 100_000.0), (1e-12, 1_000.0)])
def test_what_is_next_to_nothing_is_planned_beside_what_is_fast(
    rate: float, each: float, objective: Objective
) -> None:
    """A tiny demand has many units, and a replica that serves very much more of them has more."""
    tiny = want("a", point("a", each, 10, sm=20), point("a", each / 3, 10, sm=10), rate=rate)
    usual = want("b", point("b", 20.0, 30, sm=40), rate=50)
    watts = {"idle_watts": 50.0, "max_watts": 300.0}
    proof = planned(asked(gpus(2, **watts), tiny, usual, objective=objective)).certificate
    assert proof.objective is objective
    assert proof.status is Status.OPTIMAL
    assert proof.gap <= 1e-6
