"""POST /plan takes all questions, and answers at once or by events during the solve."""

import asyncio
import dataclasses
import json
from typing import Any

import httpx

from partitiond.api.plan_stream import plan_events
from partitiond.client.connection import events
from partitiond.core.errors import ConflictError
from partitiond.core.plan.answers import PlanProgress, PlanQuestion
from partitiond.core.replica.convergence import Convergence, PlanState
from tests.api.fake_service import FakeService
from tests.machine import until

STREAM = {"Accept": "text/event-stream"}


def read(text: str) -> list[tuple[str, Any]]:
    return [(name, json.loads(data)) for name, data in events(iter(text.splitlines()))]


async def test_what_cannot_be_read_is_refused_before_anything_is_solved(
    http: httpx.AsyncClient, service: FakeService
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
    assert service.plans.questions == []


async def test_a_stream_tells_progress_and_ends_with_the_same_answer_or_what_went_wrong(
    http: httpx.AsyncClient, service: FakeService
) -> None:
    streamed = await http.post("/plan", json={"objective": "min-price"}, headers=STREAM)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    (first, progress), (last, answer) = read(streamed.text)
    assert (first, last) == ("progress", "plan")
    assert (progress["title"], progress["value"], progress["bound"]) == ("the plan", 2.0, 1.0)
    assert answer["plan"]["certificate"]["objective"] == "min-price"
    once = (await http.post("/plan", json={"objective": "min-price"})).json()
    assert answer.keys() == once.keys()
    service.plans.error = ConflictError("too much changed.", hint="Try again.")
    name, problem = read((await http.post("/plan", headers=STREAM)).text)[-1]
    assert (name, problem["instance"]) == ("problem", "/plan")
    assert (problem["status"], problem["hint"]) == (409, "Try again.")


async def test_a_closed_stream_ends_the_solve(service: FakeService) -> None:
    service.plans.solving.clear()
    stream = plan_events(lambda take: service.plans.preview(PlanQuestion(), take), "/plan")
    assert b"progress" in await anext(stream)
    await stream.aclose()
    async with asyncio.timeout(60):
        await service.plans.ended_early.wait()


async def test_silence_is_broken_by_heartbeats_and_a_slow_reader_gets_the_newest(
    service: FakeService,
) -> None:
    service.plans.solving.clear()
    told: list[Any] = []

    async def start(take: Any) -> Any:
        told.append(take)
        return await service.plans.preview(PlanQuestion(), take)

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
    service.plans.solving.set()
    rest = [line async for line in stream if not line.startswith(b":")]
    assert rest[-1].startswith(b"event: plan")


CONVERGING = Convergence("plan-1", PlanState.CONVERGING, 2, 1, 0, 0.5, "a-2 starts")


async def test_how_far_a_plan_is_comes_in_one_answer(
    http: httpx.AsyncClient, service: FakeService
) -> None:
    told = service.convergence
    told.tell(CONVERGING)
    answer = (await http.get("/plan/convergence")).json()
    assert (answer["state"], answer["serving"], answer["why"]) == ("converging", 1, "a-2 starts")
    assert (await http.get("/plan/convergence?plan_id=plan-1")).json() == answer
    for headers in ({}, STREAM):
        unknown = await http.get("/plan/convergence?plan_id=plan-9", headers=headers)
        assert unknown.status_code == 404


async def test_or_as_events_until_it_is_converging_no_more(
    http: httpx.AsyncClient, service: FakeService
) -> None:
    told = service.convergence
    told.tell(CONVERGING)
    asked = asyncio.create_task(http.get("/plan/convergence", headers=STREAM))
    await until(lambda: told.watchers.count == 1)
    told.tell(dataclasses.replace(CONVERGING, state=PlanState.CONVERGED, serving=2))
    answer = await asyncio.wait_for(asked, 60)
    found = read(answer.text)
    assert [(name, data["state"]) for name, data in found][-1] == ("state", "converged")
    assert {name for name, _ in found} == {"state"}
