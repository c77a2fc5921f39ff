"""The proxy sees a client's disconnect in every phase of its requests, by reset and by close."""

import asyncio
import socket
from pathlib import Path

import pytest

from tests.proxy.conftest import Make, Proxy, post, replica, table
from tests.proxy.scripted import (
    DONE,
    STREAM_HEAD,
    Received,
    ScriptedEngine,
    Step,
    answer,
    chunk,
    completion,
    plays,
    stream,
    text_event,
)
from tests.proxy.virtual import RawClient, settled

both_ways = pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])


def request(prompt: str, *, streamed: bool = False) -> bytes:
    return post({"model": "m", "prompt": prompt, "stream": streamed})


async def nobody_is_left(proxy: Proxy) -> None:
    await proxy.until(lambda: not proxy.connections() and proxy.idle())
    assert not proxy.state.reading


@pytest.fixture
def go_on() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def engine(make: Make, go_on: asyncio.Event) -> ScriptedEngine:
    """Prompts "held" are answered when told, all others at once."""

    def script(received: Received) -> list[Step]:
        if received.body["prompt"] != "held":
            return answer(completion())
        if received.body["stream"]:
            return [STREAM_HEAD, chunk(text_event("hel")), go_on, *stream(DONE)[1:]]
        return [go_on, *answer(completion())]

    return await make.engine(script)


@pytest.fixture
async def proxy(make: Make, engine: ScriptedEngine) -> Proxy:
    return await make.proxy(table(replica(engine, max_sequences=1)), client_timeout_seconds=10.0)


@pytest.fixture
async def client(proxy: Proxy) -> RawClient:
    return await RawClient.to(proxy.port)


@both_ways
async def test_while_its_body_comes_or_it_waits_in_the_queue(
    proxy: Proxy, client: RawClient, engine: ScriptedEngine, go_on: asyncio.Event, *, reset: bool
) -> None:
    client.send(request("held"))
    await engine.got(1)
    comes, waits = [await RawClient.to(proxy.port) for _ in range(2)]
    comes.send(request("x")[:-5])
    waits.send(request("queued"))
    await proxy.until(lambda: bool(proxy.state.reading))
    await proxy.queued(1)
    comes.leave(reset=reset)
    waits.leave(reset=reset)
    await proxy.queued(0)
    await proxy.until(lambda: proxy.connections() == 1 and not proxy.state.reading)
    go_on.set()
    await client.until(b"hello")
    assert engine.prompts() == ["held"]


@both_ways
async def test_while_it_is_sent_to_the_engine(make: Make, folder: Path, *, reset: bool) -> None:
    """An engine that takes nothing: most of the body is still in the proxy."""
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(folder / "deaf.sock"))
        deaf.listen()
        proxy = await make.proxy(table(replica(folder / "deaf.sock")))
        client = await RawClient.to(proxy.port)
        client.send(request("x" * 4_000_000))
        await proxy.until(lambda: len(proxy.state.exchanges) == 1)
        client.leave(reset=reset)
        await nobody_is_left(proxy)


@pytest.mark.parametrize("how", ["reset", "closed", "half closed"])
@pytest.mark.parametrize("streamed", [True, False])
async def test_while_it_is_answered(make: Make, *, streamed: bool, how: str) -> None:
    steps: list[Step] = [STREAM_HEAD, chunk(text_event("hel")), "hold"] if streamed else ["hold"]
    proxy, engine = await make.both(plays(*steps))
    client = await RawClient.to(proxy.port)
    client.send(request("x", streamed=streamed))
    await engine.got(1)
    if streamed:
        await client.until(b"hel")
    if how == "half closed":
        client.writer.write_eof()
    else:
        client.leave(reset=how == "reset")
    await engine.until(lambda: engine.left == 1)
    await nobody_is_left(proxy)


EARLY = {
    "a whole request": request("never"),
    "half a head": request("never")[:40],
    "more than one read holds": request("never" + "x" * 2_000_000),
}


@both_ways
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("early", EARLY)
async def test_after_it_sent_more_than_its_request(
    proxy: Proxy, client: RawClient, engine: ScriptedEngine, *, early: str, streamed: bool,
    reset: bool,
) -> None:  # fmt: skip
    """Nothing is read then, so nothing tells of it."""
    client.send(request("held", streamed=streamed))
    await engine.got(1)
    client.send(EARLY[early])
    await settled()
    client.leave(reset=reset)
    await nobody_is_left(proxy)
    assert [line["outcome"] for line in proxy.records()] == ["client_gone"]
    assert engine.prompts() == ["held"]
