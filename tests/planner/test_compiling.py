"""The search is compiled only if needed, says so, and is not needed where greedy packers prove."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from partitiond.core.plan.answers import PlanProgress
from partitiond.core.plan.record import Objective
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.progress.watch import CompilingStopped, SolveMonitor
from tests.planner.build import gpu, point, want

EXAMPLE = Path(__file__).parents[2] / "examples" / "twelve-models.toml"
TWELVE = f"""
import json, sys
from pathlib import Path
from partitiond.fleet.file import load_fleet
from partitiond.fleet.offline import plan_fleet
plan = plan_fleet(load_fleet(Path({str(EXAMPLE)!r})))
proof = plan.certificate
print(json.dumps([proof.value, proof.bound, proof.status.value, "numba" in sys.modules]))
"""
STOPPED = """
import json
from bench.planner.instances import request
from partitiond.planner.api import solve
from partitiond.planner.kernels.counting import compiled_functions
counts = [0]
asked = lambda: counts[-1] >= 3
with compiled_functions(lambda count: counts.append(count)):
    plan = solve(request("slack", 20, 8, 1, 2.0), stop=asked)
print(json.dumps([counts[-1], plan.certificate.value]))
"""
HARD = """
import json
from bench.planner.instances import request
from partitiond.planner.api import solve
from partitiond.planner.kernels.counting import compiled_functions
counts, shares, clock = [0], [], []
def tell(progress):
    if progress.compiled is not None:
        shares.append(progress.compiled)
        clock.append(progress.seconds)
with compiled_functions(lambda count: counts.append(count)):
    plan = solve(request("slack", 20, 8, 1, 2.0), tell)
print(json.dumps([counts[-1], shares, plan.certificate.value, len(set(clock))]))
"""
UNCOMPILED = """
import dataclasses, json, sys
from partitiond.planner import warm
if {compiled}:
    warm._DONE_HERE.set()
from bench.planner.instances import request
from partitiond.core.plan.record import Objective
from partitiond.planner.api import solve
asked = request("slack", 20, 8, 1, 5.0)
asked = dataclasses.replace(asked, may_search=False, move_price=0.25, deterministic=True)
first = solve(asked)
lost = first.placements[0].device_id
left = tuple(d for d in asked.devices if d.id != lost)
running = tuple(p for p in first.placements if p.device_id != lost)
plans = [first] + [
    solve(dataclasses.replace(asked, devices=left, running=running, objective=objective))
    for objective in (Objective.MIN_DEVICES, Objective.MAX_GOODPUT)
]
served = set((p.replica_id, p.device_id) for p in running)
print(json.dumps([
    "numba" in sys.modules,
    [plan.certificate.value for plan in plans],
    [len(set(p.model for p in plan.placements)) for plan in plans],
    len(served - set((p.replica_id, p.device_id) for p in plans[1].placements)),
]))
"""
AHEAD = """
import asyncio, os
from pathlib import Path
from partitiond.planner.worker import compile_ahead
children = Path(f"/proc/self/task/{os.getpid()}/children")
async def main():
    task = asyncio.create_task(compile_ahead(0.0))
    while not children.read_text():
        await asyncio.sleep(0.01)
    print(Path(f"/proc/{children.read_text().split()[0]}/cmdline").read_text().split("\\0")[1:-1])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    print(children.read_text().split())
asyncio.run(main())
"""


def run(code: str, cache: Path) -> str:
    """Runs code in a fresh process that keeps compiled kernels in that folder."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_twelve_models_are_planned_without_loading_the_compiler(tmp_path: Path) -> None:
    value, bound, status, loaded = json.loads(run(TWELVE, tmp_path))
    assert (value, bound, status) == (6, 6, "optimal")
    assert not loaded
    assert list(tmp_path.iterdir()) == []


@pytest.mark.full
@pytest.mark.parametrize("compiled", [False, True])
def test_a_plan_that_may_not_wait_is_made_without_the_search(
    tmp_path: Path, compiled: bool
) -> None:
    code = UNCOMPILED.format(compiled=compiled)
    loaded, (devices, *_), models, moved = json.loads(run(code, tmp_path))
    assert not loaded
    assert list(tmp_path.iterdir()) == []
    assert 6 <= devices <= 8
    assert models == [20, 20, 20]
    assert moved == 0


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
    assert told[-1].compiled == 0.5
    assert told[-1].seconds == before
    assert watch.compile_seconds >= 0.05
    assert watch.deadline - deadline == pytest.approx(watch.compile_seconds)
    watch.found(1.0, "a plan")
    assert watch.now().compiled is None
    assert watch.objective is Objective.MIN_DEVICES


@pytest.mark.full
def test_who_asks_to_end_does_not_wait_for_the_compiler(tmp_path: Path) -> None:
    compiled, devices = json.loads(run(STOPPED, tmp_path))
    assert 3 <= compiled <= 5  # of hundreds
    assert devices >= 6
    watch = SolveMonitor(build_instance(PlanRequest((gpu("g0"),), ())), None, lambda: True)
    with pytest.raises(CompilingStopped), watch.compiling() as tell:
        tell(0.5)


@pytest.mark.full
def test_a_daemon_that_ends_takes_the_process_that_compiles_with_it(tmp_path: Path) -> None:
    command, children = run(AHEAD, tmp_path).splitlines()
    assert command == "['-m', 'partitiond.planner']"
    assert children == "[]"


@pytest.mark.full
@pytest.mark.timeout(2400)  # it compiles for a minute and a half of a core, at low priority
def test_a_hard_question_compiles_once_says_so_and_counts_it_apart(tmp_path: Path) -> None:
    compiled, shares, value, times = json.loads(run(HARD, tmp_path))
    assert compiled > 100
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert len(shares) > compiled // 2
    assert 6 <= value <= 8
    assert times <= 3, "hundreds of functions are compiled, and the clock stands still"
    # What is on disk is only loaded.
    assert len(list(tmp_path.glob("*/complete"))) == 1
    again, shares, *_ = json.loads(run(HARD, tmp_path))
    assert (again, shares) == (0, [])
