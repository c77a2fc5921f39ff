"""Large bodies and whole answers share a room each, of which every key has its share; connections
have places, which no network keeps from the others.
"""

import asyncio
import json

import pytest

from partitiond.core.dispatch.routing import KeyRates
from tests.proxy.conftest import Make, Proxy, error_of, key, replica, table
from tests.proxy.conftest import post as request
from tests.proxy.scripted import Received, Script, Step, answer, chunk, completion, plays
from tests.proxy.virtual import RawClient, real_time, settled

LIMIT = 100_000
FULL = (503, "bodies_full")
SERVED = (200, "")
LARGE = json.dumps(completion("x" * 60_000)).encode()
CHUNKED = (
    b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def body(size: int, **fields: object) -> bytes:
    """So many bytes of JSON."""
    fields = {"model": "m", "prompt": "", **fields}
    empty = json.dumps(fields).encode()
    filled = json.dumps({**fields, "prompt": "x" * (size - len(empty))}).encode()
    assert len(filled) == size
    return filled


async def post(proxy: Proxy, data: bytes, who: str = "none") -> tuple[int, str]:
    async with proxy.client as client:
        headers = {"content-type": "application/json", "authorization": f"Bearer {who}"}
        return error_of(await client.post("/v1/completions", content=data, headers=headers))


def held(go_on: asyncio.Event) -> Script:
    def script(received: Received) -> list[Step]:
        begin: list[Step] = [go_on] if received.body.get("held") else []
        return [*begin, *answer(completion())]

    return script


async def sent(proxy: Proxy, data: bytes, held_bytes: int) -> RawClient:
    """A client that has sent it, when so much is held."""
    client = await RawClient.to(proxy.port)
    client.send(data)
    await proxy.until(lambda: proxy.state.bodies.held == held_bytes)
    return client


@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_that_come_slowly_are_bounded_together(make: Make, *, chunked: bool) -> None:
    proxy, _ = await make.both(max_bodies_bytes=LIMIT)
    slow = body(60_000)
    begun, rest = request(slow)[:-1], slow[-1:]
    if chunked:
        begun, rest = CHUNKED + b"%x\r\n" % len(slow) + slow[:-1], rest + b"\r\n0\r\n\r\n"
    client = await sent(proxy, begun, len(slow) - 1)
    assert await post(proxy, body(LIMIT - len(slow) + 2)) == FULL
    assert await post(proxy, body(LIMIT - len(slow) + 1)) == SERVED, "it just fits"
    assert proxy.state.bodies.held == len(slow) - 1
    client.send(rest)
    assert b"200" in await client.until(b"\r\n")
    await proxy.until(lambda: proxy.state.bodies.held == 0)
    assert await post(proxy, body(LIMIT)) == SERVED


async def test_a_body_counts_until_its_request_has_its_answer_and_small_ones_never(
    make: Make,
) -> None:
    go_on = asyncio.Event()
    proxy, engine = await make.both(held(go_on), max_bodies_bytes=LIMIT)
    first = asyncio.create_task(post(proxy, body(LIMIT, held=True)))
    await engine.got(1)
    assert proxy.state.bodies.held == LIMIT
    assert await post(proxy, body(16_385)) == FULL
    assert await post(proxy, body(16_384)) == SERVED
    go_on.set()
    assert [await first, await post(proxy, body(LIMIT))] == [SERVED] * 2
    assert proxy.state.bodies.held == 0


async def test_a_refused_or_failed_body_is_held_no_more(make: Make) -> None:
    proxy, _ = await make.both(plays("reset"), max_bodies_bytes=LIMIT, max_body_bytes=90_000)
    for data, status in (
        (body(50_000)[:-1] + b"]", 400),
        (body(50_000, model="unknown"), 404),
        (body(90_001), 413),
        (body(50_000, fails=True), 502),
    ):
        for _ in range(2):  # the second time its head is known
            assert (await post(proxy, data))[0] == status
            assert proxy.state.bodies.held == 0


WHOLE = request(body(50_000, held=True))


@pytest.mark.parametrize(
    "data",
    [WHOLE[:-100], WHOLE],
    ids=["half of it", "all of it"],
)
async def test_a_body_is_held_no_more_once_its_client_has_left(make: Make, data: bytes) -> None:
    proxy, _ = await make.both(held(asyncio.Event()), max_bodies_bytes=LIMIT)
    client = await RawClient.to(proxy.port)
    client.send(data)
    await proxy.until(lambda: proxy.state.bodies.held > 40_000)
    client.leave()
    await proxy.until(lambda: not proxy.connections() and proxy.state.bodies.held == 0)


async def test_a_body_that_is_dropped_or_not_awaited_any_more_is_let_go_of_once(
    make: Make,
) -> None:
    proxy = await make.proxy(table(), max_bodies_bytes=LIMIT, max_body_bytes=50_000)
    client = await sent(proxy, CHUNKED + b"%x\r\n" % 60_000 + b" " * 50_000, 50_000)
    client.send(b" ")
    await proxy.until(lambda: proxy.state.bodies.held == 0)
    assert proxy.state.reading, "the rest of it is awaited"
    other = await sent(proxy, request(body(50_000))[:-1], 49_999)
    proxy.state.stop_admitting()
    assert proxy.state.bodies.held == 0
    client.leave()
    other.leave()
    await proxy.until(lambda: not proxy.state.reading)
    assert proxy.state.bodies.held == 0


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_whole_answers_are_bounded_together(make: Make, *, chunked: bool) -> None:
    go_on = asyncio.Event()
    (whole,) = answer(LARGE)
    assert isinstance(whole, bytes)
    if chunked:
        head = whole[: whole.index(b"content-length")] + b"transfer-encoding: chunked\r\n\r\n"
        whole = head + chunk(LARGE[:55_000]) + chunk(LARGE[55_000:]) + b"0\r\n\r\n"
    large: list[Step] = [whole[:50_000], go_on, whole[50_000:]]
    proxy, _ = await make.both(
        lambda received: answer(completion()) if received.body.get("n") else large,
        max_bodies_bytes=LIMIT, max_response_bytes=LIMIT,
    )  # fmt: skip
    running = proxy.ask()
    await proxy.until(lambda: proxy.state.answers.held > 40_000)
    others = [proxy.ask() for _ in range(2)]
    await proxy.until(lambda: any(one.done() for one in others))
    go_on.set()
    ended = [error_of(await one) for one in (running, *others)]
    assert set(ended) == {SERVED, (503, "answers_full")}
    assert proxy.state.models["m"].replicas["m-1"].reputation.failures == 0
    assert all(one["charged"][0] for one in proxy.records()), "what has worked is paid"
    assert proxy.idle()
    assert proxy.state.answers.held == 0


@pytest.mark.parametrize("reads", [True, False])
async def test_a_whole_answer_counts_until_its_client_has_it_or_left(
    make: Make, *, reads: bool
) -> None:
    proxy, _ = await make.both(plays(*answer(completion("x" * 1_000_000))))
    client = await RawClient.to(proxy.port, limit=1024)
    client.send(request({"model": "m", "prompt": "x"}))
    await proxy.until(lambda: bool(proxy.records()))
    await settled()
    assert proxy.state.answers.held > 500_000
    if reads:
        await client.reader.readexactly(1_000_000)
    else:
        client.leave()
    await proxy.until(lambda: proxy.state.answers.held == 0)


async def test_a_key_leaves_room_for_the_bodies_of_others(make: Make) -> None:
    """And it counts what it never ends, as requests and in flight."""
    rates = KeyRates(requests_per_minute=9, max_in_flight=3)
    keys = (key("a", rates=rates), key("b"))
    engine = await make.engine()
    proxy = await make.proxy(
        table(replica(engine), keys=keys), max_bodies_bytes=LIMIT, max_body_bytes=40_000
    )
    for count in range(1, 4):
        client = await RawClient.to(proxy.port)
        client.send(request(body(20_000), key="a")[:-1])
        await proxy.until(lambda: proxy.state.accounts.uses()["a"]["in_flight"] == count)  # noqa: B023
    await settled()
    assert proxy.state.bodies.held == 2 * 19_999, "half of it is 50,000"
    assert await post(proxy, body(20_000), "a") == (429, "too_many_in_flight")
    assert await post(proxy, body(30_000), "b") == SERVED
    assert await post(proxy, body(40_000), "b") == SERVED, "as large as any may be"
    client.leave()
    await proxy.until(lambda: proxy.state.accounts.uses()["a"]["in_flight"] < 3)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"{", 400), (body(1000, model="unknown"), 404), (body(9001), 413),
        (body(1000, n="many"), 400), (body(1000), 200),
    ],
    ids=["no JSON", "no model", "too large", "no number", "none"],
)  # fmt: skip
async def test_a_request_counts_whatever_its_body_is(make: Make, data: bytes, status: int) -> None:
    """Also one with a known head, and one that is left before its body has come."""
    keys = (key("a", rates=KeyRates(requests_per_minute=3)),)
    engine = await make.engine()
    proxy = await make.proxy(table(replica(engine), keys=keys), max_body_bytes=9000)
    left = await RawClient.to(proxy.port)
    left.send(request(body(5000), key="a")[:-1])
    await proxy.until(lambda: bool(proxy.state.reading))
    left.leave()
    assert [(await post(proxy, data, "a"))[0] for _ in range(3)] == [status, status, 429]
    await settled()
    assert proxy.state.accounts.uses()["a"]["in_flight"] == 0


