"""The part of a large plan that fits on a page is chosen by rule."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.plan import page
from partitiond.core.plan.page import first_of, fullest_and_emptiest, is_large, worst_served
from partitiond.core.plan.record import ModelForecast, Plan
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from tests.planner.build import cpu, gpu, on_cores, point, want


def gets(
    name: str, capacity: float, wanted: float | None = 10.0, replicas: int = 1
) -> ModelForecast:
    """What a model gets."""
    return ModelForecast(name, replicas, capacity, wanted, 0.1, 0.01, None)


def fill(name: str, memory: float, compute: float | None = None, *, of: str = "x") -> page.Fill:
    """A device that is so full."""
    return page.Fill(name, "a100-80gb", SharingMode.MPS, 1, memory, compute, ((of, "mps-10", 8),))


def made(*requests: object, devices: int = 1) -> Plan:
    """The plan of these models."""
    answer = solve(PlanRequest(tuple(gpu(f"g{n}") for n in range(devices)), requests))  # type: ignore[arg-type]
    assert isinstance(answer, Plan)
    return answer


def test_who_has_no_replica_and_least_to_spare_comes_first() -> None:
    models = (
        gets("fine", 20),
        gets("max", 5, None),
        gets("none", 0, 3, replicas=0),
        gets("short", 9),
        gets("none-of-more", 0, 30, replicas=0),
        gets("exact", 10),
        gets("none-of-max", 0, None, replicas=0),
    )
    names = [f.model for f in worst_served(models, 9)]
    assert names == ["none-of-more", "none", "none-of-max", "short", "exact", "fine", "max"]
    assert worst_served((), 6) == ()
    assert [f.model for f in worst_served((gets("b", 9), gets("a", 9)), 2)] == ["a", "b"]
    assert [f.model for f in worst_served(models, 1)] == ["none-of-more"]


def test_full_is_what_is_used_up_most_and_no_device_is_both() -> None:
    fills = [fill("a", 0.1, 1.0), fill("b", 0.9, 0.2), fill("c", 0.2), fill("d", 0.5, 0.1)]
    full, empty = fullest_and_emptiest(fills, 2)
    assert [f.device_id for f in full] == ["a", "b"]
    assert [f.device_id for f in empty] == ["c", "d"], "the emptiest first"
    assert fullest_and_emptiest(fills[:1], 2) == ((fills[0],), ())
    assert fullest_and_emptiest([], 2) == ((), ())


def test_devices_that_hold_the_same_are_alike() -> None:
    same = [fill(f"s{n}", 0.5, of="a") for n in range(3)]
    other = [fill("o1", 0.5, of="b"), fill("o2", 0.5, of="b"), fill("lone", 0.5, of="c")]
    assert [[f.device_id for f in group] for group in page.alike([*other, *same])] == [
        ["s0", "s1", "s2"],
        ["o1", "o2"],
    ]
    h100 = dataclasses.replace(same[0], hardware="h100-80gb")
    assert page.alike([h100, same[1]]) == ()


def test_kinds_count_devices_and_replicas() -> None:
    fills = [fill("a", 0.1), fill("b", 0.4), fill("c", 0.7)]
    mig = dataclasses.replace(fill("d", 0.3), mode=SharingMode.MIG)
    first, second = page.kinds_of([mig, *fills])
    assert (first.devices, first.replicas, first.mode) == (3, 3, SharingMode.MPS)
    assert (first.least, first.median, first.most) == (0.1, 0.4, 0.7)
    assert (second.devices, second.mode) == (1, SharingMode.MIG)
    assert page.kinds_of([]) == ()


def test_a_plan_says_how_full_its_devices_are() -> None:
    (one,) = page.fills_of(made(want("a", point("a", 5, 40, sm=30), rate=9), devices=2))
    assert (one.replicas, one.content) == (2, (("a", "mps-30", 8), ("a", "mps-30", 8)))
    assert one.compute_share == pytest.approx(0.6)
    assert 0.9 < one.memory_share <= 1
    cores = solve(PlanRequest((cpu(4),), (want("a", on_cores("a", 5, 1), rate=4),)))
    assert isinstance(cores, Plan)
    (of_cpu,) = page.fills_of(cores)
    assert of_cpu.compute_share == 0.25


def test_a_plan_is_large_by_its_models_or_its_devices() -> None:
    plan = made(want("a", point("a", 5, 4, sm=10), rate=4))
    (forecast,), (placed,) = plan.forecasts, plan.placements
    assert not is_large(plan)
    assert not is_large(dataclasses.replace(plan, forecasts=(forecast,) * page.MANY_MODELS))
    assert is_large(dataclasses.replace(plan, forecasts=(forecast,) * (page.MANY_MODELS + 1)))
    spread = tuple(
        dataclasses.replace(placed, device_id=f"g{n}") for n in range(page.MANY_DEVICES + 1)
    )
    assert not is_large(dataclasses.replace(plan, placements=spread[1:]))
    assert is_large(dataclasses.replace(plan, placements=spread))


def test_what_is_unusual_comes_first_and_the_others_keep_their_order() -> None:
    assert first_of("abcde", [False, True, False, True, False], 4) == ("b", "d", "a", "c")
    assert first_of("ab", [True, True], 1) == ("a",)
    assert first_of("", [], 3) == ()


@given(st.lists(st.tuples(st.floats(0, 1), st.none() | st.floats(0, 1)), max_size=300))
def test_of_any_number_of_devices_the_ends_are_told(
    shares: list[tuple[float, float | None]],
) -> None:
    fills = [fill(str(n), memory, compute) for n, (memory, compute) in enumerate(shares)]
    full, empty = fullest_and_emptiest(fills, 3)
    assert len(full) == min(3, len(fills))
    assert len(empty) == min(3, max(0, len(fills) - 3))
    assert not {f.device_id for f in full} & {f.device_id for f in empty}
    rest = [f.share for f in fills if f not in (*full, *empty)]
    assert all(f.share >= share for f in full for share in rest)
    assert all(f.share <= share for f in empty for share in rest)
    assert sum(kind.devices for kind in page.kinds_of(fills)) == len(fills)
