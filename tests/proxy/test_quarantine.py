"""Requests that a replica may have died of are quarantined by the proxy."""

import asyncio
import json

import httpx
import pytest

from partitiond.core.dispatch.quarantine import Exposure, Quarantine, fingerprint
from tests.proxy.conftest import Make, Proxy, error_of, replica, table
from tests.proxy.scripted import Received, ScriptedEngine, Step, answer, completion, plays

QUARANTINED = (422, "request_quarantined")


@pytest.fixture
async def engine(make: Make) -> ScriptedEngine:
    return await make.engine()


@pytest.fixture
async def other(make: Make) -> ScriptedEngine:
    return await make.engine(name="e2")


@pytest.fixture
async def proxy(make: Make, engine: ScriptedEngine, other: ScriptedEngine) -> Proxy:
    """The other engine takes nothing until it is `opened`."""
    return await make.proxy(table(replica(engine), replica(other, "m-2", draining=True)))


def opened(proxy: Proxy, engine: ScriptedEngine, other: ScriptedEngine) -> None:
    proxy.state.apply(table(replica(engine), replica(other, "m-2"), version=2))


def body(prompt: str) -> bytes:
    return json.dumps({"model": "m", "prompt": prompt}).encode()


async def send(proxy: Proxy, prompt: str = "suspect") -> tuple[int, str]:
    headers = {"content-type": "application/json"}
    async with proxy.client as client:
        got: httpx.Response = await client.post(
            "/v1/completions", content=body(prompt), headers=headers
        )
    return error_of(got)


def sent(proxy: Proxy, prompt: str = "suspect") -> asyncio.Task[tuple[int, str]]:
    return asyncio.create_task(send(proxy, prompt))


async def test_the_only_request_on_a_dead_engine_is_neither_retried_nor_taken_again(
    proxy: Proxy, engine: ScriptedEngine, other: ScriptedEngine
) -> None:
    def dies(_: Received) -> list[Step]:
        engine.path.unlink()
        return ["reset"]

    engine.script = dies
    killed = sent(proxy)
    await engine.got(1)
    opened(proxy, engine, other)
    assert [await killed, await send(proxy)] == [QUARANTINED] * 2
    assert other.received == []
    assert proxy.idle()


async def test_what_reaches_only_the_listener_of_a_dying_engine_is_served_elsewhere(
    proxy: Proxy, engine: ScriptedEngine, other: ScriptedEngine
) -> None:
    """Its children hold the listener until they are dead, too: nobody reads what comes then."""
    gone = asyncio.Event()

    def dies(request: Received) -> list[Step]:
        return ["reset"] if request.body["prompt"] == "killer" else [gone, "reset"]

    engine.script = dies
    early = sent(proxy, "early")
    await engine.got(1)
    assert (await send(proxy, "killer"))[0] == 502
    late = sent(proxy)
    await engine.got(3)
    assert (await send(proxy, "killer"))[0] == 502, "the connections break one after the other"
    opened(proxy, engine, other)
    engine.path.unlink()
    gone.set()
    assert await late == (200, "")
    assert await early == QUARANTINED, "it was there before"
    assert len(other.received) == 1
    assert await send(proxy) == (200, "")
    assert proxy.idle()


async def test_an_idle_connection_that_ended_excuses_nobody_later(
    proxy: Proxy, engine: ScriptedEngine, other: ScriptedEngine
) -> None:
    def script(request: Received) -> list[Step]:
        match request.body["prompt"]:
            case "well":
                return answer(completion())
            case "held":  # at first on the idle connection
                return ["reset"] if len(engine.received) == 2 else ["hold"]
        engine.path.unlink()
        return ["reset"]

    engine.script = script
    assert (await send(proxy, "well"))[0] == 200
    held = sent(proxy, "held")
    await engine.got(3)
    killed = sent(proxy)
    await engine.got(4)
    opened(proxy, engine, other)
    assert await killed == QUARANTINED
    assert other.received == []
    held.cancel()


async def test_a_suspect_that_is_answered_is_cleared(make: Make) -> None:
    proxy, _ = await make.both()
    quarantine = proxy.state.quarantine = Quarantine(first_seconds=0.0)
    now = asyncio.get_running_loop().time()
    quarantine.died([Exposure(fingerprint("m", body("suspect")), 0.1)], now)
    assert quarantine
    assert await send(proxy) == (200, "")
    assert not quarantine


async def test_a_killer_whose_connection_ends_before_its_listener_is_found(
    proxy: Proxy, engine: ScriptedEngine, other: ScriptedEngine
) -> None:
    """A process that dies closes its sockets one after the other."""
    engine.script = plays("reset")
    killed = sent(proxy)
    await engine.until(lambda: engine.connections == 2)  # it was looked at
    engine.path.unlink()
    opened(proxy, engine, other)
    assert await killed == QUARANTINED
    assert other.received == []
    assert proxy.idle()


async def test_a_client_may_leave_while_its_engine_is_looked_at_again(make: Make) -> None:
    proxy, engine = await make.both(plays("reset"))
    leaves = sent(proxy)
    await engine.until(lambda: engine.connections == 2)
    leaves.cancel()
    await proxy.until(proxy.idle)
    assert (await send(proxy))[0] == 502, "looked at again as well, and later"
    assert [line["outcome"] for line in proxy.records()] == ["client_gone", "failed"]
    assert proxy.idle()
