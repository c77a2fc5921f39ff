"""What every plan keeps, on random small instances, against trying everything."""

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from partitiond.core.hardware import Device
from partitiond.core.plan import Infeasible, ModelDemand, Objective, Plan, Status
from partitiond.core.spec import Isolation, Slo
from partitiond.planner.api import solve
from partitiond.planner.bound import bound_cost
from partitiond.planner.check import check_plan
from partitiond.planner.greedy import first_fit
from partitiond.planner.instance import PlanRequest, build_instance
from tests.planner.build import gpu, point, try_everything, want

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def models(draw: st.DrawFn, *, rated: bool = True) -> tuple[ModelDemand, ...]:
    """Up to three models with up to two sizes each; figures on a coarse grid."""
    found = []
    for number in range(draw(st.integers(1, 3))):
        name = f"m{number}"
        sizes = []
        for batch in range(1, draw(st.integers(1, 2)) + 1):
            by_sm = draw(st.booleans())
            sizes.append(
                point(
                    name,
                    float(draw(st.integers(2, 12))),
                    draw(st.integers(12, 60)),
                    sm=draw(st.sampled_from((20, 40, 60))) if by_sm else 0,
                    busy=draw(st.sampled_from((0.0, 0.25, 0.5, 1.0))),
                    batch=batch,
                    latency=draw(st.sampled_from((0.01, 0.02))),
                    kappa=draw(st.sampled_from((None, None, 0.0, 0.15))),
                )
            )
        rate = float(draw(st.integers(2, 20))) + 0.01
        most = draw(st.sampled_from((None, None, 2)))
        found.append(
            want(
                name,
                *sizes,
                rate=rate if rated or draw(st.booleans()) else None,
                min_replicas=draw(st.sampled_from((0, 0, 2))),
                max_replicas=most,
                isolation=draw(st.sampled_from((Isolation.SHARED,) * 3 + (Isolation.DEVICE,))),
                slo=draw(st.sampled_from((None, Slo(1.0, 0.025)))),
            )
        )
    return tuple(found)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Device, ...]:
    """One to three GPUs of up to two prices, round or in cents."""
    price = draw(st.one_of(st.just(1.0), st.integers(1, 500).map(lambda cents: cents / 100)))
    return tuple(
        gpu(f"gpu-{i}", price_per_hour=draw(st.sampled_from((price, price, 2 * price))))
        for i in range(draw(st.integers(1, 3)))
    )


def _solved(request: PlanRequest) -> Plan | None:
    answer = solve(request)
    if isinstance(answer, Infeasible):
        assert answer.reasons
        return None
    assert check_plan(answer, request.models) == ()
    return answer


@QUICK
@given(fleets(), models())
def test_everything_is_served_exactly_when_that_is_possible_and_optimal_means_optimal(
    devices: tuple[Device, ...], wanted: tuple[ModelDemand, ...]
) -> None:
    best = try_everything(devices, wanted, Objective.MIN_DEVICES)
    plan = _solved(PlanRequest(devices, wanted, time_limit_seconds=5))
    served = plan is not None and not plan.unplaced
    assert served == (best is not None)
    if plan is not None and best is not None:
        assert plan.certificate.objective is Objective.MIN_DEVICES
        assert plan.certificate.bound <= best + 1e-6
        assert plan.certificate.value >= best - 1e-6
        if plan.certificate.status is Status.OPTIMAL:
            assert abs(plan.certificate.value - best) < 1e-6


def _two_thirds_each(count: int) -> tuple[ModelDemand, ...]:
    """Models of which no two fit one device, though the sum of their memory fits fewer."""
    return tuple(want(f"m{i}", point(f"m{i}", 5, 50), rate=1) for i in range(count))


@QUICK
@given(st.integers(1, 500), st.integers(1, 4))
@example(57, 1)
@example(57, 2)
@example(11, 23)
def test_any_price_in_cents_is_planned_like_a_round_one(cents: int, count: int) -> None:
    price = cents / 100
    devices = tuple(gpu(f"gpu-{i}", price_per_hour=price) for i in range(count + 1))
    wanted = _two_thirds_each(count)
    instance = build_instance(PlanRequest(devices, wanted))
    packing = first_fit(instance, bound_cost(instance).entries, best=False)
    assert packing.cost_units() // instance.groups[0].price == count

    plan = _solved(PlanRequest(devices, wanted, time_limit_seconds=2))
    assert plan is not None
    assert plan.unplaced == ()
    assert plan.certificate.objective is Objective.MIN_DEVICES
    assert abs(plan.certificate.value - count * price) < 1e-6
    assert plan.certificate.bound <= count * price + 1e-6


@QUICK
@given(fleets(), models())
def test_the_weighted_resource_bound_is_never_worse_than_the_optimum(
    devices: tuple[Device, ...], wanted: tuple[ModelDemand, ...]
) -> None:
    best = try_everything(devices, wanted, Objective.MIN_DEVICES)
    instance = build_instance(PlanRequest(devices, wanted))
    if best is not None and not instance.hopeless:
        bound = bound_cost(instance).value
        assert bound is not None
        assert bound <= best + 1e-6


@QUICK
@given(fleets(), models())
def test_the_most_goodput_is_what_trying_everything_finds(
    devices: tuple[Device, ...], wanted: tuple[ModelDemand, ...]
) -> None:
    best = try_everything(devices, wanted, Objective.MAX_GOODPUT)
    plan = _solved(
        PlanRequest(devices, wanted, objective=Objective.MAX_GOODPUT, time_limit_seconds=5)
    )
    if plan is not None and best is not None:
        assert plan.certificate.bound >= best - 1e-2
        assert plan.certificate.value <= best + 1e-2
        if plan.certificate.status is Status.OPTIMAL:
            assert abs(plan.certificate.value - best) < 1e-2


@QUICK
@given(fleets(), models(rated=False), st.sampled_from(Objective))
def test_planning_again_with_nothing_changed_changes_nothing(
    devices: tuple[Device, ...], wanted: tuple[ModelDemand, ...], objective: Objective
) -> None:
    first = _solved(PlanRequest(devices, wanted, objective=objective, time_limit_seconds=2))
    if first is None:
        return
    again = _solved(
        PlanRequest(
            devices,
            wanted,
            running=first.placements,
            objective=objective,
            time_limit_seconds=2,
        )
    )
    assert again is not None
    assert {p.replica_id: p for p in again.placements} == {
        p.replica_id: p for p in first.placements
    }


@QUICK
@given(fleets(), models(rated=False))
def test_equal_requests_give_equal_plans(
    devices: tuple[Device, ...], wanted: tuple[ModelDemand, ...]
) -> None:
    request = PlanRequest(devices, wanted, time_limit_seconds=2)
    one, two = _solved(request), _solved(request)
    assert (one.placements if one else None) == (two.placements if two else None)
