"""A request that kills an engine of one host is carried to no engine of another."""

import asyncio

from tests.proxy.conftest import error_of, replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host, parts
from tests.proxy.peers.test_hops import until_idle
from tests.proxy.scripted import Received, Step
from tests.proxy.virtual import virtual_time

pytestmark = virtual_time
QUARANTINED = (422, "request_quarantined")


async def send(host: Host) -> tuple[int, str]:
    return error_of(await host.proxy.complete(prompt="the suspect"))


async def test_what_killed_an_engine_is_carried_to_no_other_host_by_any_that_heard_of_it(
    make: Make,
) -> None:
    def dies(_: Received) -> list[Step]:
        engine.path.unlink()
        return ["reset"]

    engine, second, third = [await make.engine(name=f"e{n}") for n in range(3)]
    engine.script = dies
    one, two, three = replica(engine), replica(second, "m-2"), replica(third, "m-3")
    owners = {"m-1": "b", "m-2": "b", "m-3": "c"}
    alone = table(one, replica(third, "m-3", draining=True))
    hosts = a, b, _, d = await make.hosts(alone, {"a": [], "b": ["m-1"], "c": ["m-3"], "d": []})
    killed = asyncio.create_task(send(a))
    await engine.got(1)
    parts(table(one, three, version=2), hosts, owners)
    assert await killed == QUARANTINED
    await a.proxy.until(lambda: a.serving("m") == {"c"})
    assert await send(a) == QUARANTINED  # by its entry: only c has a replica now
    parts(table(two, version=3), hosts, owners)
    await d.proxy.until(lambda: d.serving("m") == {"b"})
    assert await send(d) == QUARANTINED  # by b, which remembers
    parts(table(three, version=4), hosts, owners)
    await d.proxy.until(lambda: d.serving("m") == {"c"})
    assert await send(d) == QUARANTINED  # by d, which has heard it
    assert second.received == third.received == []
    assert (await d.proxy.complete()).status_code == 200  # others are served there
    await until_idle([a, b, d])
