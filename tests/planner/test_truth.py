"""Certificates hold for the figures as given: bytes and floats, without a grid."""

import dataclasses

import pytest

from partitiond.core.performance.interference import Interference
from partitiond.core.plan.record import Infeasible, ModelDemand, Objective, Plan, Status
from partitiond.core.units import GIB, MIB, Bytes
from partitiond.planner.answers.certify import certify
from partitiond.planner.api import solve
from partitiond.planner.check import check_plan
from partitiond.planner.model.figures import down, up
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.search.portfolio import solve_portfolio
from tests.planner.build import cpu, gpus, on_cores, point, want
from tests.planner.problems import plan_for

LEVELS = Interference((1.0, 1.1, 1.25, 1.5), (1.0, 1.1, 1.25, 1.5), 0.05, 0.02, 0.0)


def asked(devices: tuple[object, ...], *models: ModelDemand, **more: object) -> PlanRequest:
    """A question that is answered at once."""
    values: dict[str, object] = {"time_limit_seconds": 5, "interference": LEVELS, **more}
    return PlanRequest(devices, models, may_search=False, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", Objective)
def test_a_plan_better_than_its_bound_is_not_hidden(objective: Objective) -> None:
    models = tuple(
        want(n, dataclasses.replace(point(n, 5, 30, sm=40), watts=80.0), rate=7) for n in "ab"
    )
    request = asked(gpus(3), *models, objective=objective)
    plan = plan_for(request)
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


def test_what_its_host_has_no_memory_for_fits_no_device() -> None:
    """Neither less demand nor a further device of that host would help it."""
    size = point("a", 30, 5, sm=10, host_gib=10)
    models = want("a", size, rate=20), want("b", point("b", 30, 5, sm=10), rate=20)
    few = (("host", 5 * GIB),)
    plan = plan_for(asked(gpus(1), *models, host_memory_bytes=few))
    assert plan.certificate.objective is Objective.MIN_DEVICES
    assert plan.certificate.status is Status.OPTIMAL
    (left,) = plan.unplaced
    assert left.reason.startswith("a fits no device. The closest: engines on host need 10 GiB of")
    assert left.remedy == "Add memory or cores to a host."
    enough = plan_for(asked(gpus(1), *models, host_memory_bytes=(("host", 10 * GIB),)))
    assert not enough.unplaced
    on_cpu = dataclasses.replace(on_cores("c", 3, 1), host_memory_bytes=Bytes(10 * GIB))
    other = plan_for(asked((cpu(),), want("c", on_cpu, rate=2), host_memory_bytes=few))
    assert not other.unplaced, "there it takes its footprint"


def test_a_model_without_an_slo_is_not_said_to_miss_it() -> None:
    """Under MPS the device lacks the byte that the mode takes."""
    one = point("a", 1.0, 1, sm=50)
    one = dataclasses.replace(one, memory_bytes=Bytes(80 * 1024 * MIB + 1))
    answer = solve(asked(gpus(1), want("a", one, rate=1.0)))
    assert isinstance(answer, Infeasible)
    assert "GiB for its replicas and has" in answer.reasons[0]
    busy = solve(asked(gpus(1), want("a", point("a", 1.0, 1, busy=1.6), rate=1.0)))
    assert isinstance(busy, Infeasible)
    assert "SLO" not in busy.reasons[0]


@pytest.mark.parametrize("value", [1 / 3, 0.1, 1e-4, 0.50004, 1234.567])
def test_floats_are_rounded_outwards_and_whole_numbers_kept(value: float) -> None:
    assert down(value, 10**9) <= value * 10**9 * (1 + 1e-12) <= up(value, 10**9) * (1 + 1e-9)
    assert up(value, 10**9) - down(value, 10**9) <= 1
    assert up(10.45, 10**9, 1.1) == down(9.5, 10**9) == 9_500_000_000


@pytest.mark.parametrize("objective", [o for o in Objective if o is not Objective.MIN_ENERGY])
def test_what_is_next_to_nothing_is_planned_beside_what_is_fast(objective: Objective) -> None:
    """A tiny demand has many units, and a replica that serves very much more of them has more."""
    watts = {"idle_watts": 50.0, "max_watts": 300.0}
    usual = want("b", point("b", 20.0, 30, sm=40), rate=50)
    for rate, each in ((1e-6, 100_000.0), (1e-9, 1_000_000.0)):
        tiny = want("a", point("a", each, 10, sm=20), point("a", each / 3, 10, sm=10), rate=rate)
        proof = plan_for(asked(gpus(2, **watts), tiny, usual, objective=objective)).certificate
        assert (proof.objective, proof.status) == (objective, Status.OPTIMAL)
        assert proof.gap <= 1e-6
