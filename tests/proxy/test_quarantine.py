"""Requests that a replica may have died of are quarantined by the proxy."""

import asyncio
import json

import httpx
import pytest

from partitiond.core.dispatch.quarantine import Exposure, Quarantine, QuarantinePolicy, fingerprint
from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, error_of, replica, table
from tests.proxy.scripted import Received, ScriptedEngine, Step, answer, completion, plays

BODY = json.dumps({"model": "m", "prompt": "the suspect"}).encode()


@pytest.fixture
async def engine(make_engine: MakeEngine) -> ScriptedEngine:
    return await make_engine()


@pytest.fixture
async def other(make_engine: MakeEngine) -> ScriptedEngine:
    return await make_engine(name="e2")


@pytest.fixture
async def proxy(make_proxy: MakeProxy, engine: ScriptedEngine, other: ScriptedEngine) -> Proxy:
    """The other engine takes nothing until it is `opened`."""
    return await make_proxy(table(replica(engine), replica(other, "m-2", draining=True)))


def opened(proxy: Proxy, engine: ScriptedEngine, other: ScriptedEngine) -> None:
    proxy.state.apply(table(replica(engine), replica(other, "m-2"), version=2))


async def send(proxy: Proxy, who: str = "suspect") -> httpx.Response:
    body = BODY.replace(b"suspect", who.encode())
    async with proxy.client as client:
        headers = {"content-type": "application/json"}
        return await client.post("/v1/completions", content=body, headers=headers)


def sent(proxy: Proxy, who: str = "suspect") -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(send(proxy, who))


async def test_the_only_request_on_a_dead_engine_is_neither_retried_nor_taken_again(
    proxy: Proxy, engine: ScriptedEngine, other: ScriptedEngine
) -> None:

    def dies(request: Received) -> list[Step]:
        engine.path.unlink()
        return ["reset"]

    engine.script = dies
    killed = sent(proxy)
    await engine.got(1)
    opened(proxy, engine, other)
    for got in (await killed, await send(proxy)):
        assert error_of(got) == (422, "request_quarantined")
    assert other.received == []
    assert proxy.idle()


async def test_what_reaches_only_the_listener_of_a_dying_engine_is_served_elsewhere(
    proxy: Proxy, engine: ScriptedEngine, other: ScriptedEngine
) -> None:
    """Its children hold the listener until they are dead, too: nobody reads what comes then."""
    gone = asyncio.Event()

    def dies(request: Received) -> list[Step]:
        return ["reset"] if request.body["prompt"] == "the killer" else [gone, "reset"]

    engine.script = dies
    patient = QuarantinePolicy(dying_seconds=3600.0, suspect_seconds=3600.0)  # however slow we are
    proxy.state.quarantine = Quarantine(patient)
    early = sent(proxy, "early one")
    await engine.got(1)
    killer = await send(proxy, "killer")
    assert killer.status_code == 502
    late = sent(proxy)
    await engine.got(3)
    again = await send(proxy, "killer")
    assert again.status_code == 502, "the connections break one after the other"
    opened(proxy, engine, other)
    engine.path.unlink()
    gone.set()
    assert (await late).status_code == 200
    assert (await early).status_code == 422, "it was there before"
    assert len(other.received) == 1
    assert (await send(proxy)).status_code == 200
    assert proxy.idle()


@pytest.mark.parametrize("healed", ["by an answer", "by another process"])
async def test_a_broken_connection_of_an_engine_that_lives_excuses_nobody_later(
    proxy: Proxy, engine: ScriptedEngine, other: ScriptedEngine, healed: str
) -> None:

    def script(request: Received) -> list[Step]:
        if request.body["prompt"] == "the broken":
            return ["reset"]
        if request.body["prompt"] == "the well":
            return answer(completion())
        engine.path.unlink()
        return ["reset"]

    engine.script = script
    assert (await send(proxy, "broken")).status_code == 502
    if healed == "by an answer":
        assert (await send(proxy, "well")).status_code == 200
    else:
        live = proxy.state.models["m"].replicas["m-1"]
        hidden = engine.path.with_suffix(".away")
        engine.path.rename(hidden)
        assert live.connect_failed()
        hidden.rename(engine.path)
        live.look_again()
        assert not live.is_dead
    killed = sent(proxy)
    await engine.until(lambda: engine.received[-1].body["prompt"] == "the suspect")
    opened(proxy, engine, other)
    assert (await killed).status_code == 422
    assert other.received == []


