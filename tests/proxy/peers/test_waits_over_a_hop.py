"""A request waits as long as it may, at all hosts together, and goes wherever it may yet run."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from partitiond.core.dispatch.admission import service_time
from partitiond.core.dispatch.reputation import FAILURES
from partitiond.core.dispatch.retry_budget import RESERVE
from partitiond.core.dispatch.routing import ModelAvailability
from partitiond.proxy.dispatch.live_requests import HOP_SECONDS
from partitiond.proxy.edge.answer import WAITING
from partitiond.proxy.edge.exchange import WAITING_SECONDS
from partitiond.proxy.peers import known
from tests.proxy.conftest import MakeEngine, error_of, replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host, host, parts, tables_of
from tests.proxy.peers.liar import LyingOwner, failed
from tests.proxy.peers.test_hops import holding, until_idle
from tests.proxy.scripted import answer, completion, plays
from tests.proxy.virtual import virtual_time

pytestmark = virtual_time


def ask(at: Host, prompt: str = "hi", **headers: str) -> asyncio.Task[httpx.Response]:
    return at.proxy.ask(prompt=prompt, headers={"x-partitiond-debug": "1", **headers})


async def test_the_longest_wait_is_one_for_all_hosts(make: Make) -> None:
    go = asyncio.Event()
    engines = [await make.engine(holding(go), f"e{n}") for n in range(2)]
    routes = table(
        replica(engines[0], "m-1", max_sequences=1),
        replica(engines[1], "m-2", max_sequences=1, service_seconds=0.01),  # a short wait there
        max_wait_seconds=1.5,
    )
    hosts = a, b = await make.hosts(routes, {"a": ["m-1"], "b": ["m-2"]})
    busy = [ask(one) for one in hosts]
    for engine in engines:
        await engine.got(1)
    await a.proxy.until(lambda: any(one.sequences_in_flight() for one in a.listed("m")))
    began = time.monotonic()
    assert error_of(await ask(a)) == (429, "queue_timeout")
    assert time.monotonic() - began < 1.5 + HOP_SECONDS
    assert a.proxy.state.metrics.hops["b", "refused"] == 1
    assert b.proxy.state.queues() == {"m": 0}
    go.set()
    await asyncio.gather(*busy)
    await until_idle([a, b])


@pytest.mark.parametrize("streams", [True, False])
async def test_the_entry_shows_life_while_a_start_at_another_host_is_waited_for(
    make: Make, streams: bool
) -> None:
    """Not while its request waits for a place there: then it may yet get a refusal of its own."""
    go = asyncio.Event()
    routes: dict[str, Any] = {"max_wait_seconds": 300.0, "holds": True}
    a, b, engine = await make.pair(holding(go), max_sequences=1, route=routes)
    busy = ask(b)
    await engine.got(1)
    waits = a.proxy.ask(stream=streams)
    await b.proxy.until(lambda: b.proxy.state.queues()["m"] == 1)
    await asyncio.sleep(2.5 * WAITING_SECONDS)
    (exchange,) = a.proxy.exchanges()
    assert exchange.answer.status == 0
    starting = table(version=2, availability=ModelAvailability.STARTING, **routes)
    parts(starting, [a, b], {})
    await asyncio.sleep(3.5 * WAITING_SECONDS)
    parts(table(replica(engine), version=3, **routes), [a, b], {"m-1": "b"})
    go.set()
    got = await waits
    assert got.text.count(WAITING.decode()) == (4 if streams else 0)
    assert got.text.removeprefix(4 * WAITING.decode()).startswith("data: {" if streams else "{")
    assert (await busy).status_code == 200
    await until_idle([a, b])


@pytest.mark.parametrize("cold", [True, False])
async def test_a_backlog_is_shared_with_a_replica_that_starts_at_another_host(
    make: Make, cold: bool
) -> None:
    """Without moves the entry refused half of the requests beside an idle host."""
    engines = [await make.engine(plays(10.0, *answer(completion())), f"e{n}") for n in range(2)]
    routes = [replica(one, f"m-{n}", max_sequences=1) for n, one in enumerate(engines)]
    more: dict[str, Any] = {"max_wait_seconds": 45.0, "holds": cold}
    starting = table(availability=ModelAvailability.STARTING, **more)
    first = starting if cold else table(routes[0], **more)
    hosts = a, _ = await make.hosts(first, {"a": [] if cold else ["m-0"], "b": []})
    asked = [a.proxy.ask(prompt=str(number)) for number in range(8)]
    await asyncio.sleep(5.0)
    parts(table(*routes, version=2, **more), [*hosts], {"m-0": "a", "m-1": "b"})
    assert [one.status_code for one in await asyncio.gather(*asked)] == [200] * 8
    assert [len(engine.received) for engine in engines] == [4, 4]


async def test_a_request_that_was_moved_in_vain_may_wait_on(make: Make) -> None:
    """The room was gone when it came. It has waited before, so no queue refuses it as too late."""
    go = asyncio.Event()
    engines = [await make.engine(holding(go), f"e{n}") for n in range(2)]
    routes = [replica(one, f"m-{n}", max_sequences=1) for n, one in enumerate(engines)]
    owners = {"a": [], "b": ["m-0"], "c": ["m-1"]}
    hosts = a, b, c = await make.hosts(table(*routes, max_wait_seconds=30.0), owners)
    busy = [ask(one) for one in (b, c)]
    for engine in engines:
        await engine.got(1)
    waits = ask(a)
    await a.proxy.until(lambda: any(one.proxy.state.queues()["m"] for one in (b, c)))
    for one in (b, c):
        one.proxy.state.models["m"].slots.service = service_time(60.0)  # whoever joins is too late
    peers = a.proxy.state.peers
    (wait,) = peers._waits["m"]
    (target,) = [one for one in a.listed("m") if one.host != wait.host]
    before = wait.host
    wait.moves += 1
    wait.go(target, "")
    await a.proxy.until(lambda: a.proxy.state.metrics.hops[target.host, "refused"] == 1)
    assert wait.host == before
    assert not waits.done()
    go.set()
    assert (await waits).status_code == 200
    await asyncio.gather(*busy)
    await until_idle(hosts)


@pytest.mark.parametrize("good", ["b", "c", "nowhere"])
async def test_replicas_that_are_not_reached_cost_no_attempt(
    good: str, make: Make, folder: Path
) -> None:
    """Those of b. The good one is there, or at another host."""
    dead = [replica(folder / f"d{n}.sock", f"m-{n}") for n in range(2)]
    alive = replica(await make.engine(), "m-2")
    owners = {"a": [], "b": ["m-0", "m-1"], "c": []}
    if good in owners:
        owners[good].append("m-2")
    hosts = await make.hosts(table(*dead, *[alive] * (good in owners)), owners)
    got = await ask(hosts[0])
    if good == "nowhere":
        assert error_of(got) == (503, "upstream_connect")
    else:
        assert (got.status_code, got.headers["x-partitiond-attempts"]) == (200, "1")
    assert hosts[0].proxy.state.metrics.upstream_failures == {}
    await until_idle(hosts)


async def test_no_engine_gets_a_request_twice(make: Make) -> None:
    """Its entry alone retries it, within the share of its own host."""
    fails = plays(*answer({"error": "x"}, 500, "no"))
    engines = [await make.engine(fails, f"e{n}") for n in range(3)]
    routes = table(*(replica(one, f"m-{n}") for n, one in enumerate(engines)))
    owners = {"a": [], "b": ["m-0", "m-1"], "c": ["m-2"]}
    hosts = await make.hosts(routes, owners, max_attempts=4, retry_share=1.0)
    assert error_of(await ask(hosts[0])) == (502, "upstream_engine_error")
    assert [len(engine.received) for engine in engines] == [1, 1, 1]
    counted = [sum(one.proxy.state.metrics.upstream_failures.values()) for one in hosts]
    assert counted == [0, 2, 1], "by the hosts of the engines alone"
    credit = [one.proxy.state.models["m"].retries.credit for one in hosts]
    assert credit == [RESERVE + 1 - 2, RESERVE, RESERVE]
    await until_idle(hosts)


@pytest.mark.parametrize("good", ["b", "c"])
async def test_a_replica_is_proved_broken_by_another_that_serves_what_it_failed(
    make: Make, good: str
) -> None:
    """On its host or another: what comes of one source alone proves nothing else."""
    fails = plays(*answer({"error": "x"}, 500, "no"))
    engines = [await make.engine(fails, "bad"), await make.engine(name="good")]
    routes = table(*(replica(one, f"m-{n}") for n, one in enumerate(engines)))
    owners = {"a": [], "b": ["m-0"], "c": []}
    owners[good] = [*owners[good], "m-1"]
    hosts = await make.hosts(routes, owners, retry_share=1.0)
    broken = hosts[1].proxy.state.models["m"].replicas["m-0"].reputation
    async with asyncio.timeout(60):
        while broken.failures < FAILURES:
            assert (await ask(hosts[0])).status_code == 200
    assert broken.proofs == 1
    await until_idle(hosts)


async def test_a_host_that_neither_starts_nor_takes_a_request_is_given_up(
    folder: Path, make_engine: MakeEngine
) -> None:
    """A retry that no host takes ends with the failure of its engine."""
    async with LyingOwner(folder / "x.peer", "x").running() as liar, host(folder, "a") as a:
        engine = await make_engine(plays(*answer({"error": "x"}, 500, "no")))
        ours, theirs = replica(engine, "m-9"), replica(folder / "none.sock")
        peers = [a.route, liar.route]
        routes = table(theirs, max_wait_seconds=0.3)
        a.proxy.state.apply(tables_of(routes, peers, {"m-1": "x"}).of("a"))
        await a.until_it_hears(1)
        assert error_of(await ask(a)) == (429, "queue_timeout")
        assert liar.asked == 1
        liar.script = lambda: failed(code="queue_full", refused=True)
        both = table(ours, theirs, version=2)
        a.proxy.state.apply(tables_of(both, peers, {"m-9": "a", "m-1": "x"}).of("a"))
        await a.until_it_hears(1)
        assert error_of(await ask(a)) == (502, "upstream_engine_error")
        assert liar.asked == 2
        await until_idle([a])


@pytest.mark.parametrize(("left", "code"), [(0.01, "queue_timeout"), (20.0, "wait_too_long")])
async def test_who_waited_as_long_as_it_may_is_told_so(
    folder: Path, make_engine: MakeEngine, left: float, code: str
) -> None:
    """An owner's clock ends the wait a moment sooner: what is left is no wait at another host."""
    async with LyingOwner(folder / "x.peer", "x").running() as liar, host(folder, "a") as a:
        go = asyncio.Event()
        engine = await make_engine(holding(go))
        routes = replica(engine, "m-9", max_sequences=1), replica(folder / "none.sock")
        told = tables_of(
            table(*routes, max_wait_seconds=30.0), [a.route, liar.route], {"m-9": "a", "m-1": "x"}
        )
        a.proxy.state.apply(told.of("a"))
        await a.until_it_hears(1)
        runs = ask(a)
        await engine.got(1)
        waits = ask(a)
        await a.proxy.until(lambda: liar.asked == 1)
        a.proxy.state.models["m"].slots.service = service_time(60.0)  # whoever joins is too late
        (wait,) = a.proxy.state.peers._waits["m"]
        wait.latest = time.monotonic() + left
        (owner,) = liar.askers
        owner.write(failed(code="queue_timeout", refused=True))
        assert error_of(await waits) == (429, code)
        go.set()
        assert (await runs).status_code == 200
        await until_idle([a])


