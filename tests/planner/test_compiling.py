"""The search is compiled only if needed, says so, and is not needed where greedy packers prove."""

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import pytest

from bench.planner.instances import request
from partitiond.core.plan.answers import PlanProgress
from partitiond.core.plan.record import Plan
from partitiond.planner import api, kernel_cache, kernels, warm, worker
from partitiond.planner.api import solve
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.progress.watch import CompilingStopped, SolveMonitor
from partitiond.planner.search import portfolio
from tests.planner.build import gpu, point, want

EXAMPLE = Path(__file__).parents[2] / "examples" / "twelve-models.toml"
WITHOUT = f"""
import dataclasses, json, sys
from pathlib import Path
from typing import Any
from bench.planner.instances import request
from partitiond.fleet.file import load_fleet
from partitiond.fleet.offline import plan_fleet
from partitiond.planner import warm
from partitiond.planner.api import solve
proof = plan_fleet(load_fleet(Path({str(EXAMPLE)!r}))).certificate
asked = request("slack", 20, 8, 1, 5.0)
asked = dataclasses.replace(asked, may_search=False, deterministic=True)
plans = [solve(asked)]
warm._DONE_HERE.set()
plans.append(solve(asked))
print(json.dumps([
    [proof.value, proof.bound, proof.status.value],
    [plan.certificate.value for plan in plans],
    [len(set(p.model for p in plan.placements)) for plan in plans],
    "numba" in sys.modules,
]))
"""
HARD = dataclasses.replace(request("slack", 20, 8, 1, 2.0), deterministic=True)
"""A question that greedy packers do not prove."""


def run(code: str, cache: Path) -> str:
    """Runs code in a fresh process that keeps compiled kernels in that folder."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_plans_that_need_no_search_load_no_compiler(tmp_path: Path) -> None:
    """What greedy packers prove, and what may not wait, whether the search is compiled or not."""
    proof, devices, models, loaded = json.loads(run(WITHOUT, tmp_path))
    assert proof == [6, 6, "optimal"]
    assert all(6 <= used <= 8 for used in devices)
    assert models == [20, 20]
    assert not loaded
    assert list(tmp_path.iterdir()) == []


def test_the_clock_of_a_solve_stands_still_while_the_search_is_compiled() -> None:
    told: list[PlanProgress] = []
    models = (want("a", point("a", 5, 30, sm=20), rate=5),)
    watch = SolveMonitor(build_instance(PlanRequest((gpu("g0"),), models)), told.append)
    deadline = watch.deadline
    with watch.compiling() as tell:
        before = watch.now().seconds
        threading.Event().wait(0.05)
        tell(0.5)
        assert watch.now().seconds == before
    assert (told[-1].compiled, told[-1].seconds) == (0.5, before)
    assert watch.compile_seconds >= 0.05
    assert watch.deadline - deadline == pytest.approx(watch.compile_seconds)
    watch.found(1.0, "a plan")
    assert watch.now().compiled is None


def tiny(_request: PlanRequest) -> None:
    """In place of a solve: numba compiles a function that it has never seen."""

    def more(x: int) -> int:
        return x + 1

    compiled: Any = numba.njit(more)
    assert compiled(1) == 2


def test_kernels_are_compiled_once_for_a_machine_unless_the_caller_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_cache, "folder", lambda: tmp_path / "kernels")
    monkeypatch.setattr(warm, "_DONE_HERE", threading.Event())
    asked, shares = list[PlanRequest](), list[float]()

    def compiles(question: PlanRequest) -> None:
        asked.append(question)
        tiny(question)

    def stop(share: float) -> None:
        if share:
            raise CompilingStopped

    with pytest.raises(CompilingStopped):
        warm.warm(compiles, stop)
    assert len(asked) == 1, "the rest is not begun"
    assert not warm.is_warm()
    warm.warm(compiles, shares.append)
    assert shares[0] == 0.0
    assert shares == sorted(shares)
    assert len({*shares}) >= len(asked) - 1 > 3, "each function counts"
    monkeypatch.setattr(warm, "_DONE_HERE", threading.Event())  # as in another process
    assert warm.is_warm()
    warm.warm(lambda _asked: pytest.fail("it is on disk"))


@pytest.mark.parametrize("stopped", [False, True])
def test_a_hard_question_has_the_search_compiled_and_ends_without_it_where_it_is_told_to(
    stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, told = list[float](), list[PlanProgress]()

    def compiling(_solve: object, tell: Callable[[float], object]) -> None:
        for share in (0.25, 0.5):
            compiled.append(share)
            tell(share)

    monkeypatch.setattr(api, "warm", compiling)
    monkeypatch.setattr(portfolio, "is_warm", lambda: len(compiled) == 2)
    plan = solve(HARD, told.append, stop=lambda: stopped and bool(compiled))
    assert isinstance(plan, Plan)
    assert compiled == ([0.25] if stopped else [0.25, 0.5])
    assert 6 <= plan.certificate.value <= 8
    shares = [p.compiled for p in told if p.compiled is not None]
    assert shares == compiled[: len(shares)]


async def test_a_daemon_that_ends_takes_the_process_that_compiles_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert worker.COMPILER[1:] == ("-m", "partitiond.planner")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code = f"import signal; f = open({str(pipe)!r}, 'wb', 0); f.write(b'here\\n'); signal.pause()"
    monkeypatch.setattr(worker, "COMPILER", (sys.executable, "-c", code))
    monkeypatch.setattr(worker, "is_warm", lambda: False)
    task = asyncio.create_task(worker.compile_ahead(0.0))
    with await asyncio.to_thread(pipe.open) as there:
        assert await asyncio.to_thread(there.readline) == "here\n"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert there.read() == "", "nobody holds its other end any more"


def test_without_a_place_for_the_cache_kernels_are_compiled_all_the_same() -> None:
    # Code without a file has no folder beside it, nor a name in another one.
    for make in (kernels.kernel, kernels.plain):
        names: dict[str, object] = {}
        exec(compile("def triple(x):\n    return 3 * x\n", "<nowhere>", "exec"), names)
        triple = make(names["triple"])  # type: ignore[type-var]
        assert triple(14) == 42  # type: ignore[operator]


def test_a_cache_folder_that_cannot_be_made_stops_nothing(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    code = "from partitiond.planner.kernels import loads; print(loads.__name__)"
    assert run(code, in_the_way / "cache").strip().endswith("loads")
