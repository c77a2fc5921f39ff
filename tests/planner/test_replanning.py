"""Plans made while something runs keep every replica that can stay."""

import dataclasses

from partitiond.core.hardware.partition import CpuCores
from partitiond.core.plan.record import ModelDemand, Placement, Plan, diff_plans
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import cpu, gpu, on_cores, point, want


def plan(devices: tuple[object, ...], *models: ModelDemand, running: object = ()) -> Plan:
    """The plan of a request that has one."""
    answer = solve(PlanRequest(devices, models, running=running))  # type: ignore[arg-type]
    assert isinstance(answer, Plan)
    return answer


GPUS = tuple(gpu(f"g{i}") for i in range(4))


def test_a_new_model_touches_nothing_that_runs() -> None:
    a = want("a", point("a", 5, 30, sm=40), rate=9)
    b = want("b", point("b", 5, 30, sm=40), rate=9)
    first = plan(GPUS, a)
    second = plan(GPUS, a, b, running=first.placements)
    assert diff_plans(first.placements, second.placements).touches_nothing_running


def test_devices_are_interchangeable_until_they_hold_something() -> None:
    a = want("a", point("a", 5, 30, sm=40), rate=4)
    (placed,) = plan(GPUS, a).placements
    elsewhere = dataclasses.replace(
        placed,
        replica_id="a-7",
        device_id="g3",
        partition=dataclasses.replace(placed.partition, device_id="g3"),
    )
    again = plan(GPUS, a, running=(elsewhere,))
    assert again.placements == (elsewhere,)


def test_a_measured_point_replaces_an_estimated_one_under_the_same_name() -> None:
    first = plan((cpu(2),), want("a", on_cores("a", 5, 1, batch=8)))
    second = plan((cpu(2),), want("a", on_cores("a", 6, 1, batch=16)), running=first.placements)
    diff = diff_plans(first.placements, second.placements)
    assert {old.replica_id for old, _ in diff.move} == {"a-1", "a-2"}
    assert diff.start == ()


def test_only_the_predicted_figures_may_change_under_a_running_replica() -> None:
    first = plan((cpu(2),), want("a", on_cores("a", 5, 1)))
    second = plan((cpu(2),), want("a", on_cores("a", 6, 1)), running=first.placements)
    assert diff_plans(first.placements, second.placements).is_empty
    assert second.forecasts[0].capacity_req_per_s == 12


def test_running_replicas_keep_their_cores() -> None:
    a, b = want("a", on_cores("a", 5, 1), rate=4), want("b", on_cores("b", 5, 1), rate=4)
    (placed,) = plan((cpu(3),), a).placements
    assert isinstance(placed.partition, CpuCores)
    on_two = dataclasses.replace(placed.partition, cores=(2,))
    running = (dataclasses.replace(placed, partition=on_two),)
    second = plan((cpu(3),), a, b, running=running)
    assert running[0] in second.placements
    assert diff_plans(running, second.placements).touches_nothing_running


def test_a_model_that_needs_the_room_takes_only_as_much_as_it_needs() -> None:
    a = want("a", on_cores("a", 5, 1))
    b = want("b", on_cores("b", 5, 1))
    first = plan((cpu(4),), a)
    assert len(first.placements) == 4
    second = plan((cpu(4),), a, b, running=first.placements)
    diff = diff_plans(first.placements, second.placements)
    kept: tuple[Placement, ...] = diff.keep
    assert len(kept) == 2
    assert len(diff.start) == 2
    assert diff.move == ()
