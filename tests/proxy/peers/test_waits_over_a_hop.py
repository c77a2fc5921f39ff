"""A request waits as long as it may, at all hosts together, and goes wherever it may yet run."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from partitiond.core.dispatch.admission import ServiceTime
from partitiond.core.dispatch.quarantine import Quarantine, QuarantinePolicy
from partitiond.proxy.dispatch.flights import HOP_SECONDS
from partitiond.proxy.peers import frames, known
from partitiond.proxy.peers.messages import Failed, encode
from tests.proxy.conftest import MakeEngine, replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host, host, tables_of
from tests.proxy.peers.liar import LyingOwner
from tests.proxy.peers.test_hops import until_idle
from tests.proxy.scripted import Received, ScriptedEngine, Step, answer, completion


async def ask(at: Host, prompt: str = "hi", wait: str = "") -> httpx.Response:
    headers = {"x-partitiond-debug": "1"}
    if wait:
        headers["x-partitiond-max-wait-seconds"] = wait
    async with at.proxy.client as client:
        body = {"model": "m", "prompt": prompt}
        return await client.post("/v1/completions", json=body, headers=headers)


async def until_busy(engines: list[ScriptedEngine]) -> None:
    for engine in engines:
        await engine.until(lambda: len(engine.received) == 1)  # noqa: B023 -- awaited here


def code(got: httpx.Response) -> tuple[int, str]:
    return got.status_code, (got.json().get("error") or {}).get("code", "")


def attempts(got: httpx.Response) -> str:
    return got.headers["x-partitiond-attempts"]


async def test_the_longest_wait_is_one_for_all_hosts(make: Make) -> None:
    go = asyncio.Event()

    def holds(_: Received) -> list[Step]:
        return [go, *answer(completion())]

    engines = [await make.engine(holds, f"e{n}") for n in range(2)]
    routes = table(
        replica(engines[0], "m-1", max_sequences=1),
        replica(engines[1], "m-2", max_sequences=1, service_seconds=0.01),  # a short wait there
        max_wait_seconds=1.5,
    )
    hosts = a, b = await make.hosts(routes, {"a": ["m-1"], "b": ["m-2"]})
    busy = [asyncio.create_task(ask(one)) for one in hosts]
    await until_busy(engines)
    await a.proxy.until(
        lambda: any(one.sequences_in_flight() for one in a.proxy.state.peers.listed("m"))
    )
    began = time.monotonic()
    assert code(await ask(a)) == (429, "queue_timeout")
    assert time.monotonic() - began < 1.5 + HOP_SECONDS
    assert a.proxy.state.metrics.hops["b", "refused"] == 1
    assert b.proxy.state.queues() == {"m": 0}
    go.set()
    await asyncio.gather(*busy)
    await until_idle([a, b])


async def test_a_host_that_neither_starts_nor_refuses_a_request_is_given_up(folder: Path) -> None:
    async with (
        LyingOwner(folder / "liar.peer", "liar").running() as liar,
        host(folder, "a") as a,
    ):
        routes = table(replica(folder / "none.sock"), max_wait_seconds=0.3)
        a.proxy.state.apply(tables_of(routes, [a.route, liar.route], {"m-1": "liar"}).of("a"))
        await a.until_it_hears(1)
        assert code(await ask(a)) == (429, "queue_timeout")
        assert liar.asked == 1
        await until_idle([a])


async def test_what_is_on_trial_at_one_host_goes_to_no_other(make: Make) -> None:
    go, dies = asyncio.Event(), asyncio.Event()

    def script(request: Received) -> list[Step]:
        if len(engine.received) <= 2:
            return [dies, "reset"]
        return [go, *answer(completion())]

    engine, other = await make.engine(script), await make.engine(name="e2")
    routes = table(replica(engine), replica(other, "m-2"))
    hosts = a, b, _ = await make.hosts(routes, {"a": [], "b": ["m-1"], "c": ["m-2"]})
    b.proxy.state.quarantine = Quarantine(QuarantinePolicy(shared_seconds=0.0))
    suspects = [asyncio.create_task(ask(b, prompt)) for prompt in ("killer", "twin")]
    await engine.until(lambda: len(engine.received) == 2)
    engine.path.unlink()
    dies.set()
    assert [code(await one)[0] for one in suspects] == [422, 422]
    await engine.stop()
    await engine.start()
    await b.proxy.until(lambda: not b.proxy.state.models["m"].replicas["m-1"].is_dead)
    await a.proxy.until(lambda: a.proxy.state.peers.serving("m") == {"b", "c"})
    twin = asyncio.create_task(ask(b, "twin"))
    await engine.until(lambda: len(engine.received) == 3)
    a.proxy.state.peers._draw = lambda: 0.0  # the first host is drawn, and that is b
    assert code(await ask(a, "killer")) == (503, "request_on_trial")
    assert other.received == []
    assert not any(one.full for one in a.proxy.state.peers.listed("m"))
    go.set()
    assert (await twin).status_code == 200
    await until_idle(hosts)


async def test_a_request_that_was_moved_in_vain_may_wait_on(make: Make) -> None:
    """The room was gone when it came. It has waited before, so no queue refuses it as too late."""
    go = asyncio.Event()

    def holds(_: Received) -> list[Step]:
        return [go, *answer(completion())]

    engines = [await make.engine(holds, f"e{n}") for n in range(2)]
    routes = table(
        *(replica(one, f"m-{n}", max_sequences=1) for n, one in enumerate(engines)),
        max_wait_seconds=30.0,
    )
    hosts = a, b, c = await make.hosts(routes, {"a": [], "b": ["m-0"], "c": ["m-1"]})
    busy = [asyncio.create_task(ask(one)) for one in (b, c)]
    await until_busy(engines)
    waits = asyncio.create_task(ask(a))
    await a.proxy.until(
        lambda: any(one.proxy.state.queues()["m"] for one in (b, c)),
    )
    for one in (b, c):
        one.proxy.state.models["m"].slots.service = ServiceTime(60.0)  # whoever joins is too late
    peers = a.proxy.state.peers
    (wait,) = peers._waits["m"]
    (target,) = [one for one in peers.listed("m") if one.host != wait.host]
    before = wait.host
    wait.moves += 1
    wait.traveller.go(target, "")
    await a.proxy.until(lambda: a.proxy.state.metrics.hops[target.host, "refused"] == 1)
    assert wait.host == before
    assert not waits.done()
    go.set()
    assert (await waits).status_code == 200
    await asyncio.gather(*busy)
    await until_idle(hosts)


@pytest.mark.parametrize("good", ["at the same host", "at another host", "nowhere"])
async def test_replicas_that_are_not_reached_cost_no_attempt(
    good: str, make: Make, folder: Path
) -> None:
    engine = await make.engine()
    dead = [replica(folder / f"d{n}.sock", f"m-{n}") for n in range(2)]
    alive = () if good == "nowhere" else (replica(engine, "m-2"),)
    owners = {"a": [], "b": ["m-0", "m-1"], "c": []}
    owners["b" if good == "at the same host" else "c"] += [one.replica_id for one in alive]
    hosts = await make.hosts(table(*dead, *alive), owners)
    got = await ask(hosts[0])
    if good == "nowhere":
        assert code(got) == (503, "upstream_connect")
    else:
        assert (got.status_code, attempts(got)) == (200, "1")
    assert hosts[0].proxy.state.metrics.upstream_failures == {}
    await until_idle(hosts)


async def test_no_engine_gets_a_request_twice(make: Make) -> None:
    """Its entry knows all replicas that its owner tried."""

    def fails(_: Received) -> list[Step]:
        return answer({"error": "x"}, 500, "no")

    engines = [await make.engine(fails, f"e{n}") for n in range(3)]
    routes = table(*(replica(one, f"m-{n}") for n, one in enumerate(engines)))
    hosts = await make.hosts(
        routes, {"a": [], "b": ["m-0", "m-1"], "c": ["m-2"]}, max_attempts=4, retry_share=1.0
    )
    assert code(await ask(hosts[0])) == (502, "upstream_engine_error")
    assert [len(engine.received) for engine in engines] == [1, 1, 1]
    counted = [sum(one.proxy.state.metrics.upstream_failures.values()) for one in hosts]
    assert counted == [0, 2, 1], "by the hosts of the engines alone"
    await until_idle(hosts)


async def test_a_retry_that_no_host_takes_ends_with_the_failure_of_its_engine(
    folder: Path, make_engine: MakeEngine
) -> None:
    async with (
        LyingOwner(folder / "full.peer", "full").running() as full,
        host(folder, "a") as a,
    ):
        refusal = encode(Failed(429, "queue_full", "It is full.", 1, refused=True))
        full.script = lambda: [(frames.FAIL, refusal)]
        engine = await make_engine(lambda _: answer({"error": "x"}, 500, "no"))
        routes = table(replica(engine, "m-9"), replica(folder / "none.sock"))
        owners = {"m-9": "a", "m-1": "full"}
        a.proxy.state.apply(tables_of(routes, [a.route, full.route], owners).of("a"))
        await a.until_it_hears(1)
        assert code(await ask(a)) == (502, "upstream_engine_error")
        assert full.asked == 1
        await until_idle([a])


async def test_a_request_waits_for_an_ejected_replica_of_another_host(make: Make) -> None:
    engine = await make.engine()
    hosts = a, b = await make.hosts(table(replica(engine)), {"a": [], "b": ["m-1"]})
    live = b.proxy.state.models["m"].replicas["m-1"]
    live.ejected = True
    live.model.replicas_changed()
    await a.proxy.until(lambda: not a.proxy.state.peers.serving("m"))
    waits = asyncio.create_task(ask(a))
    await b.proxy.until(lambda: b.proxy.state.queues() == {"m": 1})
    live.ejected = False
    live.model.replicas_changed()
    assert (await waits).status_code == 200
    await until_idle(hosts)


async def test_the_wait_for_a_host_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "LEARN_SECONDS", 60.0)
    engine = await make.engine()
    routes = table(replica(engine), max_queue=2)
    a, b = await make.hosts(routes, {"a": [], "b": ["m-1"]})
    b.server.close()
    await a.proxy.until(lambda: a.proxy.state.peers.listed("m") == [])
    waits = [asyncio.create_task(ask(a)) for _ in range(2)]
    await a.proxy.until(lambda: len(a.proxy.state.flights) == 2)
    refused = (503, "model_on_other_host")
    assert code(await ask(a)) == refused, "two wait already"
    waits[0].cancel()
    await a.proxy.until(lambda: len(a.proxy.state.flights) == 1)
    assert code(await ask(a, wait="0")) == refused, "it does not want to wait"
    assert not waits[1].done()
    waits[1].cancel()
    await until_idle([a])
