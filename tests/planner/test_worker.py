"""Solving in a process of its own."""

import asyncio
import dataclasses
import multiprocessing
import time

import pytest

from partitiond.core.plan import Infeasible, Objective, Plan
from partitiond.planner.api import solve
from partitiond.planner.instance import PlanRequest
from partitiond.planner.progress import Progress
from partitiond.planner.worker import PlannerFailedError, solve_in_process
from tests.planner.build import cpu, gpu, on_cores, point, want

REQUEST = PlanRequest((cpu(2),), (want("a", on_cores("a", 3, 1)),))


async def test_the_answer_is_that_of_solve() -> None:
    here = solve(REQUEST)
    there = await solve_in_process(REQUEST, 60)
    assert isinstance(here, Plan)
    assert isinstance(there, Plan)
    assert there.placements == here.placements


async def test_cannot_is_a_value_across_processes() -> None:
    request = dataclasses.replace(REQUEST, models=(want("a", point("a", 1, 900)),))
    assert isinstance(await solve_in_process(request, 60), Infeasible)


async def test_a_slow_solve_is_ended_at_its_limit_and_leaves_no_process() -> None:
    models = tuple(
        want(f"m{i}", *(point(f"m{i}", 5 + s, 7 + 5 * s, sm=10 + 7 * s) for s in range(4)), rate=40)
        for i in range(150)
    )
    request = PlanRequest(tuple(gpu(f"g{i}") for i in range(150)), models)
    before = set(multiprocessing.active_children())
    began = time.monotonic()
    with pytest.raises(PlannerFailedError, match=r"within 0\.2 s"):
        await solve_in_process(request, 0.2)
    assert time.monotonic() - began < 20
    assert set(multiprocessing.active_children()) == before


async def test_a_cancelled_solve_leaves_no_process() -> None:
    before = set(multiprocessing.active_children())
    task = asyncio.create_task(solve_in_process(REQUEST, 60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(multiprocessing.active_children()) == before


def many(count: int, seconds: float) -> PlanRequest:
    models = tuple(
        want(f"m{i}", *(point(f"m{i}", 5 + s, 7 + 5 * s, sm=10 + 7 * s) for s in range(4)), rate=40)
        for i in range(count)
    )
    devices = tuple(gpu(f"g{i}") for i in range(count))
    return PlanRequest(devices, models, time_limit_seconds=seconds)


async def test_progress_comes_from_the_other_process() -> None:
    told: list[Progress] = []
    plan = await solve_in_process(many(60, 6), 60, on_progress=told.append)
    assert isinstance(plan, Plan)
    objective = plan.certificate.objective  # another where time is up before demand fits
    sign = -1 if objective is Objective.MAX_GOODPUT else 1
    costs = [sign * p.value for p in told if p.objective is objective and p.value is not None]
    assert costs, "nothing was told of what was solved"
    assert costs == sorted(costs, reverse=True), "a later plan is never worse"
    assert costs[-1] >= sign * plan.certificate.value


async def test_asked_to_stop_it_answers_with_the_best_so_far() -> None:
    stop = asyncio.Event()
    stop.set()
    began = time.monotonic()
    plan = await solve_in_process(many(60, 300), 300, stop=stop)
    assert isinstance(plan, Plan)
    assert plan.placements
    assert time.monotonic() - began < 60


async def test_a_solve_beyond_its_memory_says_so_and_leaves_no_process() -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(PlannerFailedError, match="without an answer") as caught:
        await solve_in_process(many(400, 30), 60, memory_limit_bytes=60 * 2**20)
    assert "60 MiB" in caught.value.hint
    assert set(multiprocessing.active_children()) == before
