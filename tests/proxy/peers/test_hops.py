"""A request goes where there is room, its owner admits it, and a host harms its own alone."""

import asyncio
import dataclasses
import json
from typing import Any

import pytest

from partitiond.proxy.peers import host
from partitiond.proxy.peers.hop import head_lines
from partitiond.proxy.peers.messages import PROTOCOL
from tests.proxy.conftest import error_of, replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host, parts
from tests.proxy.peers.liar import LyingEntry
from tests.proxy.scripted import (
    DONE,
    STREAM_HEAD,
    Received,
    Script,
    Step,
    answer,
    chunk,
    completion,
    plays,
    stream,
    text_event,
)
from tests.proxy.virtual import running_loop, virtual_time

pytestmark = virtual_time


def holding(go: asyncio.Event) -> Script:
    """An engine that answers once it may."""

    def script(request: Received) -> list[Step]:
        if not request.body.get("stream"):
            return [go, *answer(completion())]
        begin = [STREAM_HEAD, chunk(text_event("a"))]
        return [*begin, go, *stream(text_event("b"), text_event("", "stop"), DONE)[1:]]

    return script


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
        await a.proxy.until(
            lambda count=count: len(home.received) + len(away.received) == count  # type: ignore[misc]
        )
    assert (len(home.received), len(away.received)) == (2, 2)
    go.set()
    assert [(await one).status_code for one in asked] == [200] * 4
    await until_idle([a, b])


@pytest.mark.parametrize("within", [60.0, 0.2])
async def test_who_finds_no_place_waits_at_the_owner_and_hears_its_refusal(
    make: Make, within: float
) -> None:
    go = asyncio.Event()
    route = {"max_wait_seconds": within}
    a, b, engine = await make.pair(holding(go), max_sequences=1, route=route)
    first = a.proxy.ask()
    await engine.got(1)
    waits = a.proxy.ask()
    await b.proxy.until(lambda: b.proxy.state.queues() == {"m": 1} or waits.done())
    assert a.proxy.state.queues() == {"m": 0}
    if within < 1:
        refused = await waits
        assert error_of(refused)[1] in {"queue_timeout", "wait_too_long"}
        assert int(refused.headers["retry-after"]) >= 1
        assert a.proxy.state.metrics.hops == {("b", "placed"): 1, ("b", "refused"): 1}
    go.set()
    assert (await first).status_code == 200
    assert (await waits).status_code == (429 if within < 1 else 200)
    await until_idle([a, b])


async def test_tokenising_takes_no_slot_of_another_host(make: Make) -> None:
    go = asyncio.Event()
    a, b, engine = await make.pair(holding(go), max_sequences=1)
    asked = [asyncio.create_task(a.proxy.complete("/tokenize")) for _ in range(2)]
    await engine.got(2)
    (there,) = b.proxy.state.models["m"].replicas.values()
    assert (there.sequences, there.kv_tokens, there.tokenising.sequences) == (0, 0, 2)
    assert there.tokenising.kv_tokens == 2 * len('{"model":"m","prompt":"hi"}')
    go.set()
    assert [(await one).status_code for one in asked] == [200] * 2
    await until_idle([a, b])


async def test_the_hosts_share_the_bound_of_the_queue(make: Make) -> None:
    """The shares follow the table."""
    one, two = await make.engine(name="e1"), await make.engine(name="e2")
    routes = replica(one, "m-1", max_sequences=1), replica(two, "m-2", max_sequences=3)
    hosts = await make.hosts(table(*routes, max_queue=8), {"a": [], "b": ["m-1"], "c": ["m-2"]})

    def shares() -> dict[str, int]:
        return {one.host: one.max_waiting for one in hosts[0].listed("m")}

    assert shares() == {"b": 2, "c": 6}
    drained = routes[0], dataclasses.replace(routes[1], draining=True)
    parts(table(*drained, max_queue=8, version=2), hosts, {"m-1": "b", "m-2": "c"})
    assert hosts[1].proxy.state.models["m"].slots.queue.max_entries == 8
    assert shares() == {"b": 8, "c": 0}


def code_of(text: str) -> str:
    """The code of the error event that a stream ended with."""
    assert text.endswith("data: [DONE]\n\n")
    return str(json.loads(text.split("\n\n")[-3].removeprefix("data: "))["error"]["code"])


