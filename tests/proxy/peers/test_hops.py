"""A request goes where there is room, its owner admits it, and a host harms its own alone."""

import asyncio
import dataclasses
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from partitiond.core.dispatch import peer_loads
from partitiond.core.dispatch.routing import ModelAvailability
from partitiond.proxy.peer_server import connection, server
from partitiond.proxy.peer_server.server import counts_of
from partitiond.proxy.peers import frames, known, link
from partitiond.proxy.peers.messages import Hello, encode
from tests.proxy.conftest import replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host, parts
from tests.proxy.scripted import (
    DONE,
    STREAM_HEAD,
    Received,
    Script,
    ScriptedEngine,
    Step,
    answer,
    chunk,
    completion,
    stream,
    text_event,
)
from tests.proxy.virtual import virtual_time

pytestmark = virtual_time


def holding(go: asyncio.Event) -> Script:
    """An engine that answers once it may."""

    def script(request: Received) -> list[Step]:
        if not request.body.get("stream"):
            return [go, *answer(completion())]
        begin = [STREAM_HEAD, chunk(text_event("a"))]
        return [*begin, go, *stream(text_event("b"), text_event("", "stop"), DONE)[1:]]

    return script


async def code(asked: Awaitable[httpx.Response]) -> tuple[int, str]:
    answered = await asked
    return answered.status_code, (answered.json().get("error") or {}).get("code", "")


async def until_received(count: int, *engines: ScriptedEngine) -> None:
    """Wait until the engines have had so many requests together."""
    async with asyncio.timeout(60):
        while sum(len(engine.received) for engine in engines) < count:  # noqa: ASYNC110 -- two
            await asyncio.sleep(0.005)


async def until_idle(hosts: list[Host]) -> None:
    for one in hosts:
        await one.proxy.until(one.is_idle)


async def test_the_client_gets_the_bytes_that_it_gets_on_the_replicas_host(make: Make) -> None:
    a, b, _ = await make.pair()
    for body in ({}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}):
        there, over = await b.proxy.complete(**body), await a.proxy.complete(**body)
        assert (over.status_code, over.content) == (there.status_code, there.content) != (0, b"")
        assert set(over.headers) == set(there.headers)
    await until_idle([a, b])


