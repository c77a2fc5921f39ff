"""The planner gives people the plan that they ask for."""

import dataclasses

import pytest

from partitiond.core.model.spec import Demand, Slo
from partitiond.core.plan.record import Infeasible, Objective, Status, diff_plans
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import cpu, gpu, on_cores, point, want
from tests.planner.problems import plan_for


def test_a_model_alone_takes_all_the_cores_in_the_way_that_serves_most() -> None:
    two_small = want("chat", on_cores("chat", 3, 1), on_cores("chat", 5, 2))
    assert len(plan_for(PlanRequest((cpu(2),), (two_small,))).placements) == 2
    one_large = want("chat", on_cores("chat", 3, 1), on_cores("chat", 7, 2))
    made = plan_for(PlanRequest((cpu(2),), (one_large,)))
    assert [p.candidate.size.cores for p in made.placements] == [2]


def test_what_is_left_over_goes_by_weight() -> None:
    models = (
        want("light", on_cores("light", 4, 1, gib=1)),
        want("heavy", on_cores("heavy", 4, 1, gib=1), weight=3.0),
    )
    made = plan_for(PlanRequest((cpu(8),), models))
    count = {f.model: f.replicas for f in made.forecasts}
    assert count == {"light": 2, "heavy": 6}


def test_a_third_model_on_two_cores_is_unplaced_with_reason_and_remedy() -> None:
    models = tuple(want(name, on_cores(name, 3, 1)) for name in ("a", "b", "c"))
    made = plan_for(PlanRequest((cpu(2),), models))
    assert len(made.placements) == 2
    (missing,) = made.unplaced
    assert "no cores left" in missing.reason
    assert missing.remedy
    assert any("proven impossible" in line for line in made.explanation)


@pytest.mark.parametrize("rate", [None, 1.0])
def test_replicas_that_do_not_fit_are_counted(rate: float | None) -> None:
    model = want("a", on_cores("a", 3, 1), rate=rate, min_replicas=50)
    (missing,) = plan_for(PlanRequest((cpu(2),), (model,))).unplaced
    assert "min_replicas 50, only 2 are placed" in missing.reason
    assert missing.remedy == "Lower min_replicas or add devices."


def test_large_numbers_are_written_out() -> None:
    made = plan_for(PlanRequest((cpu(2),), (want("a", on_cores("a", 3, 1), rate=100_000),)))
    assert made.certificate.objective is Objective.MAX_GOODPUT
    assert "of 100,000 requests/s" in made.unplaced[0].reason
    assert "e+" not in f"{made.unplaced} {made.explanation}"


def test_nothing_that_fits_is_infeasible_with_the_sizes() -> None:
    answer = solve(PlanRequest((gpu(gib=10),), (want("big", point("big", 5, 40)),)))
    assert isinstance(answer, Infeasible)
    assert "needs 40 GiB" in answer.reasons[0]
    assert answer.remedies


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (want("m", reason="it has no profile yet"), "no profile yet"),
        (want("m", point("m", 5, 4, hardware="h100-80gb")), "profiled on h100-80gb"),
        (want("m", point("m", 5, 4, latency=9), slo=Slo(1, 1)), "would miss the TTFT bound"),
    ],
)
def test_a_model_that_fits_nowhere_says_why_and_the_others_are_planned(
    model: object, says: str
) -> None:
    ok = want("ok", point("ok", 5, 4, sm=10), rate=3)
    made = plan_for(PlanRequest((gpu(),), (model, ok)))  # type: ignore[arg-type]
    assert [p.model for p in made.placements] == ["ok"]
    assert says in made.unplaced[0].reason


@pytest.mark.parametrize("objective", Objective)
def test_no_models_means_an_empty_plan_that_stops_what_runs(objective: Objective) -> None:
    device = gpu(idle_watts=50.0, max_watts=300.0)
    models = (want("a", point("a", 5, 10, sm=10, watts=60.0), rate=1e-9),)
    first = plan_for(PlanRequest((device,), models, objective=objective))
    assert not first.unplaced, "next to nothing is served"
    made = plan_for(PlanRequest((device,), (), running=first.placements, objective=objective))
    assert (made.placements, made.certificate.own_value) == ((), 0)
    assert diff_plans(first.placements, made.placements).stop == first.placements
    assert isinstance(solve(PlanRequest((), models, objective=objective)), Infeasible)


def test_burst_is_planned_for() -> None:
    calm = want("a", point("a", 5, 10, sm=10), rate=4)
    bursty = dataclasses.replace(calm, demand=Demand(req_per_s=4, burst_factor=2))
    assert len(plan_for(PlanRequest((gpu(),), (calm,))).placements) == 1
    assert len(plan_for(PlanRequest((gpu(),), (bursty,))).placements) == 2


def test_the_certificate_names_a_baseline_and_a_bound() -> None:
    models = tuple(want(f"m{i}", point(f"m{i}", 5, 10, sm=10), rate=4) for i in range(6))
    made = plan_for(PlanRequest(tuple(gpu(f"g{i}") for i in range(8)), models))
    proof = made.certificate
    assert (proof.value, proof.bound, proof.status) == (1, 1, Status.OPTIMAL)
    assert proof.baseline_one_model_per_device == 6
