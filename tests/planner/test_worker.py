"""A solve runs in a process of its own."""

import asyncio
import contextlib
import dataclasses
import multiprocessing
import os
from multiprocessing import forkserver

import psutil
import pytest

from partitiond.core.plan.answers import PlanProgress
from partitiond.core.plan.record import Infeasible, Objective, Plan
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.worker import HANG_SECONDS, PlannerFailedError, solve_in_process
from tests.e2e.harness import wait_for
from tests.planner.build import cpu, gpu, on_cores, point, want

PATIENT = 600.0
"""Seconds for what comes in two on a quiet machine: a process that loads the solver."""
REQUEST = PlanRequest((cpu(2),), (want("a", on_cores("a", 3, 1)),))


async def test_the_answer_is_that_of_solve() -> None:
    here = solve(REQUEST)
    there = await solve_in_process(REQUEST, PATIENT)
    assert isinstance(here, Plan)
    assert isinstance(there, Plan)
    assert there.placements == here.placements


async def test_cannot_is_a_value_across_processes() -> None:
    request = dataclasses.replace(REQUEST, models=(want("a", point("a", 1, 900)),))
    assert isinstance(await solve_in_process(request, PATIENT), Infeasible)


async def test_a_slow_solve_is_ended_at_its_limit_and_leaves_no_process() -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(PlannerFailedError, match=r"within 0\.2 s"):
        await solve_in_process(many(150, PATIENT), 0.2)
    assert set(multiprocessing.active_children()) == before


async def test_a_cancelled_solve_leaves_no_process() -> None:
    before = set(multiprocessing.active_children())
    task = asyncio.create_task(solve_in_process(REQUEST, PATIENT))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # What was being started meanwhile is killed by the thread that starts it.
    wait_for("its end", lambda: set(multiprocessing.active_children()) == before, seconds=PATIENT)


def many(count: int, seconds: float) -> PlanRequest:
    models = tuple(
        want(f"m{i}", *(point(f"m{i}", 5 + s, 7 + 5 * s, sm=10 + 7 * s) for s in range(4)), rate=40)
        for i in range(count)
    )
    devices = tuple(gpu(f"g{i}") for i in range(count))
    return PlanRequest(devices, models, time_limit_seconds=seconds)


async def test_progress_comes_from_the_other_process() -> None:
    told: list[PlanProgress] = []
    plan = await solve_in_process(many(20, 2), PATIENT, on_progress=told.append)
    assert isinstance(plan, Plan)
    objective = plan.certificate.objective  # another where time is up before demand fits
    sign = -1 if objective is Objective.MAX_GOODPUT else 1
    costs = [sign * p.value for p in told if p.objective is objective and p.value is not None]
    assert costs, "nothing was told of what was solved"
    assert costs == sorted(costs, reverse=True), "a later plan is never worse"
    # Told by whole units of rates, certified by the rates themselves.
    assert costs[-1] >= sign * plan.certificate.value - 1e-6


async def test_asked_to_stop_it_answers_with_the_best_so_far() -> None:
    stop = asyncio.Event()
    stop.set()
    # Not asked, it would search for longer than it is given.
    plan = await solve_in_process(many(60, 3600), PATIENT, stop=stop)
    assert isinstance(plan, Plan)
    assert plan.placements


@pytest.mark.full
async def test_a_solve_beyond_its_memory_says_so_and_leaves_no_process() -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(PlannerFailedError, match="without an answer") as caught:
        await solve_in_process(many(400, 30), PATIENT, memory_limit_bytes=60 * 2**20)
    assert "60 MiB" in caught.value.hint
    assert set(multiprocessing.active_children()) == before


@pytest.mark.full
async def test_a_solve_outlives_the_end_of_the_process_that_solves_are_forked_from() -> None:
    assert isinstance(await solve_in_process(REQUEST, PATIENT), Plan)
    (former,) = fork_servers()
    former.kill()
    wait_for("its end", lambda: former.status() == psutil.STATUS_ZOMBIE, seconds=PATIENT)
    assert isinstance(await solve_in_process(REQUEST, PATIENT), Plan)
    assert fork_servers() != [former]


@pytest.mark.full
async def test_a_process_that_hangs_stalls_neither_the_loop_nor_the_next_solve() -> None:
    assert isinstance(await solve_in_process(REQUEST, PATIENT), Plan)
    (hung,) = fork_servers()
    hung.suspend()
    passes = 0

    async def beat() -> None:
        nonlocal passes
        while True:
            await asyncio.sleep(0.01)
            passes += 1

    beating = asyncio.create_task(beat())
    limit = HANG_SECONDS + 1  # below that a start is not known to hang
    with pytest.raises(PlannerFailedError, match="within 6 s"):
        await solve_in_process(REQUEST, limit)
    beating.cancel()
    assert passes, "the loop stood still"
    assert isinstance(await solve_in_process(REQUEST, PATIENT), Plan)
    assert fork_servers() != [hung]


@pytest.mark.full
async def test_without_its_socket_a_solve_gets_a_process_of_its_own() -> None:
    assert isinstance(await solve_in_process(REQUEST, PATIENT), Plan)
    address = forkserver._forkserver._forkserver_address  # type: ignore[attr-defined]
    os.unlink(address)  # noqa: PTH108 - as a cleaner of temporary files
    assert isinstance(await solve_in_process(REQUEST, PATIENT), Plan)
    assert isinstance(await solve_in_process(REQUEST, PATIENT), Plan)


async def test_a_solve_that_is_given_up_while_it_starts_leaves_no_process() -> None:
    before = set(multiprocessing.active_children())
    for pause in (0, 0.001, 0.005, 0.02, 0.1):
        task = asyncio.create_task(solve_in_process(many(60, 60), PATIENT))
        await asyncio.sleep(pause)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    wait_for("their end", lambda: set(multiprocessing.active_children()) <= before, seconds=PATIENT)


def fork_servers() -> list[psutil.Process]:
    """The process that has loaded the solver, and lives."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "forkserver" in " ".join(child.cmdline()):
                found.append(child)
    return found