async def test_an_idle_connection_that_ended_excuses_nobody(
    proxy: Proxy, engine: ScriptedEngine, other: ScriptedEngine
) -> None:

    def script(request: Received) -> list[Step]:
        prompt = request.body["prompt"]
        if prompt == "the well":
            return answer(completion())
        if prompt == "the killer":
            engine.path.unlink()
            return ["reset"]
        return ["reset"] if len(engine.received) == 2 else ["hold"]

    engine.script = script
    assert (await send(proxy, "well")).status_code == 200
    held = sent(proxy)
    await engine.got(3)
    killer = sent(proxy, "killer")
    await engine.got(4)
    opened(proxy, engine, other)
    assert (await killer).status_code == 422
    assert other.received == []
    held.cancel()


async def test_a_connection_that_broke_long_ago_excuses_nobody(
    proxy: Proxy, engine: ScriptedEngine, other: ScriptedEngine
) -> None:

    def script(request: Received) -> list[Step]:
        if request.body["prompt"] == "the suspect":
            engine.path.unlink()
        return ["reset"]

    engine.script = script
    proxy.state.quarantine = Quarantine(QuarantinePolicy(dying_seconds=0.0))
    assert (await send(proxy, "broken")).status_code == 502
    killed = sent(proxy)
    await engine.got(2)
    opened(proxy, engine, other)
    assert (await killed).status_code == 422
    assert other.received == []


async def test_of_twins_on_trial_one_is_let_through_however_often_the_other_asks(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    go = asyncio.Event()

    def script(request: Received) -> list[Step]:
        return [go, *answer(completion())]

    engine = await make_engine(script)
    proxy = await make_proxy(table(replica(engine)))
    proxy.state.quarantine = Quarantine(QuarantinePolicy(alone_seconds=0.0))
    now = asyncio.get_running_loop().time()
    proxy.state.quarantine.died([Exposure(fingerprint("m", BODY), 0.1)], now)
    tried = sent(proxy)
    await engine.got(1)
    for _ in range(3):
        assert error_of(await send(proxy)) == (503, "request_on_trial")
    go.set()
    assert (await tried).status_code == 200
    assert (await send(proxy)).status_code == 200, "it has ended well, and is cleared"
    assert len(engine.received) == 2


async def test_a_killer_whose_connection_ends_before_its_listener_is_found(
    proxy: Proxy, engine: ScriptedEngine, other: ScriptedEngine
) -> None:
    """A process that dies closes its sockets one after the other."""
    engine.script = plays("reset")
    patient = QuarantinePolicy(look_again_seconds=1.0)  # the listener closes before, however slowly
    proxy.state.quarantine = Quarantine(patient)
    killed = sent(proxy)
    await engine.until(lambda: engine.connections == 2)  # it was looked at
    engine.path.unlink()
    opened(proxy, engine, other)
    assert (await killed).status_code == 422
    assert other.received == []
    assert proxy.idle()


async def test_a_client_may_leave_while_its_engine_is_looked_at_again(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(lambda _: ["reset"])
    proxy = await make_proxy(table(replica(engine)))
    proxy.state.quarantine = Quarantine(QuarantinePolicy(look_again_seconds=0.2))
    leaves = sent(proxy)
    await engine.until(lambda: engine.connections == 2)
    leaves.cancel()
    await proxy.until(proxy.idle)
    assert (await send(proxy)).status_code == 502, "looked at again as well, and later"
    outcomes = [json.loads(line)["outcome"] for line in proxy.log_lines]
    assert outcomes == ["client_gone", "failed"]
    assert proxy.idle()
