"""Admission through the proxy keeps order and deadlines, and refuses with an honest time.

What is admitted, and whose turn it is, `tests/core/dispatch` says; here, that it is asked.
"""

import asyncio
import time
from typing import Any

import pytest

from tests.proxy.conftest import Make, Proxy, error_of, post, table
from tests.proxy.scripted import (
    STREAM_HEAD,
    Gate,
    Received,
    ScriptedEngine,
    Step,
    answer,
    chunk,
    completion,
    plays,
    text_event,
)
from tests.proxy.virtual import RawClient, settled

ASKED = {"model": "m", "prompt": "x"}
STREAMED = {**ASKED, "stream": True}
PIECE = chunk(text_event("x" * 60_000))
QUICK = {"max_sequences": 1, "service_seconds": 0.01}
FLOOD: list[Step] = [STREAM_HEAD, *[PIECE] * 2000, "hold"]


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def test_no_replica_gets_more_than_its_limit_and_the_queue_keeps_its_order(
    make: Make, gate: Gate
) -> None:
    proxy, engine = await make.both(gate, at={"max_sequences": 2})
    requests = []
    for number in range(6):
        requests.append(proxy.ask(prompt=str(number)))
        await settled()
        assert proxy.state.queues() == {"m": max(0, number - 1)}
    for done in range(6):
        assert proxy.state.in_flight()["m-1"] == min(2, 6 - done)
        gate.events[done].set()
        await requests[done]
        await settled()
    assert engine.prompts() == ["0", "1", "2", "3", "4", "5"]
    assert proxy.idle()


@pytest.mark.parametrize(
    ("limit", "first", "second"),
    [
        ({"max_sequences": 4}, {"prompt": ["a", "b", "c"]}, {"n": 2}),
        ({"kv_cache_tokens": 300}, *[{"prompt": [1] * 100, "max_tokens": 100}] * 2),
    ],
    ids=["sequences", "kv tokens"],
)
async def test_what_a_request_needs_counts(
    make: Make, gate: Gate, limit: dict[str, Any], first: dict[str, Any], second: dict[str, Any]
) -> None:
    proxy, engine = await make.both(gate, at=limit)
    running = proxy.ask(**first)
    await engine.got(1)
    waiting = proxy.ask(**second)
    await proxy.queued(1)
    gate.open()
    await running
    await engine.got(2)
    gate.open()
    assert (await waiting).status_code == 200


async def test_a_request_of_many_batches_starts_beside_others_and_counts_as_one_batch(
    make: Make, gate: Gate
) -> None:
    def script(request: Received) -> list[Step]:
        return [10.0 * (len(request.body["prompt"]) == 2000), *gate(request)]

    proxy, engine = await make.both(script, at={"max_sequences": 4, "service_seconds": 2.0})
    (model,) = proxy.state.models.values()
    (replica,) = model.replicas.values()
    small = proxy.ask(prompt="small")
    await engine.got(1)
    large = proxy.ask(prompt=["x"] * 2000, max_tokens=1)
    await engine.got(2)
    waits = proxy.ask(prompt="waits")
    await proxy.queued(1)
    assert replica.sequences == 5
    gate.events[1].set()
    assert (await large).status_code == 200
    assert model.slots.service.value == pytest.approx(2.0 + 0.1 * (10 / 500 - 2.0))
    await engine.got(3)
    gate.open()
    assert [(await one).status_code for one in (small, waits)] == [200] * 2
    assert replica.work.sequence_seconds == pytest.approx(4 * 10 + 10, abs=0.1)
    assert proxy.idle()


@pytest.mark.parametrize(
    ("code", "service_seconds", "route", "waiting", "told_after", "retry_after"),
    [
        ("queue_full", 7.0, {"max_queue": 1}, 1, 0.0, 14),  # one waits, one slot, 7 s each
        ("wait_too_long", 50.0, {"max_wait_seconds": 10}, 0, 0.0, 50),
        ("queue_timeout", 0.1, {"max_wait_seconds": 0.2}, 0, 0.2, 1),
    ],
)
async def test_who_gets_no_place_is_429_with_a_time_to_come_back(
    make: Make, gate: Gate, *, code: str, service_seconds: float,
    route: dict[str, Any], waiting: int, told_after: float, retry_after: int,
) -> None:  # fmt: skip
    limits = {"max_sequences": 1, "service_seconds": service_seconds}
    proxy, engine = await make.both(gate, at=limits, route=route)
    others = [proxy.ask()]
    await engine.got(1)
    others += [proxy.ask() for _ in range(waiting)]
    await proxy.queued(waiting)
    began = time.monotonic()
    refused = await proxy.complete()
    assert time.monotonic() - began == pytest.approx(told_after)
    assert error_of(refused) == (429, code)
    assert refused.headers["retry-after"] == str(retry_after)
    assert len(engine.received) == 1
    for number, other in enumerate(others):
        await engine.got(number + 1)
        gate.open()
        assert (await other).status_code == 200


async def test_the_total_limit_holds_for_who_waits_too(make: Make, gate: Gate) -> None:
    proxy, engine = await make.both(
        gate, at=QUICK, route={"max_wait_seconds": 600}, total_timeout_seconds=30
    )
    running = proxy.ask()
    await engine.got(1)
    # The first one's limit passes earlier; its place must not come free for the second.
    (first,) = proxy.exchanges()
    first.deadline += 60
    assert error_of(await proxy.complete()) == (504, "upstream_total_timeout")
    assert proxy.state.queues() == {"m": 0}
    gate.open()
    await running
    assert len(engine.received) == 1
    assert proxy.idle()


