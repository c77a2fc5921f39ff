"""The planner gives people the plan that they ask for."""

import dataclasses

import pytest

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import CpuCores, MemoryShare, MpsShare, WholeDevice
from partitiond.core.model.spec import Demand, Slo
from partitiond.core.plan.record import Infeasible, Objective, Plan, Status, diff_plans
from partitiond.core.units import GIB, Bytes
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import cpu, gpu, on_cores, point, want


def plan(request: PlanRequest) -> Plan:
    """The plan; the request must have one."""
    answer = solve(request)
    assert isinstance(answer, Plan), answer
    return answer


def test_two_models_without_a_rate_share_a_two_core_cpu() -> None:
    models = (
        want("chat", on_cores("chat", 3, 1), on_cores("chat", 5, 2)),
        want("code", on_cores("code", 4, 1), on_cores("code", 6, 2)),
    )
    made = plan(PlanRequest((cpu(2),), models))
    assert sorted(p.replica_id for p in made.placements) == ["chat-1", "code-1"]
    cores = [p.partition.cores for p in made.placements if isinstance(p.partition, CpuCores)]
    assert sorted(cores) == [(0,), (1,)]
    assert made.certificate.status is Status.OPTIMAL
    assert made.unplaced == ()


def test_a_model_alone_takes_all_the_cores_in_the_way_that_serves_most() -> None:
    two_small = want("chat", on_cores("chat", 3, 1), on_cores("chat", 5, 2))
    assert len(plan(PlanRequest((cpu(2),), (two_small,))).placements) == 2
    one_large = want("chat", on_cores("chat", 3, 1), on_cores("chat", 7, 2))
    made = plan(PlanRequest((cpu(2),), (one_large,)))
    assert [p.candidate.size.cores for p in made.placements] == [2]


def test_what_is_left_over_goes_by_weight() -> None:
    models = (
        want("light", on_cores("light", 4, 1, gib=1)),
        want("heavy", on_cores("heavy", 4, 1, gib=1), weight=3.0),
    )
    made = plan(PlanRequest((cpu(8),), models))
    count = {f.model: f.replicas for f in made.forecasts}
    assert count == {"light": 2, "heavy": 6}


def test_a_third_model_on_two_cores_is_unplaced_with_reason_and_remedy() -> None:
    models = tuple(want(name, on_cores(name, 3, 1)) for name in ("a", "b", "c"))
    made = plan(PlanRequest((cpu(2),), models))
    assert len(made.placements) == 2
    (missing,) = made.unplaced
    assert "no cores left" in missing.reason
    assert missing.remedy
    assert any("proven impossible" in line for line in made.explanation)


def test_absurd_demand_is_served_in_part_and_says_by_how_much() -> None:
    made = plan(PlanRequest((cpu(2),), (want("a", on_cores("a", 3, 1), rate=1000),)))
    assert made.unplaced[0].missing_req_per_s == pytest.approx(994)
    assert made.certificate.objective is Objective.MAX_GOODPUT
    assert made.forecasts[0].capacity_req_per_s == pytest.approx(6)


@pytest.mark.parametrize("rate", [None, 1.0])
def test_replicas_that_do_not_fit_are_counted(rate: float | None) -> None:
    model = want("a", on_cores("a", 3, 1), rate=rate, min_replicas=50)
    (missing,) = plan(PlanRequest((cpu(2),), (model,))).unplaced
    assert "min_replicas 50, only 2 are placed" in missing.reason
    assert missing.remedy == "Lower min_replicas or add devices."


def test_large_numbers_are_written_out() -> None:
    made = plan(PlanRequest((cpu(2),), (want("a", on_cores("a", 3, 1), rate=100_000),)))
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
        (want("m", point("m", 5, 4, latency=9), slo=Slo(1, 1)), "misses its SLO"),
    ],
)
def test_a_model_that_fits_nowhere_says_why_and_the_others_are_planned(
    model: object, says: str
) -> None:
    ok = want("ok", point("ok", 5, 4, sm=10), rate=3)
    made = plan(PlanRequest((gpu(),), (model, ok)))  # type: ignore[arg-type]
    assert [p.model for p in made.placements] == ["ok"]
    assert says in made.unplaced[0].reason


def test_no_models_means_an_empty_plan_that_stops_what_runs() -> None:
    models = (want("a", point("a", 5, 10, sm=10), rate=3),)
    first = plan(PlanRequest((gpu(),), models))
    made = plan(PlanRequest((gpu(),), (), running=first.placements))
    assert made.placements == ()
    assert len(diff_plans(first.placements, made.placements).stop) == 1


