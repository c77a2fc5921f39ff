"""The progress of a plan comes as events: state, changes and end; nothing is left behind."""

import asyncio
import dataclasses
import json
from typing import Any

from partitiond.api.streams import HEARTBEAT, changes
from partitiond.core.replica.convergence import Convergence, PlanState
from tests.api.fake_views import FakeConvergence

CONVERGING = Convergence("plan-1", PlanState.CONVERGING, 2, 1, 0, 0.5, "a-2 starts")


async def test_a_plan_is_told_from_now_to_its_end() -> None:
    told = FakeConvergence()
    steps: list[dict[str, Any]] = [
        {},
        {"why": "line\nbreak"},
        {"state": PlanState.CONVERGED, "serving": 2},
    ]
    told.tell(CONVERGING)
    stream, events = changes(told.watch()), []
    for step in steps:
        told.tell(dataclasses.replace(CONVERGING, **step))
        lines = (await anext(stream)).decode().strip().splitlines()
        events.append(dict(line.split(": ", 1) for line in lines))
    plans = [json.loads(one["data"]) for one in events]
    assert [(one["event"], plan["state"]) for one, plan in zip(events, plans, strict=True)] == [
        ("state", "converging"),
        ("progress", "converging"),
        ("state", "converged"),
    ]
    assert plans[1]["why"] == "line\nbreak"
    assert [event async for event in stream] == []
    assert told.watchers.count == 0


async def test_a_silent_plan_is_heard_by_heartbeats() -> None:
    told = FakeConvergence()
    told.tell(CONVERGING)
    events = changes(told.watch(), heartbeat_seconds=0.001)
    assert (await anext(events)).startswith(b"event: state\n")
    assert await anext(events) == HEARTBEAT
    assert await anext(events) == HEARTBEAT
    told.tell(dataclasses.replace(CONVERGING, state=PlanState.CONVERGED))
    async with asyncio.timeout(60):
        while (event := await anext(events)) == HEARTBEAT:
            pass
    assert b'"state":"converged"' in event
    assert [event async for event in events] == []
    assert told.watchers.count == 0
