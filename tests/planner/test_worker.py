"""A solve runs in a process of its own."""

import asyncio
import contextlib
import dataclasses
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from bench.planner.shipped import request
from partitiond.core.plan.answers import PlanProgress
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.planner import worker
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.worker import PlannerFailedError, solve_in_process
from tests.machine import wait_for
from tests.planner.build import cpu, on_cores, point, want

PATIENT = 600.0
"""Seconds for what comes in two on a quiet machine: a process that loads the solver."""
REQUEST = PlanRequest((cpu(2),), (want("a", on_cores("a", 3, 1)),))


def many(count: int, seconds: float) -> PlanRequest:
    """A question that takes so long where there is time."""
    return request("slack", count, count, 1, seconds)


async def test_the_answer_is_that_of_solve_also_where_there_is_no_plan() -> None:
    here, there = solve(REQUEST), await solve_in_process(REQUEST, PATIENT)
    assert isinstance(here, Plan)
    assert isinstance(there, Plan)
    assert there.placements == here.placements
    too_large = dataclasses.replace(REQUEST, models=(want("a", point("a", 1, 900)),))
    assert isinstance(await solve_in_process(too_large, PATIENT), Infeasible)


async def test_a_slow_solve_is_ended_at_its_limit_and_leaves_no_process() -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(PlannerFailedError, match=r"within 0\.2 s"):
        await solve_in_process(many(150, PATIENT), 0.2)
    assert set(multiprocessing.active_children()) == before


@pytest.mark.parametrize("said", [None, b"", b"\0\0\1\0"], ids=["unasked", "between", "within"])
async def test_a_solver_that_halts_stops_neither_the_loop_nor_its_limit(
    said: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It halts before it has read its request, between two messages, or within one."""
    before = set(multiprocessing.active_children())
    monkeypatch.setattr(worker, "_work", functools.partial(halts, said))
    large = dataclasses.replace(REQUEST, plan_id="x" * 2**22)  # more than a pipe holds
    with pytest.raises(PlannerFailedError, match="within 2 s"):
        await solve_in_process(large, 2.0)
    assert set(multiprocessing.active_children()) == before


def halts(said: bytes | None, connection: Connection, *_: object) -> None:
    """A solver that is stopped after it has told progress and begun another message."""
    if said is not None:
        connection.recv()
        connection.send(PlanProgress("", 1, 1))
        os.write(connection.fileno(), said)
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize("passes", [1, 2, 20])
async def test_a_solve_that_is_given_up_while_it_starts_leaves_no_process(
    passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was being started meanwhile is killed by the thread that starts it, which alone closes
    its pipe.
    """
    closed: list[Connection] = []
    close = Connection.close

    def closes(connection: Connection) -> None:
        closed.append(connection)
        close(connection)

    monkeypatch.setattr(Connection, "close", closes)
    monkeypatch.setattr(worker, "_work", functools.partial(halts, None))  # ends only if killed
    before = set(multiprocessing.active_children())
    task = asyncio.create_task(solve_in_process(REQUEST, PATIENT))
    for _ in range(passes):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    wait_for("its end", lambda: set(multiprocessing.active_children()) <= before, seconds=PATIENT)
    wait_for("its pipe", lambda: len(closed) >= 2, seconds=PATIENT)
    assert len({id(connection) for connection in closed}) == len(closed)


async def test_a_working_folder_that_was_removed_stops_no_solve(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        tmp_path.rmdir()  # noqa: ASYNC240 - at once
        assert isinstance(await solve_in_process(REQUEST, PATIENT), Plan)
    # One that is there is kept: paths that a user gave may be below it.
    with contextlib.chdir(Path(__file__).parent):
        assert isinstance(await solve_in_process(REQUEST, PATIENT), Plan)
        assert Path.cwd() == Path(__file__).parent


@pytest.mark.full
async def test_progress_comes_from_the_other_process() -> None:
    told = list[PlanProgress]()
    plan = await solve_in_process(many(20, 0.5), PATIENT, on_progress=told.append)
    assert isinstance(plan, Plan)
    assert plan.placements
    assert told


@pytest.mark.full
async def test_a_solve_beyond_its_memory_says_so_and_leaves_no_process() -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(PlannerFailedError, match="without an answer") as caught:
        await solve_in_process(many(400, 30), PATIENT, memory_limit_bytes=60 * 2**20)
    assert "60 MiB" in caught.value.hint
    assert set(multiprocessing.active_children()) == before


@pytest.mark.full
@pytest.mark.parametrize("harm", ["it ended", "it hangs", "its socket is gone"])
async def test_a_solve_outlives_what_solves_are_forked_from(
    harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(await solve_in_process(REQUEST, PATIENT), Plan)
    (former,) = fork_servers()
    match harm:
        case "it ended":
            former.kill()
            zombie = psutil.STATUS_ZOMBIE
            wait_for("its end", lambda: former.status() == zombie, seconds=PATIENT)
        case "it hangs":  # a start that waits is cancelled, and the loop goes on meanwhile
            former.suspend()
            monkeypatch.setattr(worker, "HANG_SECONDS", 0.0)
            with pytest.raises(PlannerFailedError, match=r"within 0\.5 s"):
                await solve_in_process(REQUEST, 0.5)
        case _:
            address = forkserver._forkserver._forkserver_address  # type: ignore[attr-defined]
            os.unlink(address)  # noqa: PTH108 - as a cleaner of temporary files
    for _ in range(2):
        assert isinstance(await solve_in_process(REQUEST, PATIENT), Plan)
    assert fork_servers() != [former]


def fork_servers() -> list[psutil.Process]:
    """The process that has loaded the solver, and lives."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "forkserver" in " ".join(child.cmdline()):
                found.append(child)
    return found


@pytest.mark.full
@pytest.mark.parametrize(
    "more", ["", "import pandas; pandas.DataFrame", "from pandas import DataFrame"]
)
def test_the_solver_is_loaded_without_pandas_unless_it_wants_more_of_it(more: str) -> None:
    """Another version of `cp_model` is one that asks for more as it is imported."""
    code = (
        "import importlib.util, sys\n"
        "class Another:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'ortools.sat.python.cp_model':\n"
        f"            {more or 'pass'}\n"
        "sys.meta_path.insert(0, Another())\n"
        "import partitiond.planner.api\n"
        "print('pandas' in sys.modules)\n"
        "import pandas; print(len(pandas.Series([1])))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(bool(more)), "1"]