async def test_a_client_that_sends_on_but_takes_no_answers_is_not_answered_on(make: Make) -> None:
    proxy, engine = await make.both(plays(*answer(completion("x" * 1_000_000))))
    client = await RawClient.to(proxy.port, limit=1024)
    for _ in range(2):
        client.send(post(ASKED))
        await engine.got(1)
        await proxy.until(lambda: len(proxy.records()) == 1)
        await settled()
    (connection,) = proxy.lanes()
    assert (len(engine.received), connection.read_paused) == (1, True)
    length = 0
    while length < 2 * 1_000_000:
        length += len(await client.reader.read(1 << 20))
    await proxy.until(proxy.idle)
    assert len(engine.received) == 2


async def test_refusals_that_nobody_reads_do_not_fill_memory(make: Make) -> None:
    proxy = await make.proxy(table())
    count = 2_000
    client = await RawClient.to(proxy.port, limit=1024)
    # Mostly body, so that what is read at once ends in the middle of one.
    client.send(post(b'{"x":"%b"}' % (b"x" * 1000)) * count)
    await settled()
    (connection,) = proxy.lanes()
    assert connection.read_paused
    assert connection.transport.get_write_buffer_size() < 200_000
    told = 0
    while told < count:
        told += (await client.until(b"}}")).count(b"HTTP/1.1 400 ")


async def flooded(make: Make, **options: Any) -> tuple[Proxy, ScriptedEngine, RawClient]:
    """A client that asks for a stream of 120 MB, takes only its beginning, and stays."""
    proxy, engine = await make.both(plays(*FLOOD), **options)
    client = await RawClient.to(proxy.port, limit=4096)
    client.send(post(STREAMED))
    await settled()
    (exchange,) = proxy.exchanges()
    assert exchange.paused
    return proxy, engine, client


async def test_a_slow_client_slows_its_own_stream_and_memory_stays_bounded(make: Make) -> None:
    proxy, engine, client = await flooded(make)
    # A socket's buffer on each side, and two times 64 KiB in between.
    assert engine.steps * len(PIECE) < 1_000_000
    for _ in range(20):
        await client.reader.readexactly(1_000_000)
        await asyncio.sleep(5)
    assert 20_000_000 < engine.steps * len(PIECE) < 21_000_000
    client.leave()
    await engine.until(lambda: engine.left == 1)
    await proxy.until(proxy.idle)


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"client_timeout_seconds": 10}, 10),
        ({"client_timeout_seconds": 600, "total_timeout_seconds": 60}, 60),
    ],
    ids=["its time", "the total limit"],
)
async def test_a_client_that_takes_nothing_is_let_go(
    make: Make, options: dict[str, float], seconds: float
) -> None:
    began = time.monotonic()
    proxy, engine, _ = await flooded(make, **options)
    await engine.until(lambda: engine.left == 1)
    assert time.monotonic() - began == pytest.approx(seconds, abs=1)
    await proxy.until(proxy.idle)
    assert proxy.records()[0]["error"] == "client_stalled"


async def test_a_client_that_takes_nothing_does_not_hold_up_the_end(make: Make) -> None:
    proxy, _, client = await flooded(make, client_timeout_seconds=10)
    began = time.monotonic()
    await proxy.state.drain(0.0)
    await proxy.until(proxy.idle)
    assert time.monotonic() - began < 12
    assert not client.writer.is_closing()


async def test_connections_beyond_the_limit_get_503_in_openais_shape(make: Make) -> None:
    proxy, _ = await make.both(max_connections=1)
    held = await RawClient.to(proxy.port)
    await settled()
    assert error_of(await proxy.complete()) == (503, "too_many_connections")
    held.leave()
    await settled()
    assert proxy.connections() == 0
    assert (await proxy.complete()).status_code == 200


async def test_draining_the_proxy_ends_what_does_not_finish_with_an_error_event(
    make: Make,
) -> None:
    proxy, _ = await make.both(plays(STREAM_HEAD, chunk(text_event("hel")), "hold"))
    running = proxy.ask(stream=True)
    await settled()
    began = time.monotonic()
    await proxy.state.drain(30)
    assert time.monotonic() - began == pytest.approx(30, abs=1)
    text = (await running).text
    assert '"code":"shutting_down"' in text
    assert text.endswith("data: [DONE]\n\n")
    assert (await proxy.complete()).status_code == 503
    assert proxy.idle()


async def test_what_a_request_kept_for_itself_is_free_when_it_waited_in_vain(
    make: Make, gate: Gate
) -> None:
    """A large one that was overtaken enough keeps the replica; the next starts as it is refused."""
    proxy, engine = await make.both(gate, at={"max_sequences": 4})
    model = proxy.state.models["m"]
    running = [proxy.ask(prompt=["runs", "runs"])]
    await engine.got(1)
    large = proxy.ask(n=3, max_tokens=1)
    await proxy.queued(1)
    (entry,) = model.slots.queue
    while model.slots.queue._lane[entry] > 0:
        running.append(proxy.ask(prompt="overtakes", max_tokens=1))
        await engine.got(len(running))
        gate.events[-1].set()
        await running[-1]
    waiting = proxy.ask(prompt="waits", max_tokens=1)
    await proxy.queued(2)
    model._expire(entry)  # what its timer calls
    assert error_of(await large)[1] == "queue_timeout"
    await proxy.queued(0)
    await engine.until(lambda: engine.prompts()[-1] == "waits")
    gate.open()
    assert {one.status_code for one in await asyncio.gather(waiting, *running)} == {200}
    assert proxy.idle()
