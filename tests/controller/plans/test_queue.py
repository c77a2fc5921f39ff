"""Few plans are solved at a time, and the daemon's own plans wait for none of them."""

import asyncio

import pytest

from partitiond.controller.plans.queue import ASKED_AT_ONCE, MOST_WAITING, PlanQueue
from partitiond.core.errors import NotReadyError
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.planner.model.types import PlanRequest
from partitiond.store import open_store
from tests.controller.fakes import a_moment, solved, until
from tests.controller.host import Host
from tests.controller.samples import measured_profile


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

    store = open_store(":memory:")
    here = Host(store, solve=solve)
    await here.service.daemon.start()
    store.add_profile(measured_profile("b"))
    await here.register("b", auto=False)
    chain = here.service.parts.plans.chain
    await until(lambda: not chain.planning)
    gate.clear()
    most = 0
    for cores in (1, 2):
        store.add_profile(measured_profile("a", cores=cores))
    asked = [asyncio.create_task(here.service.plans.preview()) for _ in range(1 + MOST_WAITING)]
    await until(lambda: running == ASKED_AT_ONCE)
    with pytest.raises(NotReadyError):
        await here.service.plans.preview()
    with pytest.raises(NotReadyError):
        await here.service.parts.plans.imagine(lambda situation: situation)
    await here.register("a")
    await until(lambda: running == ASKED_AT_ONCE + 1)  # the chain's own
    applied = asyncio.create_task(here.service.plans.apply())
    await until(lambda: running == ASKED_AT_ONCE + 2)
    gate.set()
    await asyncio.gather(*asked, applied)
    assert most == ASKED_AT_ONCE + 2
    await here.service.daemon.shutdown(stop_engines=True)
    store.close()