async def test_each_host_serves_the_models_of_both(make: Make) -> None:
    one, two = await make.engine(name="e1"), await make.engine(name="e2")
    routes = table(replica(one, "m-1"), replica(two, "n-1", model="n"), models=("m", "n"))
    hosts = await make.hosts(routes, {"a": ["m-1"], "b": ["n-1"]})
    for host in hosts:
        for model in ("m", "n"):
            assert (await host.proxy.complete(model=model)).status_code == 200
        async with host.proxy.client as client:
            listed = (await client.get("/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["m", "n"]
    assert len(one.received) == len(two.received) == 2


async def test_a_request_stays_at_home_while_there_is_room_and_goes_where_there_is(
    make: Make,
) -> None:
    go = asyncio.Event()
    home, away = await make.engine(holding(go), "e1"), await make.engine(holding(go), "e2")
    limit: dict[str, Any] = {"max_sequences": 2}
    routes = table(replica(home, "m-1", **limit), replica(away, "m-2", **limit))
    a, b = await make.hosts(routes, {"a": ["m-1"], "b": ["m-2"]})
    asked = []
    for count in range(1, 5):
        asked.append(asyncio.create_task(a.proxy.complete()))
        await until_received(count, home, away)
    assert (len(home.received), len(away.received)) == (2, 2)
    go.set()
    assert [(await one).status_code for one in asked] == [200] * 4
    await until_idle([a, b])


async def test_no_replica_has_more_than_its_limit_whoever_asks(make: Make) -> None:
    running = most = 0

    def script(_: Received) -> list[Step]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        return [0.01, *answer(completion())]

    engine = await make.engine(script)
    routes = table(replica(engine, max_sequences=3), max_queue=1000)
    hosts = await make.hosts(routes, {"a": [], "b": ["m-1"], "c": []})
    owner = hosts[1].proxy.state.models["m"].replicas["m-1"]

    async def ask(host: Host) -> None:
        nonlocal running
        assert (await host.proxy.complete()).status_code == 200
        running -= 1
        assert owner.sequences <= 3

    await asyncio.gather(*(ask(host) for host in hosts for _ in range(20)))
    assert len(engine.received) == 60
    await until_idle(hosts)


async def test_who_finds_no_place_waits_at_the_owner(make: Make) -> None:
    go = asyncio.Event()
    a, b, _ = await make.pair(holding(go), max_sequences=1)
    asked = [asyncio.create_task(a.proxy.complete()) for _ in range(3)]
    await b.proxy.until(lambda: b.proxy.state.queues() == {"m": 2})
    assert a.proxy.state.queues() == {"m": 0}
    go.set()
    assert [(await one).status_code for one in asked] == [200] * 3
    await until_idle([a, b])


async def test_what_the_owner_refuses_the_client_hears(make: Make) -> None:
    go = asyncio.Event()
    engine = await make.engine(holding(go))
    routes = table(replica(engine, max_sequences=1), max_wait_seconds=0.2)
    a, b = await make.hosts(routes, {"a": [], "b": ["m-1"]})
    first = asyncio.create_task(a.proxy.complete())
    await engine.until(lambda: len(engine.received) == 1)
    refused = await a.proxy.complete()
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] in {"queue_timeout", "wait_too_long"}
    assert int(refused.headers["retry-after"]) >= 1
    go.set()
    assert (await first).status_code == 200
    assert a.proxy.state.metrics.hops == {("b", "placed"): 1, ("b", "refused"): 1}
    await until_idle([a, b])


async def test_the_hosts_share_the_bound_of_the_queue(make: Make) -> None:
    go = asyncio.Event()
    engines = [await make.engine(holding(go), f"e{n}") for n in range(2)]
    routes = table(
        replica(engines[0], "m-1", max_sequences=1), replica(engines[1], "m-2", max_sequences=3),
        max_queue=8,
    )  # fmt: skip
    hosts = await make.hosts(routes, {"a": [], "b": ["m-1"], "c": ["m-2"]})
    known = {one.host: one for one in hosts[0].proxy.state.peers.listed("m")}
    assert {host: one.max_waiting for host, one in known.items()} == {"b": 2, "c": 6}
    asked = [asyncio.create_task(hosts[n % 3].proxy.complete()) for n in range(30)]
    owners = hosts[1:]
    await hosts[0].proxy.until(lambda: sum(task.done() for task in asked) == 30 - 4 - 8)
    assert [one.proxy.state.queues()["m"] for one in hosts] == [0, 2, 6]
    refused = {await code(task) for task in asked if task.done()}
    assert refused == {(429, "queue_full")}
    # The shares follow the table.
    drained = dataclasses.replace(routes.replicas[1], draining=True)
    parts(
        dataclasses.replace(routes, version=2, replicas=(routes.replicas[0], drained)),
        hosts, {"m-1": "b", "m-2": "c"},
    )  # fmt: skip
    assert owners[0].proxy.state.models["m"].slots.queue.max_entries == 8
    known = {one.host: one for one in hosts[0].proxy.state.peers.listed("m")}
    assert {host: one.max_waiting for host, one in known.items()} == {"b": 8, "c": 0}
    go.set()
    await asyncio.gather(*asked)
    await until_idle(hosts)


async def test_a_host_whose_counts_are_old_is_chosen_if_no_other_takes_the_request(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_loads, "SILENT_SECONDS", 60.0)
    monkeypatch.setattr(link, "DEAD_SECONDS", 60.0)
    go = asyncio.Event()
    mute, full = await make.engine(holding(go), "e1"), await make.engine(holding(go), "e2")
    limit: dict[str, Any] = {"max_sequences": 1}
    routes = table(replica(mute, "m-1", **limit), replica(full, "m-2", **limit), max_queue=4)
    a, b, c = await make.hosts(routes, {"a": [], "b": ["m-1"], "c": ["m-2"]})
    b.fall_silent()
    loads = {one.host: one for one in a.proxy.state.peers.listed("m")}
    await a.proxy.until(lambda: not loads["b"].is_fresh(time.monotonic()))
    asked = []
    for received, waiting in ((1, 0), (1, 1), (1, 2)):
        asked.append(asyncio.create_task(a.proxy.complete()))
        await full.until(lambda n=received: len(full.received) == n)  # type: ignore[misc]
        await c.proxy.until(lambda n=waiting: c.proxy.state.queues() == {"m": n})  # type: ignore[misc]
    assert mute.received == []
    asked.append(asyncio.create_task(a.proxy.complete()))
    await mute.until(lambda: len(mute.received) == 1)
    go.set()
    assert [(await one).status_code for one in asked] == [200] * 4
    await until_idle([a, b, c])


async def test_counts_that_were_long_on_their_way_are_old(make: Make) -> None:
    a, b, _ = await make.pair()
    b.fall_silent()
    (loads,) = a.proxy.state.peers.listed("m")
    (there,) = b.server.sockets
    before, now = loads.told_at, time.monotonic()
    there.tell(encode(counts_of(b.proxy.state, now)), now - 1.0)
    await a.proxy.until(lambda: loads.told_at != before)
    assert loads.told_at == pytest.approx(now - 1.0, abs=0.5)


async def test_what_was_sent_on_a_former_connection_is_forgotten_with_it(make: Make) -> None:
    a, b, engine = await make.pair(lambda _: ["hold"], options={"max_attempts": 1})
    (before,) = a.proxy.state.peers.listed("m")
    b.fall_silent()
    lost = asyncio.create_task(a.proxy.complete())
    await engine.until(lambda: len(engine.received) == 1)
    assert before.sequences_in_flight() == 1
    reset(b)
    assert (await lost).status_code == 502
    assert a.proxy.state.peers.serving("m") == set()
    await a.until_it_hears(1)
    (after,) = a.proxy.state.peers.listed("m")
    assert after is not before
    assert after.sequences_in_flight() == 0
    engine.script = lambda _: answer(completion())
    assert (await a.proxy.complete()).status_code == 200
    await until_idle([a, b])


@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_that_leaves_frees_the_place_at_the_owner(make: Make, streams: bool) -> None:
    a, b, engine = await make.pair(lambda _: ["hold"], max_sequences=1)
    runs = asyncio.create_task(a.proxy.complete(stream=streams))
    await engine.until(lambda: len(engine.received) == 1)
    waits = asyncio.create_task(a.proxy.complete())
    await b.proxy.until(lambda: b.proxy.state.queues() == {"m": 1})
    waits.cancel()
    await b.proxy.until(lambda: b.proxy.state.queues() == {"m": 0})
    assert a.proxy.state.metrics.hops == {("b", "placed"): 1, ("b", "withdrawn"): 1}
    runs.cancel()
    await engine.until(lambda: engine.left == 1)
    await until_idle([a, b])
    engine.script = lambda _: answer(completion())
    assert (await a.proxy.complete()).status_code == 200


async def test_a_request_that_waits_goes_where_room_is_first(make: Make) -> None:
    stuck, free = asyncio.Event(), asyncio.Event()
    home, away = await make.engine(holding(stuck), "e1"), await make.engine(holding(free), "e2")
    limit: dict[str, Any] = {"max_sequences": 1}
    routes = table(replica(home, "m-1", **limit), replica(away, "m-2", **limit))
    a, b = await make.hosts(routes, {"a": ["m-1"], "b": ["m-2"]})
    running = [asyncio.create_task(host.proxy.complete()) for host in (a, b)]
    await home.until(lambda: len(home.received) == 1)
    await away.until(lambda: len(away.received) == 1)
    waits = asyncio.create_task(a.proxy.complete())
    await a.proxy.until(lambda: a.proxy.state.queues()["m"] + b.proxy.state.queues()["m"] == 1)
    free.set()
    assert (await waits).status_code == 200
    assert (len(home.received), len(away.received)) == (1, 2)
    stuck.set()
    assert [(await one).status_code for one in running] == [200, 200]
    await until_idle([a, b])


async def test_who_waits_for_a_model_to_wake_is_served_where_it_wakes(make: Make) -> None:
    asleep = table(availability=ModelAvailability.SLEEPING, holds=True)
    hosts = await make.hosts(asleep, {"a": [], "b": []})
    asked = asyncio.create_task(hosts[0].proxy.complete())
    await hosts[0].proxy.until(lambda: hosts[0].proxy.state.queues() == {"m": 1})
    awake = table(replica(await make.engine()), version=2)
    parts(awake, hosts, {"m-1": "b"})
    assert (await asked).status_code == 200
    await until_idle(hosts)


async def test_a_proxy_that_has_heard_nothing_yet_lets_a_request_wait_for_it(make: Make) -> None:
    routes = table(replica(await make.engine()))
    a, b = await make.hosts(routes, {"a": [], "b": ["m-1"]})
    parts(dataclasses.replace(routes, version=2), [a], {"m-1": "b"})  # b is no peer any more
    assert (await code(a.proxy.complete())) == (503, "model_on_other_host")
    parts(dataclasses.replace(routes, version=3), [a, b], {"m-1": "b"})
    assert (await a.proxy.complete()).status_code == 200


def reached(host: Host) -> tuple[dict[str, bool], str]:
    """Which other hosts it reaches, as the head is told and as metrics have it."""
    lines = host.proxy.state.metrics.text().decode().splitlines()
    gauge = next(one for one in lines if one.startswith("partitiond_proxy_peer_reached"))
    return host.proxy.state.traffic()["peers"], gauge


async def test_a_model_on_hosts_out_of_reach_is_refused_with_what_to_do(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "LEARN_SECONDS", 0.05)
    a, b, _ = await make.pair()
    assert reached(a) == ({"b": True}, 'partitiond_proxy_peer_reached{peer="b"} 1.0')
    b.server.close()
    await a.until_it_hears(0)
    assert reached(a) == ({"b": False}, 'partitiond_proxy_peer_reached{peer="b"} 0.0')
    refused = await a.proxy.complete()
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["code"] == "model_on_other_host"
    assert "does not reach at the moment" in refused.json()["error"]["message"]
    await until_idle([a, b])


async def test_a_host_that_ends_takes_no_new_requests_and_finishes_what_runs(make: Make) -> None:
    go = asyncio.Event()
    one, two = await make.engine(holding(go), "e1"), await make.engine(name="e2")
    routes = table(replica(one, "m-1"), replica(two, "m-2"))
    a, b, c = await make.hosts(routes, {"a": [], "b": ["m-1"], "c": []})
    running = asyncio.create_task(a.proxy.stream_text())
    await one.until(lambda: len(one.received) == 1)
    b.server.leave()
    parts(dataclasses.replace(routes, version=2), [a, c], {"m-1": "b", "m-2": "c"})
    assert (await a.proxy.complete()).status_code == 200
    assert len(two.received) == 1
    go.set()
    assert (await running).endswith("data: [DONE]\n\n")
    await until_idle([a, c])


async def test_what_runs_on_a_host_that_leaves_takes_its_time(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PING_SECONDS", 0.02)
    monkeypatch.setattr(connection, "DEAD_SECONDS", 0.2)
    go = asyncio.Event()
    a, b, engine = await make.pair(holding(go))
    running = asyncio.create_task(a.proxy.stream_text())
    await engine.until(lambda: len(engine.received) == 1)
    (there,) = b.server.sockets
    b.server.leave()
    await a.proxy.until(lambda: not a.proxy.state.peers.heard())
    until = time.monotonic() + 0.5
    await a.proxy.until(lambda: there.closed or there.heard_at > until)
    assert not a.proxy.state.peers.heard()  # what it tells there counts no more
    assert a.proxy.state.peers.serving("m") == set()
    go.set()
    assert (await running).count('"text":') == 3
    await b.proxy.until(lambda: not b.server.sockets)
    await until_idle([a, b])


async def test_time_limits_hold_at_an_owner_that_has_no_clients(make: Make) -> None:
    a, b, _ = await make.pair(lambda _: ["hold"])
    b.proxy.state.options = dataclasses.replace(
        b.proxy.state.options, first_token_timeout_seconds=0.01, max_attempts=1
    )
    lost = await a.proxy.complete(stream=True)
    assert lost.status_code == 504
    assert lost.json()["error"]["code"] == "upstream_first_token_timeout"
    await until_idle([a, b])


Break = Callable[[Host], None]


def reset(host: Host) -> None:
    for one in list(host.server.sockets):
        one.close("is ended by a test")


def lie(host: Host) -> None:
    for one in list(host.server.sockets):
        one.send(frames.COUNTS, 0, b"\0\0\0\0 no counts")


def babble(host: Host) -> None:
    for one in list(host.server.sockets):
        one.send(frames.HEAD, 1, b"no head")


@pytest.mark.parametrize("harm", [reset, lie, babble])
async def test_a_peer_that_breaks_ends_its_own_streams_alone(make: Make, harm: Break) -> None:
    go = asyncio.Event()
    begun: list[Step] = [STREAM_HEAD, chunk(text_event("a")), "hold"]
    bad, good = await make.engine(lambda _: begun, "e1"), await make.engine(holding(go), "e2")
    routes = table(replica(bad, "m-1"), replica(good, "n-1", model="n"), models=("m", "n"))
    a, b, c = await make.hosts(routes, {"a": [], "b": ["m-1"], "c": ["n-1"]})
    loses = asyncio.create_task(a.proxy.stream_text())
    goes_on = asyncio.create_task(a.proxy.stream_text(model="n"))
    await until_received(2, bad, good)
    await a.proxy.until(lambda: sum(one.answer.streaming for one in a.proxy.exchanges()) == 2)
    harm(b)
    lost = await loses
    assert json.loads(lost.split("\n\n")[-3].removeprefix("data: "))["error"]["code"]
    assert lost.endswith("data: [DONE]\n\n")
    await bad.until(lambda: bad.left == 1)
    go.set()
    assert (await goes_on).count('"text":') == 3
    await a.until_it_hears(2)  # it is back
    bad.script = lambda _: answer(completion())
    assert (await a.proxy.complete()).status_code == 200
    text = a.proxy.state.metrics.text().decode()
    assert 'partitiond_proxy_hops_total{outcome="placed",peer="c"} 1.0' in text
    await until_idle([a, b, c])


async def test_what_no_client_has_seen_yet_is_sent_to_another_host(make: Make) -> None:
    first, second = await make.engine(lambda _: ["hold"], "e1"), await make.engine(name="e2")
    routes = table(replica(first, "m-1"), replica(second, "m-2", draining=True))
    a, b, c = await make.hosts(routes, {"a": [], "b": ["m-1"], "c": ["m-2"]}, retry_share=1.0)
    asked = asyncio.create_task(a.proxy.stream_text())
    await first.until(lambda: len(first.received) == 1)
    both = table(replica(first, "m-1"), replica(second, "m-2"), version=2)
    parts(both, [a, b, c], {"m-1": "b", "m-2": "c"})
    await a.proxy.until(lambda: a.proxy.state.peers.serving("m") == {"b", "c"})
    reset(b)
    assert (await asked).endswith("data: [DONE]\n\n")
    assert len(second.received) == 1
    await until_idle([a, c])


async def test_large_bodies_of_other_hosts_are_bounded_together(make: Make) -> None:
    go = asyncio.Event()
    a, b, engine = await make.pair(holding(go))
    state = b.proxy.state
    state.options = dataclasses.replace(state.options, max_bodies_bytes=150_000)
    large = "x" * 100_000
    first = asyncio.create_task(a.proxy.complete(prompt=large))
    await engine.until(lambda: len(engine.received) == 1)
    assert (await code(a.proxy.complete(prompt=large))) == (503, "bodies_full")
    small = asyncio.create_task(a.proxy.complete())
    await engine.until(lambda: len(engine.received) == 2)
    go.set()
    assert [(await one).status_code for one in (first, small)] == [200, 200]
    await until_idle([a, b])
    assert state.body_bytes == 0
    leaves = asyncio.create_task(a.proxy.complete(prompt=large))
    await engine.until(lambda: len(engine.received) == 3)
    leaves.cancel()
    await b.proxy.until(lambda: state.body_bytes == 0)


async def test_one_host_has_only_so_many_connections(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, _ = await make.pair()
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 2)
    hello = frames.frame(frames.HELLO, 0, encode(Hello(1, "a")))
    kept = []
    for _ in range(2):
        reader, writer = await asyncio.open_unix_connection(b.route.address.removeprefix("unix:"))
        writer.write(hello)
        await reader.readexactly(frames.HEADER_BYTES)
        kept.append((reader, writer))
    await b.proxy.until(lambda: len(b.server.sockets) == 2)
    await kept[1][0].read()  # the second one ends
    assert (await a.proxy.complete()).status_code == 200
    for _, writer in kept:
        writer.close()


async def test_a_stranger_is_not_served(folder: Path, make: Make) -> None:
    _, b, engine = await make.pair()
    path = b.route.address.removeprefix("unix:")
    for said in (
        encode(Hello(1, "stranger")),
        encode(Hello(2, "a")),
        encode(Hello(1, "")),
        b"",
        b"no hello",
    ):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(frames.frame(frames.HELLO, 0, said))
        writer.write(frames.frame(frames.OPEN, 1, b"\0\0\0\0"))
        greeting = await reader.readexactly(frames.HEADER_BYTES)
        await reader.readexactly(frames.HEADER.unpack(greeting)[0])
        assert await reader.read() == b""
        writer.close()
    assert engine.received == []
