"""The progress of a plan comes as events: state, changes and end; nothing is left behind."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncGenerator

from partitiond.api.streams import HEARTBEAT, changes
from partitiond.core.replica.convergence import Convergence, PlanState

CONVERGING = Convergence("plan-1", PlanState.CONVERGING, 2, 1, 0, 0.5, "a-2 starts")
LATER = dataclasses.replace(CONVERGING, why="line\nbreak")
CONVERGED = dataclasses.replace(CONVERGING, state=PlanState.CONVERGED, serving=2)


async def test_a_plan_is_told_from_now_to_its_end() -> None:
    async def watched() -> AsyncGenerator[Convergence, None]:
        for now in (CONVERGING, LATER, CONVERGED):
            yield now

    lines = [event.decode().strip().splitlines() async for event in changes(watched())]
    events = [dict(line.split(": ", 1) for line in event) for event in lines]
    plans = [json.loads(one["data"]) for one in events]
    assert [(one["event"], plan["state"]) for one, plan in zip(events, plans, strict=True)] == [
        ("state", "converging"),
        ("progress", "converging"),
        ("state", "converged"),
    ]
    assert plans[1]["why"] == "line\nbreak"


async def test_a_silent_plan_is_heard_by_heartbeats() -> None:
    goes_on, left = asyncio.Event(), asyncio.Event()

    async def watched() -> AsyncGenerator[Convergence, None]:
        try:
            yield CONVERGING
            await goes_on.wait()
            yield CONVERGED
        finally:
            left.set()

    events = changes(watched(), heartbeat_seconds=0.001)
    assert (await anext(events)).startswith(b"event: state\n")
    assert await anext(events) == HEARTBEAT
    assert await anext(events) == HEARTBEAT
    goes_on.set()
    async with asyncio.timeout(60):
        while (event := await anext(events)) == HEARTBEAT:
            pass
    assert b'"state":"converged"' in event
    await events.aclose()
    assert left.is_set()