async def test_a_key_that_reads_no_answers_leaves_room_for_those_of_others(make: Make) -> None:
    large = answer(completion("x" * 400_000))
    engine = await make.engine(plays(*large))
    proxy = await make.proxy(
        table(replica(engine), keys=(key("a"), key("b"))),
        max_bodies_bytes=1_600_000, max_response_bytes=500_000,
    )  # fmt: skip
    for count in range(1, 4):
        client = await RawClient.to(proxy.port, limit=1024)
        client.send(request({"model": "m", "prompt": "x"}, key="a"))
        await proxy.until(lambda: len(proxy.records()) == count)  # noqa: B023
    assert 500_000 < proxy.state.answers.held < 900_000
    assert [one["error"] for one in proxy.records() if "error" in one] == ["answers_full"]
    assert await post(proxy, body(100), "b") == SERVED


ASKS = request({"model": "m", "prompt": "x"})
HELD = request({"model": "m", "prompt": "x", "held": True})


@pytest.mark.parametrize(
    ("sends", "gives_way"),
    [
        (b"", True), (ASKS[:20], True), (ASKS[:-1], True), (ASKS, True), (HELD, False),
    ],
    ids=["nothing", "half a head", "half a body", "and rests", "and waits"],
)  # fmt: skip
@real_time
async def test_no_network_keeps_others_out(make: Make, sends: bytes, *, gives_way: bool) -> None:
    go_on = asyncio.Event()
    proxy, engine = await make.both(held(go_on), max_connections=3)

    async def connected(host: str) -> RawClient:
        return await RawClient.connected(host="127.0.0.1", port=proxy.port, local_addr=(host, 0))

    clients = [await connected("127.0.0.1") for _ in range(3)]
    for one in clients:
        one.send(sends)
        if sends == ASKS:
            await one.until(b"}")
    await proxy.until(lambda: proxy.connections() == 3)
    if sends == HELD:
        await engine.got(3)
    for host, is_served in (("127.0.0.2", gives_way), ("127.0.0.1", False)):
        clients.append(await connected(host))
        clients[-1].send(ASKS)
        assert (b" 200 " in await clients[-1].until(b"\r\n")) == is_served
    go_on.set()
    for one in clients:
        one.writer.close()
