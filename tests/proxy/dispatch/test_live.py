"""Admission through the proxy keeps order and deadlines, and refuses with an honest time."""

import asyncio
import hashlib
import json
import socket
import time
from pathlib import Path

import httpx
import openai
import pytest

from partitiond.core.dispatch.routing import KeyRoute, ModelAvailability
from tests.machine import in_time
from tests.proxy.conftest import MakeEngine, MakeProxy, Proxy, replica, table
from tests.proxy.scripted import (
    DONE,
    STREAM_HEAD,
    Received,
    Step,
    answer,
    chunk,
    completion,
    text_event,
)


class Gate:
    """An engine script whose requests end when told, in the order they came."""

    def __init__(self) -> None:
        self.events: list[asyncio.Event] = []

    def __call__(self, _: Received) -> list[Step]:
        self.events.append(asyncio.Event())
        return [self.events[-1], *answer(completion())]

    async def release_all(self) -> None:
        for event in self.events:
            event.set()


async def test_no_replica_gets_more_than_its_limit_and_the_queue_keeps_its_order(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    gate = Gate()
    engine = await make_engine(gate)
    proxy = await make_proxy(table(replica(engine, max_sequences=2)))
    requests: list[asyncio.Task[httpx.Response]] = []

    async def sent(count: int) -> None:
        await engine.until(lambda: len(engine.received) == min(2 + count, len(requests)))

    async def waiting(count: int) -> None:
        await proxy.until(lambda: proxy.state.queues() == {"m": count})

    for number in range(6):
        requests.append(asyncio.create_task(proxy.complete(prompt=str(number))))
        await sent(0)
        await waiting(max(0, number - 1))
    for done in range(6):
        assert proxy.state.in_flight()["m-1"] <= 2
        gate.events[done].set()
        await requests[done]
        await sent(done + 1)
    assert [r.body["prompt"] for r in engine.received] == ["0", "1", "2", "3", "4", "5"]
    assert proxy.idle()


async def test_sequences_count_not_requests(make_proxy: MakeProxy, make_engine: MakeEngine) -> None:
    gate = Gate()
    engine = await make_engine(gate)
    proxy = await make_proxy(table(replica(engine, max_sequences=4)))
    first = asyncio.create_task(proxy.complete(prompt=["a", "b", "c"]))
    await engine.until(lambda: len(engine.received) == 1)
    second = asyncio.create_task(proxy.complete(n=2))
    await proxy.until(lambda: proxy.state.queues() == {"m": 1})
    gate.events[0].set()
    await first
    await engine.until(lambda: len(engine.received) == 2)
    await gate.release_all()
    assert (await second).status_code == 200


async def test_kv_tokens_bound_what_sequences_would_allow(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    gate = Gate()
    engine = await make_engine(gate)
    proxy = await make_proxy(table(replica(engine, kv_cache_tokens=300)))
    first = asyncio.create_task(proxy.complete(prompt=[1] * 100, max_tokens=100))
    await engine.until(lambda: len(engine.received) == 1)
    second = asyncio.create_task(proxy.complete(prompt=[1] * 100, max_tokens=100))
    await proxy.until(lambda: proxy.state.queues() == {"m": 1})
    gate.events[0].set()
    await first
    await engine.until(lambda: len(engine.received) == 2)
    await gate.release_all()
    assert (await second).status_code == 200


async def test_a_full_queue_is_429_with_retry_after(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    gate = Gate()
    engine = await make_engine(gate)
    proxy = await make_proxy(
        table(replica(engine, max_sequences=1, service_seconds=7.0), max_queue=1)
    )
    running = asyncio.create_task(proxy.complete())
    await engine.until(lambda: len(engine.received) == 1)
    waiting = asyncio.create_task(proxy.complete())
    await proxy.until(lambda: proxy.state.queues() == {"m": 1})
    async with proxy.openai() as client:
        with pytest.raises(openai.RateLimitError) as raised:
            await client.completions.create(model="m", prompt="x")
    assert raised.value.code == "queue_full"
    assert raised.value.response.headers["retry-after"] == "14", "one waits, one slot, 7 s each"
    gate.events[0].set()
    await running
    await engine.until(lambda: len(gate.events) == 2)
    await gate.release_all()
    assert (await waiting).status_code == 200


async def test_a_request_that_cannot_start_in_time_is_refused_at_once(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    gate = Gate()
    engine = await make_engine(gate)
    proxy = await make_proxy(
        table(replica(engine, max_sequences=1, service_seconds=50.0), max_wait_seconds=10)
    )
    running = asyncio.create_task(proxy.complete())
    await engine.until(lambda: len(engine.received) == 1)
    started = time.monotonic()
    refused = await proxy.complete()
    assert in_time(time.monotonic() - started, 5.0, starts=10)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "wait_too_long"
    assert refused.headers["retry-after"] == "50"
    await gate.release_all()
    await running


async def test_a_deadline_that_passes_in_the_queue_is_429(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    gate = Gate()
    engine = await make_engine(gate)
    proxy = await make_proxy(
        table(replica(engine, max_sequences=1, service_seconds=0.1), max_wait_seconds=0.2)
    )
    running = asyncio.create_task(proxy.complete())
    await engine.until(lambda: len(engine.received) == 1)
    late = await proxy.complete()
    assert (late.status_code, late.json()["error"]["code"]) == (429, "queue_timeout")
    assert late.headers["retry-after"] == "1"
    assert len(engine.received) == 1
    await gate.release_all()
    assert (await running).status_code == 200


async def test_the_total_limit_holds_for_who_waits_too(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    go = asyncio.Event()

    def endless(request: Received) -> list[Step]:
        return [STREAM_HEAD, chunk(text_event("begun")), go, chunk(DONE), b"0\r\n\r\n"]

    engine = await make_engine(endless)
    routes = table(
        replica(engine, max_sequences=1, service_seconds=0.01),
        max_wait_seconds=600,
    )
    proxy = await make_proxy(routes, total_timeout_seconds=0.3)
    async with asyncio.timeout(120):
        running = asyncio.create_task(proxy.stream_text())
        await engine.until(lambda: len(engine.received) == 1)
        # The first one's limit passes earlier; its place must not come free for the second.
        (first,) = proxy.exchanges()
        first._deadline += 60
        late = await proxy.complete()
        assert (late.status_code, late.json()["error"]["code"]) == (504, "upstream_total_timeout")
        assert proxy.state.queues() == {"m": 0}
        go.set()
        await running
    assert len(engine.received) == 1
    assert proxy.idle()


def raw_request(key: str, body: bytes) -> bytes:
    return (
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n" % (key.encode(), len(body))
    ) + body


async def test_who_loses_its_place_while_it_takes_another_ones_is_told_at_once(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    """B's second request takes the place of A's third; behind that, on the same connection, comes
    C's first, which takes the place that B has just taken."""
    gate = Gate()
    engine = await make_engine(gate)
    keys = tuple(KeyRoute(k, hashlib.sha256(k.encode()).hexdigest()) for k in ("a", "b", "c"))
    routes = table(
        replica(engine, max_sequences=1, service_seconds=0.01),
        keys=keys,
        keys_required=True,
        max_queue=4,
        max_wait_seconds=600,
    )
    proxy = await make_proxy(routes)
    body = json.dumps({"model": "m", "prompt": "x"}).encode()
    connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(data: bytes, waiting: int) -> asyncio.StreamReader:
        connections.append(await asyncio.open_connection("127.0.0.1", proxy.port))
        connections[-1][1].write(data)
        await proxy.until(lambda: proxy.state.queues() == {"m": waiting})
        return connections[-1][0]

    async with asyncio.timeout(120):
        await send(raw_request("a", body), 0)
        await engine.until(lambda: len(engine.received) == 1)
        await send(raw_request("a", body), 1)
        await send(raw_request("a", body), 2)
        twice = await send(raw_request("a", body) + raw_request("c", body), 3)
        await send(raw_request("b", body), 4)
        answer = await send(raw_request("b", body), 4)
        for reader in (twice, answer):
            assert (await reader.readline()).startswith(b"HTTP/1.1 429 ")
        assert proxy.state.queues() == {"m": 4}
    for _, writer in connections:
        writer.transport.abort()
    await proxy.until(proxy.idle)


async def test_a_client_that_sends_on_but_takes_no_answers_is_not_answered_on(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    large = completion("x" * 8_000_000)
    engine = await make_engine(lambda _: answer(large))
    proxy = await make_proxy(table(replica(engine)))
    body = json.dumps({"model": "m", "prompt": "x"}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=1024)
    writer.write(raw_request("none", body) * 8)
    await proxy.until(lambda: any(exchange.paused for exchange in proxy.exchanges()))
    (connection,) = proxy.lanes()
    assert connection.transport.get_write_buffer_size() < 20_000_000
    async with asyncio.timeout(120):
        length = 0
        while length < 8 * 8_000_000:
            length += len(await reader.read(1 << 20))
    await proxy.until(proxy.idle)
    assert len(engine.received) == 8
    writer.transport.abort()


async def test_refusals_that_nobody_reads_do_not_fill_memory(make_proxy: MakeProxy) -> None:
    proxy = await make_proxy(table())
    count = 20_000
    taking = socket.socket()
    taking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    taking.connect(("127.0.0.1", proxy.port))
    reader, writer = await asyncio.open_connection(sock=taking, limit=1024)
    # Mostly body, so that what is read at once ends in the middle of one.
    writer.write(raw_request("none", b'{"x":"%b"}' % (b"x" * 1000)) * count)
    await proxy.until(lambda: any(one.flow.read_paused for one in proxy.lanes()))
    (connection,) = proxy.lanes()
    assert connection.transport.get_write_buffer_size() < 2_000_000
    told = 0
    async with asyncio.timeout(120):
        while told < count:
            told += (await reader.readuntil(b"}}")).count(b"HTTP/1.1 400 ")
    writer.transport.abort()


async def test_who_waits_for_replicas_that_are_gone_is_told(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    gate = Gate()
    engine = await make_engine(gate)
    route = replica(engine, max_sequences=1)
    proxy = await make_proxy(table(route))
    running = asyncio.create_task(proxy.complete())
    await engine.until(lambda: len(engine.received) == 1)
    waiting = asyncio.create_task(proxy.complete())
    await proxy.until(lambda: proxy.state.queues() == {"m": 1})
    proxy.state.apply(table(version=2, availability=ModelAvailability.STARTING))
    refused = await waiting
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_starting")
    await gate.release_all()
    assert (await running).status_code == 200


async def test_who_waits_starts_when_a_replica_comes(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    gate = Gate()
    full, fresh = await make_engine(gate, "full"), await make_engine(name="fresh")
    route = replica(full, max_sequences=1)
    proxy = await make_proxy(table(route), debug_headers="always")
    running = asyncio.create_task(proxy.complete())
    await full.until(lambda: len(full.received) == 1)
    waiting = asyncio.create_task(proxy.complete())
    await proxy.until(lambda: proxy.state.queues() == {"m": 1})
    proxy.state.apply(table(route, replica(fresh, "m-2"), version=2))
    assert (await waiting).headers["x-partitiond-replica"] == "m-2"
    await gate.release_all()
    await running


async def test_requests_spread_by_share_of_the_limit(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    gates = [Gate(), Gate()]
    engines = [await make_engine(gate, f"e{i}") for i, gate in enumerate(gates)]
    proxy = await make_proxy(
        table(
            replica(engines[0], "small", max_sequences=2),
            replica(engines[1], "large", max_sequences=6),
        )
    )
    requests = [asyncio.create_task(proxy.complete()) for _ in range(8)]
    await engines[0].until(lambda: len(engines[0].received) == 2)
    await engines[1].until(lambda: len(engines[1].received) == 6)
    for gate in gates:
        await gate.release_all()
    assert all(r.status_code == 200 for r in await asyncio.gather(*requests))


async def test_a_replica_that_keeps_failing_is_left_out_for_a_while(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    bad = await make_engine(lambda _: ["reset"], "bad")
    good = await make_engine(name="good")
    proxy = await make_proxy(
        table(replica(bad, "bad", max_sequences=100), replica(good, "good", max_sequences=1))
    )
    for _ in range(20):
        assert (await proxy.complete()).status_code == 200
    assert len(bad.received) < 10
    assert proxy.state.models["m"].replicas["bad"].health.ejections >= 1
    metrics = proxy.state.metrics.text().decode()
    assert 'partitiond_proxy_upstream_failures_total{kind="reset",replica="bad"}' in metrics


async def test_a_slow_client_slows_its_own_stream_and_memory_stays_bounded(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    piece = chunk(text_event("x" * 60_000))
    flood = [STREAM_HEAD, *[piece] * 2000, chunk(DONE), b"0\r\n\r\n"]
    engine = await make_engine(lambda _: list(flood))
    proxy = await make_proxy(table(replica(engine)))
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=4096)
    body = json.dumps({"model": "m", "prompt": "x", "stream": True}).encode()
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % len(body) + body
    )
    await reader.readline()
    before = -1
    while before != engine.steps:  # until nothing moves any more
        before = engine.steps
        await asyncio.sleep(0.3)
    # Two socket buffers on each side, and two times 64 KiB in between: far below 120 MB.
    assert engine.steps * len(piece) < 40_000_000
    writer.transport.abort()
    await engine.until(lambda: engine.left == 1)
    await proxy.until(proxy.idle)


async def test_a_client_that_takes_nothing_is_let_go(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    flood = [STREAM_HEAD, *[chunk(text_event("x" * 60_000))] * 2000, chunk(DONE), b"0\r\n\r\n"]
    engine = await make_engine(lambda _: list(flood))
    proxy = await make_proxy(table(replica(engine)), client_timeout_seconds=0.3)
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=1024)
    body = json.dumps({"model": "m", "prompt": "x", "stream": True}).encode()
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % len(body) + body
    )
    await engine.until(lambda: engine.left == 1)
    await proxy.until(proxy.idle)
    assert json.loads(proxy.log_lines[0])["error"] == "client_stalled"
    writer.close()


async def flooded(proxy: Proxy) -> asyncio.StreamWriter:
    """A client that asks for a stream and then takes nothing; keep it, it stays connected."""
    _, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=1024)
    body = json.dumps({"model": "m", "prompt": "x", "stream": True}).encode()
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n" % len(body) + body
    )
    return writer


FLOOD: list[Step] = [STREAM_HEAD, *[chunk(text_event("x" * 60_000))] * 2000, "hold"]


async def test_the_total_limit_frees_the_place_of_a_client_that_takes_nothing(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(lambda _: list(FLOOD))
    proxy = await make_proxy(
        table(replica(engine)), client_timeout_seconds=60, total_timeout_seconds=0.5
    )
    writer = await flooded(proxy)
    await engine.until(lambda: engine.left == 1)
    await proxy.until(proxy.idle)
    assert json.loads(proxy.log_lines[0])["error"] == "client_stalled"
    writer.transport.abort()


async def test_a_client_that_takes_nothing_does_not_hold_up_the_end(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(lambda _: list(FLOOD))
    proxy = await make_proxy(table(replica(engine)), client_timeout_seconds=0.5)
    writer = await flooded(proxy)
    await engine.until(lambda: len(engine.received) == 1)
    before = -1
    while before != engine.steps:  # until nothing moves any more
        before = engine.steps
        await asyncio.sleep(0.1)
    await proxy.state.drain(0.0)
    await proxy.until(proxy.idle)
    assert not writer.is_closing()
    writer.transport.abort()


async def test_an_ejection_is_not_ended_by_the_timer_of_an_earlier_one(
    make_proxy: MakeProxy, folder: Path
) -> None:
    path = folder / "none.sock"
    proxy = await make_proxy(table(replica(path, "m-1"), replica(path, "m-2")))
    first = proxy.state.models["m"].replicas["m-1"]
    for _ in range(3):
        first.failed()
    earlier = first._return_timer
    first.succeeded()
    for _ in range(3):
        first.failed()
    assert earlier is not None
    first._return()  # what the earlier timer calls
    assert first.ejected
    earlier.cancel()


async def test_connections_beyond_the_limit_get_503_in_openais_shape(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    proxy = await make_proxy(table(replica(await make_engine())), max_connections=1)
    _, held = await asyncio.open_connection("127.0.0.1", proxy.port)
    await proxy.until(lambda: proxy.connections() == 1)
    refused = await proxy.complete()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_connections")
    held.close()
    await proxy.until(lambda: proxy.connections() == 0)
    assert (await proxy.complete()).status_code == 200


async def test_draining_the_proxy_ends_what_does_not_finish_with_an_error_event(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    engine = await make_engine(lambda _: [STREAM_HEAD, chunk(text_event("hel")), "hold"])
    proxy = await make_proxy(table(replica(engine)))
    running = asyncio.create_task(proxy.stream_text())
    await engine.until(lambda: len(engine.received) == 1)
    await proxy.until(lambda: proxy.state.in_flight() == {"m-1": 1})
    await proxy.until(lambda: all(exchange.answer.streaming for exchange in proxy.exchanges()))
    await proxy.state.drain(0.1)
    text = await running
    assert '"code":"shutting_down"' in text
    assert text.endswith("data: [DONE]\n\n")
    assert (await proxy.complete()).status_code == 503
    assert proxy.idle()


async def test_what_a_request_kept_for_itself_is_free_when_it_waited_in_vain(
    make_proxy: MakeProxy, make_engine: MakeEngine
) -> None:
    """A large one that was overtaken enough keeps the replica; the next starts as it is refused."""
    gate = Gate()
    engine = await make_engine(gate)
    proxy = await make_proxy(table(replica(engine, max_sequences=4)))
    model = proxy.state.models["m"]
    running = [asyncio.create_task(proxy.complete(prompt="runs"))]
    await engine.until(lambda: len(engine.received) == 1)
    large = asyncio.create_task(proxy.complete(n=4, max_tokens=1))
    await proxy.until(lambda: len(model.slots.queue) == 1)
    (entry,) = model.slots.queue
    while model.slots.queue._lane[entry] > 0:
        running.append(asyncio.create_task(proxy.complete(prompt="overtakes", max_tokens=1)))
        await engine.until(lambda: len(engine.received) == len(running))
        gate.events[-1].set()
        await running[-1]
    waiting = asyncio.create_task(proxy.complete(prompt="waits", max_tokens=1))
    await proxy.until(lambda: len(model.slots.queue) == 2)
    model._expire(entry)  # what its timer calls
    assert (await large).json()["error"]["code"] == "queue_timeout"
    await proxy.until(lambda: not model.slots.queue)
    await engine.until(lambda: engine.received[-1].body["prompt"] == "waits")
    await gate.release_all()
    assert {one.status_code for one in await asyncio.gather(waiting, *running)} == {200}
    assert proxy.idle()