async def streaming(entry: Host, count: int) -> None:
    """Wait until so many streams have begun."""
    asked = entry.proxy.exchanges
    await entry.proxy.until(lambda: sum(one.answer.streaming for one in asked()) == count)


async def test_a_host_that_falls_silent_ends_its_streams_at_both_sides(make: Make) -> None:
    """And no others; one that speaks again in time ends none."""
    go = asyncio.Event()
    far, near = await make.engine(holding(go), "e1"), await make.engine(holding(go), "e2")
    routes = table(replica(far, "m-1"), replica(near, "n-1", model="n"), models=("m", "n"))
    hosts = a, b, _ = await make.hosts(routes, {"a": [], "b": ["m-1"], "c": ["n-1"]})
    lost = asyncio.create_task(a.proxy.stream_text())
    goes_on = asyncio.create_task(a.proxy.stream_text(model="n"))
    await streaming(a, 2)
    b.fall_silent()
    for seconds in (host.DEAD_SECONDS / 2, host.DEAD_SECONDS):
        later = running_loop().time() + seconds
        await a.proxy.until(lambda at=later: running_loop().time() >= at)  # type: ignore[misc]
        b.server._keep_time()
    assert not lost.done()
    b.fall_silent()
    assert code_of(await lost) == "upstream_reset"
    await b.proxy.until(b.is_idle)
    go.set()
    await a.until_it_hears(2)
    assert (await a.proxy.complete()).status_code == 200
    assert (await goes_on).count('"text":') == 3
    await until_idle(hosts)


@pytest.mark.parametrize("begun", [True, False])
async def test_a_reset_frees_the_places_at_both_sides(make: Make, begun: bool) -> None:
    """What was sent on a former connection is forgotten with it."""
    go = asyncio.Event()
    a, b, engine = await make.pair(holding(go))
    (before,) = a.listed("m")
    asked = [a.proxy.ask(stream=begun) for _ in range(5)]
    await engine.got(5)
    await streaming(a, 5 * begun)
    assert before.sequences_in_flight() == 5
    b.reset()
    for one in asked:
        answered = await one
        if begun:
            assert code_of(answered.text) == "upstream_reset"
        else:
            assert answered.status_code == 502
    assert a.serving("m") == set()
    go.set()
    await a.until_it_hears(1)
    (after,) = a.listed("m")
    assert after is not before
    assert after.sequences_in_flight() == 0
    assert (await a.proxy.complete()).status_code == 200
    await until_idle([a, b])


@pytest.mark.parametrize("streams", [True, False])
async def test_a_client_that_leaves_frees_the_place_at_the_owner(make: Make, streams: bool) -> None:
    a, b, engine = await make.pair(plays("hold"), max_sequences=1)
    runs = a.proxy.ask(stream=streams)
    await engine.got(1)
    waits = a.proxy.ask()
    await b.proxy.queued(1)
    waits.cancel()
    await b.proxy.queued(0)
    assert a.proxy.state.metrics.hops == {("b", "placed"): 1, ("b", "withdrawn"): 1}
    runs.cancel()
    await engine.until(lambda: engine.left == 1)
    await until_idle([a, b])
    engine.script = plays(*answer(completion()))
    assert (await a.proxy.complete()).status_code == 200


async def test_a_request_that_waits_goes_where_room_is_first(make: Make) -> None:
    stuck, free = asyncio.Event(), asyncio.Event()
    home, away = await make.engine(holding(stuck), "e1"), await make.engine(holding(free), "e2")
    limit: dict[str, Any] = {"max_sequences": 1}
    routes = table(replica(home, "m-1", **limit), replica(away, "m-2", **limit))
    a, b = await make.hosts(routes, {"a": ["m-1"], "b": ["m-2"]})
    running = [host.proxy.ask() for host in (a, b)]
    await home.got(1)
    await away.got(1)
    waits = a.proxy.ask()
    await a.proxy.until(lambda: a.proxy.state.queues()["m"] + b.proxy.state.queues()["m"] == 1)
    free.set()
    assert (await waits).status_code == 200
    assert (len(home.received), len(away.received)) == (1, 2)
    stuck.set()
    assert [(await one).status_code for one in running] == [200, 200]
    await until_idle([a, b])