def test_foreign_use_reserved_memory_and_headroom_are_left_alone() -> None:
    free = gpu(gib=80)
    taken = dataclasses.replace(free, free_bytes=Bytes(free.memory_bytes - 45 * GIB))
    model = want("a", point("a", 5, 40, sm=10), rate=4)
    assert plan(PlanRequest((free,), (model,))).placements
    assert isinstance(solve(PlanRequest((taken,), (model,))), Infeasible)


def test_time_slicing_divides_rates_and_an_slo_limits_how_many_share() -> None:
    busy = [point(n, 9, 10, busy=1.0) for n in "ab"]
    models = tuple(want(c.model, c, rate=4) for c in busy)
    made = plan(PlanRequest((gpu("g0"), gpu("g1")), models))
    assert {p.device_id for p in made.placements} == {"g0"}
    assert made.forecasts[0].capacity_req_per_s == pytest.approx(9 / 2.1)
    tight = tuple(dataclasses.replace(m, slo=Slo(1.0, 0.015)) for m in models)
    assert plan(PlanRequest((gpu("g0"), gpu("g1")), tight)).certificate.value == 2


def test_each_mode_gives_its_kind_of_partition() -> None:
    whole = want("w", point("w", 5, 10, mode=SharingMode.WHOLE), rate=4)
    memory = want("m", point("m", 5, 10, busy=0.4), rate=4)
    mps = want("p", point("p", 5, 10, sm=30), rate=4)
    made = plan(PlanRequest(tuple(gpu(f"g{i}") for i in range(3)), (whole, memory, mps)))
    kinds = {p.model: type(p.partition) for p in made.placements}
    assert kinds == {"w": WholeDevice, "m": MemoryShare, "p": MpsShare}


def test_cores_are_shared_between_the_cpu_device_and_engines_on_gpus() -> None:
    device = gpu(cores=(0, 1))
    models = (
        want("on-gpu", point("on-gpu", 5, 10, sm=10), rate=4),
        want("on-cpu", on_cores("on-cpu", 5, 1), rate=9),
    )
    made = plan(PlanRequest((device, cpu(3)), models))
    cores = [
        c for p in made.placements if isinstance(p.partition, CpuCores) for c in p.partition.cores
    ]
    assert len(cores) == 2
    assert len({0, 1} - set(cores)) >= 1


def test_burst_is_planned_for() -> None:
    calm = want("a", point("a", 5, 10, sm=10), rate=4)
    bursty = dataclasses.replace(calm, demand=Demand(req_per_s=4, burst_factor=2))
    assert len(plan(PlanRequest((gpu(),), (calm,))).placements) == 1
    assert len(plan(PlanRequest((gpu(),), (bursty,))).placements) == 2


def test_the_certificate_names_baselines_and_a_bound() -> None:
    models = tuple(want(f"m{i}", point(f"m{i}", 5, 10, sm=10), rate=4) for i in range(6))
    made = plan(PlanRequest(tuple(gpu(f"g{i}") for i in range(8)), models))
    proof = made.certificate
    assert (proof.value, proof.bound, proof.status) == (1, 1, Status.OPTIMAL)
    assert proof.baseline_one_model_per_device == 6
    assert proof.baseline_first_fit == 1


@pytest.mark.parametrize("objective", list(Objective))
def test_a_demand_next_to_nothing_is_served(objective: Objective) -> None:
    request = PlanRequest(
        (gpu(idle_watts=50, max_watts=400),),
        (want("a", point("a", 5, 4, sm=10, watts=60.0), rate=1e-300),),
        objective=objective,
    )
    made = plan(request)
    assert not made.unplaced
    assert [p.model for p in made.placements][:1] == ["a"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cordoned": True}, "is cordoned"),
        ({"occupied_sm_percent": 100}, "hold all SMs"),
        ({"occupied_slices": (0,), "modes": (SharingMode.MPS,)}, "for other programs"),
        ({"modes": ()}, "no device allows any sharing mode"),
    ],
)
def test_a_device_that_is_closed_is_named_as_the_reason(
    changes: dict[str, object], says: str
) -> None:
    device = dataclasses.replace(gpu(), **changes)  # type: ignore[arg-type]
    answer = solve(PlanRequest((device,), (want("a", point("a", 5, 4, sm=10), rate=3),)))
    assert isinstance(answer, Infeasible)
    assert says in answer.reasons[0]
