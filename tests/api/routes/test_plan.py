"""POST /plan takes all questions, and answers at once or by events during the solve."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from partitiond.api.plan_stream import plan_events
from partitiond.client.connection import events
from partitiond.core.errors import ConflictError
from partitiond.core.plan.answers import PlanProgress, PlanQuestion
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from tests.controller.host import Host
from tests.machine import until

STREAM = {"Accept": "text/event-stream"}


class Solver:
    """Solves when told to, and tells of it once before.

    Attributes:
        goes_on: closed keeps it solving.
        ended_early: whether it was ended instead.
    """

    def __init__(self) -> None:
        self.asked: list[PlanRequest] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.ended_early = False
        self.error: Exception | None = None

    async def __call__(self, request: PlanRequest, on_progress: Any = None) -> Plan | Infeasible:
        self.asked.append(request)
        if on_progress is not None:
            on_progress(PlanProgress("the plan", objective=request.objective, value=2.0, bound=1.0))
        try:
            await self.goes_on.wait()
        except asyncio.CancelledError:
            self.ended_early = True
            raise
        if self.error is not None:
            raise self.error
        return solve(request)


@pytest.fixture
async def solver(host: Host) -> Solver:
    """What makes the plans of one model that was measured."""
    host.measured("a")
    await host.register("a", auto=False)
    host.solve = Solver()
    return host.solve


def read(text: str) -> list[tuple[str, Any]]:
    return [(name, json.loads(data)) for name, data in events(iter(text.splitlines()))]


async def test_what_cannot_be_read_is_refused_before_anything_is_solved(
    http: httpx.AsyncClient, solver: Solver
) -> None:
    for body, says in (
        ({"what_if": ["fly away"]}, "not understood"),
        ({"what_if": ["x"] * 33}, "at most 32"),
    ):
        for headers in ({}, STREAM):
            answer = await http.post("/plan", json=body, headers=headers)
            assert answer.status_code == 422
            assert says in answer.json()["detail"]
            assert answer.json()["hint"]
    assert solver.asked == []


async def test_a_stream_tells_progress_and_ends_with_the_same_answer_or_what_went_wrong(
    http: httpx.AsyncClient, solver: Solver
) -> None:
    body = {"objective": "max-goodput"}
    streamed = await http.post("/plan", json=body, headers=STREAM)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    (first, progress), (last, answer) = read(streamed.text)
    assert (first, last) == ("progress", "plan")
    assert (progress["title"], progress["value"], progress["bound"]) == ("the plan", 2.0, 1.0)
    assert answer["plan"]["certificate"]["objective"] == "max-goodput"
    once = (await http.post("/plan", json=body)).json()
    assert (answer.keys(), answer["plan"]["id"]) == (once.keys(), once["plan"]["id"])
    solver.error = ConflictError("too much changed.", hint="Try again.")
    name, problem = read((await http.post("/plan", headers=STREAM)).text)[-1]
    assert (name, problem["instance"]) == ("problem", "/plan")
    assert (problem["status"], problem["hint"]) == (409, "Try again.")


async def test_a_closed_stream_ends_the_solve(host: Host, solver: Solver) -> None:
    solver.goes_on.clear()
    stream = plan_events(lambda take: host.service.plans.preview(PlanQuestion(), take), "/plan")
    assert b"progress" in await anext(stream)
    await stream.aclose()
    assert solver.ended_early


async def test_silence_is_broken_by_heartbeats_and_a_slow_reader_gets_the_newest(
    host: Host, solver: Solver
) -> None:
    solver.goes_on.clear()
    told: list[Any] = []

    async def start(take: Any) -> Any:
        told.append(take)
        return await host.service.plans.preview(PlanQuestion(), take)

    stream = plan_events(start, "/plan", heartbeat_seconds=0.001)
    first = [await anext(stream)]
    while not (any(b"progress" in line for line in first) and first[-1].startswith(b":")):
        first.append(await anext(stream))
    for value in (5.0, 4.0, 3.0):
        told[0](PlanProgress("the plan", value=value))
    line = await anext(stream)
    while line.startswith(b":"):
        line = await anext(stream)
    assert b'"value":3.0' in line
    solver.goes_on.set()
    rest = [line async for line in stream if not line.startswith(b":")]
    assert rest[-1].startswith(b"event: plan")


async def test_how_far_a_plan_is_comes_in_one_answer_or_as_events_until_it_converges_no_more(
    http: httpx.AsyncClient, started: Host
) -> None:
    started.runner._ready_at_once = False
    started.measured("a")
    await started.register("a", auto=False, max_replicas=1)
    plan_id = (await started.service.plans.apply()).plan.id
    await until(lambda: bool(started.runner.engines))
    for path in ("/plan/convergence", f"/plan/convergence?plan_id={plan_id}"):
        now = (await http.get(path)).json()
        told = now["plan_id"], now["state"], now["serving"], now["wanted"]
        assert told == (plan_id, "converging", 0, 1)
    for headers in ({}, STREAM):
        unknown = await http.get("/plan/convergence?plan_id=plan-9", headers=headers)
        assert unknown.status_code == 404
    asked = asyncio.create_task(http.get("/plan/convergence", headers=STREAM))
    await until(lambda: started.service.convergence._watchers.count == 1)
    started.runner.engines["a-1"].ready.set()
    *before, (name, last) = read((await asyncio.wait_for(asked, 60)).text)
    assert (name, last["state"], last["serving"]) == ("state", "converged", 1)
    assert {now["state"] for _, now in before} == {"converging"}