async def test_a_model_on_hosts_out_of_reach_is_refused_with_what_to_do(make: Make) -> None:
    """A proxy that has heard nothing yet lets a request wait for it."""
    a, b, engine = await make.pair()
    routes = table(replica(engine), version=2)
    parts(routes, [a], {"m-1": "b"})  # b is no peer any more
    assert error_of(await a.proxy.complete()) == (503, "model_on_other_host")
    parts(dataclasses.replace(routes, version=3), [a, b], {"m-1": "b"})
    assert (await a.proxy.complete()).status_code == 200

    def reached() -> tuple[object, float]:
        gauge = a.proxy.metric("partitiond_proxy_peer_reached", peer="b")
        return a.proxy.state.traffic()["peers"], gauge

    assert reached() == ({"b": True}, 1.0)
    b.server.close()
    await a.until_it_hears(0)
    assert reached() == ({"b": False}, 0.0)
    refused = await a.proxy.complete()
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["code"] == "model_on_other_host"
    assert "does not reach at the moment" in refused.json()["error"]["message"]
    await until_idle([a, b])


async def test_a_host_that_ends_takes_no_new_requests_and_finishes_what_runs(make: Make) -> None:
    """Which takes its time: longer than a silent host is believed to live."""
    go = asyncio.Event()
    one, two = await make.engine(holding(go), "e1"), await make.engine(name="e2")
    routes = table(replica(one, "m-1"), replica(two, "m-2"))
    a, b, c = await make.hosts(routes, {"a": [], "b": ["m-1"], "c": []})
    running = asyncio.create_task(a.proxy.stream_text())
    await one.got(1)
    b.server.leave()
    await a.proxy.until(lambda: a.heard() == ["c"])
    parts(dataclasses.replace(routes, version=2), [a, c], {"m-1": "b", "m-2": "c"})
    assert (await a.proxy.complete()).status_code == 200
    assert len(two.received) == 1
    await asyncio.sleep(2 * host.DEAD_SECONDS)
    assert a.heard() == ["c"]  # what b tells there counts no more
    assert a.serving("m") == {"c"}
    go.set()
    assert (await running).count('"text":') == 3
    await b.proxy.until(lambda: not any(one.peer == "a" for one in b.server.connections))
    await until_idle([a, c])


async def test_what_no_client_has_seen_yet_is_sent_to_another_host(make: Make) -> None:
    first, second = await make.engine(plays("hold"), "e1"), await make.engine(name="e2")
    routes = table(replica(first, "m-1"), replica(second, "m-2", draining=True))
    a, b, c = await make.hosts(routes, {"a": [], "b": ["m-1"], "c": ["m-2"]}, retry_share=1.0)
    asked = asyncio.create_task(a.proxy.stream_text())
    await first.got(1)
    both = table(replica(first, "m-1"), replica(second, "m-2"), version=2)
    parts(both, [a, b, c], {"m-1": "b", "m-2": "c"})
    await a.proxy.until(lambda: a.serving("m") == {"b", "c"})
    b.reset()
    assert (await asked).endswith("data: [DONE]\n\n")
    assert len(second.received) == 1
    await until_idle([a, c])


async def test_a_stranger_and_another_version_are_not_served(make: Make) -> None:
    a, b, engine = await make.pair()
    kept = []
    for host_name, version, is_let_in in (
        ("stranger", PROTOCOL, False), ("a", PROTOCOL - 1, False), ("a", PROTOCOL + 1, False),
        ("", PROTOCOL, False), ("a", PROTOCOL, True), ("a", PROTOCOL, True),
    ):  # fmt: skip
        caller = await LyingEntry.call(b)
        kept.append(caller)
        lines = head_lines(host_name).replace(b"protocol: %d" % PROTOCOL, b"protocol: %d" % version)
        caller.writer.write(b"GET /load HTTP/1.1\r\n" + lines + b"\r\n")
        if is_let_in:
            assert b"200 OK" in await caller.head()
        else:
            assert (await caller.failed()).refused
            await caller.ended()
    assert engine.received == []
    for caller in kept:
        caller.writer.close()
    assert (await a.proxy.complete()).status_code == 200


async def test_a_route_that_an_engine_of_another_host_lacks_is_told_and_not_retried(
    make: Make,
) -> None:
    entry, _, engine = await make.pair(plays(*answer({"detail": "Not Found"}, 404, "Not Found")))
    for path in ("/v1/messages", "/v1/responses"):
        assert error_of(await entry.proxy.complete(path)) == (404, "route_not_supported")
    assert len(engine.received) == 2
