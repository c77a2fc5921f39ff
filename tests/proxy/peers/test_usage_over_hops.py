"""The head counts a request that went over a hop once, at the host that the client asked."""

import asyncio
import dataclasses
import hashlib

import pytest

from partitiond.controller.keys.usage import UsageUseCases
from partitiond.core.demand.fleet import FleetSample
from partitiond.core.dispatch.routing import KeyRates, KeyRoute
from partitiond.core.keys.usage import ReplicaShare
from partitiond.core.views.usage import UsageLine
from partitiond.proxy.peers import frames
from partitiond.proxy.peers.frames import frame
from partitiond.store import open_store
from tests.controller.fakes import FakeClock
from tests.proxy.conftest import replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host
from tests.proxy.peers.liar import opened
from tests.proxy.peers.test_hops import holding, until_idle
from tests.proxy.peers.test_key_limits import until_shared
from tests.proxy.peers.test_lies import call
from tests.proxy.scripted import answer
from tests.proxy.telemetry.test_traffic import sampled

SHARE = ReplicaShare(0.5, watts=100.0)


def reported(hosts: list[Host], *, looks: int = 1) -> tuple[UsageLine, ...]:
    """What `GET /usage` tells on a head that has read all these hosts' counts, several times."""
    read = {one.name: dataclasses.replace(sampled(one.proxy), epoch=one.name) for one in hosts}
    desk = UsageUseCases(
        store=open_store(":memory:"), clock=FakeClock(), shares=lambda: {"m-1": SHARE},
        latest=lambda: FleetSample(0.0, "sum", hosts=read, own="a"), keep_days=0,
    )  # fmt: skip
    for _ in range(looks):
        desk.look()
    return desk.report().lines


async def ask(one: Host, key: str = "k1", **body: object) -> int:
    asked = {"model": "m", "prompt": "hi", "max_tokens": 10, **body}
    headers = {"authorization": f"Bearer {key}"}
    async with one.proxy.client as client:
        return (await client.post("/v1/completions", json=asked, headers=headers)).status_code


async def test_a_request_over_a_hop_is_in_the_report_once(make: Make) -> None:
    key = KeyRoute("k1", hashlib.sha256(b"k1").hexdigest(), rates=KeyRates(token_budget=4000))
    routes = table(replica(await make.engine()), keys=(key,), keys_required=True)
    hosts = await make.hosts(routes, {"a": ["m-1"], "b": [], "c": []})
    a, b, c = hosts
    await until_shared(*hosts)
    for one in (b, b, c, a):
        assert await ask(one) == 200
    assert await ask(b, stream=True) == 200
    await until_idle(hosts)
    (line,) = reported(hosts)
    assert (line.key_id, line.model, line.requests, line.failed) == ("k1", "m", 5, 0)
    charged = [one.proxy.state.accounts.uses()["k1"] for one in hosts]
    assert [one["requests"] for one in charged] == [1, 3, 1]
    # What the report counts is what the budget was charged for.
    assert line.prompt_tokens + line.output_tokens == sum(one["budget_used"] for one in charged)
    assert line.engine_seconds > 0


async def test_a_request_that_failed_behind_a_hop_is_in_the_report_once(make: Make) -> None:
    key = KeyRoute("k1", hashlib.sha256(b"k1").hexdigest())
    engine = await make.engine(lambda _: answer({"error": {"message": "broken"}}, status=500))
    routes = table(replica(engine), keys=(key,), keys_required=True)
    hosts = await make.hosts(routes, {"a": ["m-1"], "b": []})
    assert await ask(hosts[1]) >= 500
    await until_idle(hosts)
    (line,) = reported(hosts)
    assert (line.requests, line.failed) == (0, 1)


async def test_device_time_is_split_between_clients_of_all_hosts(make: Make) -> None:
    """Who asks another host pays for the device there as who asks the host itself."""
    keys = tuple(KeyRoute(name, hashlib.sha256(name.encode()).hexdigest()) for name in ("k1", "k2"))
    go = asyncio.Event()
    engine = await make.engine(holding(go))
    routes = table(replica(engine), keys=keys, keys_required=True)
    hosts = await make.hosts(routes, {"a": ["m-1"], "b": [], "c": []})
    a, b, c = hosts
    asked = [(b, "k1"), (c, "k1"), (a, "k2")]
    running = [asyncio.create_task(ask(one, key)) for one, key in asked]
    await engine.until(lambda: len(engine.received) == 3)
    await asyncio.sleep(0.2)  # the engine computes for both keys
    assert all(line.device_seconds > 0.0 for line in reported(hosts))
    go.set()
    assert await asyncio.gather(*running) == [200, 200, 200]
    await until_idle(hosts)
    work = sampled(a.proxy).replicas["m-1"]
    first, second = reported(hosts, looks=2)
    assert (first.key_id, second.key_id) == ("k1", "k2")
    on_device = first.device_seconds + second.device_seconds
    in_engine = first.engine_seconds + second.engine_seconds
    assert on_device == pytest.approx(work.busy_seconds * SHARE.share, abs=0.002)
    assert in_engine == pytest.approx(work.sequence_seconds, abs=0.002)
    part = pytest.approx(first.engine_seconds / in_engine, abs=0.01)
    assert first.device_seconds / on_device == part
    assert min(first.engine_seconds, second.engine_seconds) > 0.15


async def test_a_key_that_is_none_is_counted_as_nobody_s(make: Make) -> None:
    """A host that invents keys fills no memory with them, and has one turn in the queue."""
    a, b = await make.hosts(table(replica(await make.engine())), {"a": ["m-1"], "b": []})
    _, writer = await call(a, "b")
    for number in range(1, 4):
        named = opened(b'{"model": "m", "prompt": "hi"}', key=f"none-{number}")
        writer.write(frame(frames.OPEN, number, named))
    await a.proxy.until(lambda: sampled(a.proxy).replicas["m-1"].ok == 3)
    await until_idle([a, b])
    writer.close()
    assert list(sampled(a.proxy).usage) == [""]