async def test_a_refused_replica_of_the_own_host_comes_after_those_of_others(make: Make) -> None:
    """Even after waiting there."""
    engines = [await make.engine(plays(*answer({"error": "x"}, 500, "no")), "bad")]
    engines.append(await make.engine(plays(0.3, *answer(completion())), "good"))
    routes = [replica(one, f"m-{n}", max_sequences=1) for n, one in enumerate(engines)]
    hosts = a, *_ = await make.hosts(table(*routes), {"a": ["m-0"], "b": ["m-1"]})
    await a.proxy.until(lambda: a.serving("m") == {"b"})
    for source in "aab":
        a.proxy.state.models["m"].replicas["m-0"].failed(source)
    asked = [ask(a, f"{n}") for n in range(3)]
    assert {(await one).status_code for one in asked} == {200}
    assert not engines[0].received
    await until_idle(hosts)


async def test_the_wait_for_a_host_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "LEARN_SECONDS", 60.0)
    a, b, _ = await make.pair(route={"max_queue": 2})
    b.server.close()
    await a.proxy.until(lambda: a.listed("m") == [])
    waits = [ask(a) for _ in range(2)]
    await a.proxy.until(lambda: len(a.proxy.state.exchanges) == 2)
    refused = (503, "model_on_other_host")
    assert error_of(await ask(a)) == refused, "two wait already"
    waits[0].cancel()
    await a.proxy.until(lambda: len(a.proxy.state.exchanges) == 1)
    hurried = ask(a, **{"x-partitiond-max-wait-seconds": "0"})
    assert error_of(await hurried) == refused, "it does not want to wait"
    assert not waits[1].done()
    waits[1].cancel()
    await until_idle([a])
