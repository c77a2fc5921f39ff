"""Few plans are solved at a time, and the daemon's own plans wait for none of them."""

import asyncio

import pytest

from partitiond.controller.plans.queue import ASKED_AT_ONCE, MOST_WAITING, PlanQueue
from partitiond.core.errors import NotReadyError
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.planner.model.types import PlanRequest
from tests.controller.fakes import a_moment, solved
from tests.controller.host import Host, serving
from tests.machine import until


async def test_turns_are_taken_in_order_and_too_many_are_refused() -> None:
    plans = PlanQueue(at_once=1, most_waiting=2)
    began: list[str] = []
    ends = {name: asyncio.Event() for name in "abcd"}

    async def ask(name: str) -> None:
        async with plans.turn():
            began.append(name)
            await ends[name].wait()
            if name == "b":
                raise ZeroDivisionError

    asked = {name: asyncio.create_task(ask(name)) for name in "abc"}
    await a_moment()
    assert began == ["a"]
    with pytest.raises(NotReadyError, match="2 others wait"):
        await ask("d")
    asked["c"].cancel()  # who gives up waiting leaves its place
    await a_moment()
    late = asyncio.create_task(ask("d"))
    ends["a"].set()
    await a_moment()
    assert began == ["a", "b"]
    ends["b"].set()  # a plan that breaks ends its turn
    await a_moment()
    assert began == ["a", "b", "d"]
    ends["d"].set()
    await late
    assert isinstance(asked["b"].exception(), ZeroDivisionError)


async def test_what_people_ask_for_is_planned_one_after_the_other_beside_the_daemons_own() -> None:
    running = most = 0
    gate = asyncio.Event()
    gate.set()

    async def solve(request: PlanRequest) -> Plan | Infeasible:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return await solved(request)

    async with serving(Host(solve=solve)) as here:
        here.measured("b", cores=(1,))
        await here.register("b", auto=False)
        plans, parts = here.service.plans, here.service.parts.plans
        await until(lambda: not parts.chain.planning)
        gate.clear()
        most = 0
        here.measured("a")
        asked = [asyncio.create_task(plans.preview()) for _ in range(1 + MOST_WAITING)]
        await until(lambda: running == ASKED_AT_ONCE)
        with pytest.raises(NotReadyError):
            await plans.preview()
        with pytest.raises(NotReadyError):
            await parts.imagine(lambda situation: situation)
        await here.register("a")
        await until(lambda: running == ASKED_AT_ONCE + 1)  # the chain's own
        applied = asyncio.create_task(plans.apply())
        await until(lambda: running == ASKED_AT_ONCE + 2)
        gate.set()
        await asyncio.gather(*asked, applied)
        assert most == ASKED_AT_ONCE + 2
