"""A request that kills an engine of one host is carried to no engine of another."""

import asyncio
import json

import httpx

from tests.proxy.conftest import Proxy, replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import parts
from tests.proxy.peers.test_hops import until_idle
from tests.proxy.scripted import Received, Step

BODY = json.dumps({"model": "m", "prompt": "the suspect"}).encode()
QUARANTINED = (422, "request_quarantined")


async def send(proxy: Proxy) -> tuple[int, str]:
    async with proxy.client as client:
        headers = {"content-type": "application/json"}
        got: httpx.Response = await client.post("/v1/completions", content=BODY, headers=headers)
    return got.status_code, (got.json().get("error") or {}).get("code", "")


async def test_what_killed_an_engine_elsewhere_is_carried_to_no_other_host(make: Make) -> None:
    other = await make.engine(name="e2")

    def dies(_: Received) -> list[Step]:
        engine.path.unlink()
        return ["reset"]

    engine = await make.engine(dies)
    alone = table(replica(engine), replica(other, "m-2", draining=True))
    hosts = await make.hosts(alone, {"a": [], "b": ["m-1"], "c": ["m-2"], "d": []})
    a, _, _, d = hosts
    killed = asyncio.create_task(send(a.proxy))
    await engine.until(lambda: len(engine.received) == 1)
    parts(table(replica(engine), replica(other, "m-2"), version=2), hosts, {"m-1": "b", "m-2": "c"})
    assert await killed == QUARANTINED
    await a.proxy.until(lambda: a.proxy.state.peers.serving("m") == {"c"})
    assert await send(a.proxy) == QUARANTINED  # by its entry: only c has a replica now
    assert other.received == []
    assert (await d.proxy.complete()).status_code == 200  # others are served there
    await until_idle(hosts)


async def test_an_entry_that_hears_of_a_quarantine_keeps_it(make: Make) -> None:
    second = await make.engine(name="e2")
    third = await make.engine(name="e3")

    def dies(_: Received) -> list[Step]:
        engine.path.unlink()
        return ["reset"]

    engine = await make.engine(dies)
    owners = {"m-1": "b", "m-2": "b", "m-3": "c"}
    draining = replica(third, "m-3", draining=True)
    both = table(replica(engine), replica(second, "m-2", draining=True), draining)
    hosts = await make.hosts(both, {"a": [], "b": ["m-1", "m-2"], "c": ["m-3"], "d": []})
    a, b, _, d = hosts
    assert await send(a.proxy) == QUARANTINED
    parts(table(replica(second, "m-2"), draining, version=2), hosts, owners)
    await d.proxy.until(lambda: d.proxy.state.peers.serving("m") == {"b"})
    assert await send(d.proxy) == QUARANTINED  # by b, which remembers
    parts(table(replica(third, "m-3"), version=3), hosts, owners)
    await d.proxy.until(lambda: d.proxy.state.peers.serving("m") == {"c"})
    assert await send(d.proxy) == QUARANTINED  # by d, which has heard it
    assert second.received == third.received == []
    assert (await d.proxy.complete()).status_code == 200
    await until_idle([a, b, d])
