"""A bug of ours costs only its own request: it is logged, answered, and leaves nothing behind."""

import asyncio
import contextlib
import hashlib
import json
import os
from typing import Any

import httpx
import pytest

from partitiond.core.dispatch.routing import KeyRates, KeyRoute, ModelAvailability
from partitiond.proxy.dispatch.flights import Flight
from partitiond.proxy.edge.attempt import Attempt
from partitiond.proxy.edge.data_protocol import DataProtocol
from partitiond.proxy.edge.exchange import Exchange
from partitiond.proxy.engine.upstream import UpstreamConnection
from tests.proxy.conftest import ListLog, MakeEngine, MakeProxy, Proxy, replica, table
from tests.proxy.scripted import ScriptedEngine, answer, completion, plays, stream, text_event

Patch = pytest.MonkeyPatch
Log = pytest.LogCaptureFixture
interpreted = pytest.mark.skipif(
    os.environ.get("PARTITIOND_TEST_NATIVE") == "1", reason="compiled methods cannot be replaced"
)


@pytest.fixture
async def engine(make_engine: MakeEngine) -> ScriptedEngine:
    return await make_engine()


@pytest.fixture
async def proxy(make_proxy: MakeProxy, engine: ScriptedEngine) -> Proxy:
    return await make_proxy(table(replica(engine, max_sequences=1)))


def oops(*_: object, **__: object) -> Any:
    raise RuntimeError("a bug")


def logged(caplog: pytest.LogCaptureFixture) -> str:
    return " ".join(record.getMessage() for record in caplog.records)


async def assert_one_error(
    proxy: Proxy, caplog: pytest.LogCaptureFixture, *, streamed: bool = False
) -> None:
    """The client gets an end in time; nothing is in flight; the log names the request."""
    async with proxy.client as client:
        body = {"model": "m", "prompt": "hi", "stream": streamed}
        headers = {"x-request-id": "the-unlucky-one"}
        got = await client.post("/v1/completions", json=body, headers=headers)
    assert got.status_code == 500
    assert got.json()["error"]["code"] == "internal_error"
    await proxy.until(proxy.idle)
    assert "the-unlucky-one failed inside the proxy" in logged(caplog)
    lines = [json.loads(line) for line in proxy.log_lines]
    (record,) = [line for line in lines if line.get("request_id") == "the-unlucky-one"]
    assert (record["outcome"], record["status"]) == ("failed", 500)


@interpreted
@pytest.mark.parametrize("method", ["received_head", "received_body", "received_end", "_send"])
async def test_where_an_answer_is_read(
    proxy: Proxy, engine: ScriptedEngine, monkeypatch: Patch, caplog: Log, method: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Attempt, method, oops)
        await assert_one_error(proxy, caplog)
    assert (await proxy.complete()).status_code == 200


@interpreted
@pytest.mark.parametrize("method", ["finished_whole", "attempt_failed"])
async def test_where_an_answer_ends(
    proxy: Proxy, engine: ScriptedEngine, monkeypatch: Patch, caplog: Log, method: str
) -> None:
    if method == "attempt_failed":
        engine.script = plays("reset")
    monkeypatch.setattr(Exchange, method, oops)
    await assert_one_error(proxy, caplog)


@interpreted
async def test_in_the_middle_of_a_stream(
    proxy: Proxy, engine: ScriptedEngine, monkeypatch: Patch, caplog: Log
) -> None:
    more = asyncio.Event()

    engine.script = plays(*stream(text_event("one"))[:-1], more, text_event("two"), "hold")
    async with proxy.client as client:
        body = {"model": "m", "prompt": "hi", "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as got:
            lines = got.aiter_lines()
            assert "one" in await anext(lines)
            monkeypatch.setattr(UpstreamConnection, "_take", oops)
            more.set()
            rest = [line async for line in lines if line]
    assert "internal_error" in rest[-2]
    assert rest[-1] == "data: [DONE]"
    await proxy.until(proxy.idle)
    assert "failed inside the proxy" in logged(caplog)
    await engine.until(lambda: engine.open == 0)


@interpreted
async def test_where_a_place_is_given(
    proxy: Proxy, engine: ScriptedEngine, monkeypatch: Patch, caplog: Log
) -> None:
    """One that waited is unlucky; whose place it got is not, and who waits behind is served."""
    go = asyncio.Event()

    engine.script = plays(go, *answer(completion("fine")))
    first = proxy.ask()
    await engine.got(1)
    second = proxy.ask()
    await proxy.queued(1)
    third = proxy.ask()
    await proxy.queued(2)
    placed, calls = Exchange.placed, []

    def once(self: Exchange, *arguments: Any) -> None:
        calls.append(self)
        if len(calls) == 1:
            raise RuntimeError("a bug")
        placed(self, *arguments)

    monkeypatch.setattr(Exchange, "placed", once)
    go.set()
    statuses = [(await task).status_code for task in (first, second, third)]
    assert statuses == [200, 500, 200]
    await proxy.until(proxy.idle)
    assert calls[0].record.request_id in logged(caplog)


@interpreted
async def test_where_time_limits_are_looked_at(
    proxy: Proxy, engine: ScriptedEngine, monkeypatch: Patch, caplog: Log
) -> None:
    engine.script = plays("hold")
    monkeypatch.setattr(Exchange, "sweep", oops)
    await assert_one_error(proxy, caplog)
    monkeypatch.undo()
    monkeypatch.setattr(DataProtocol, "sweep", oops)
    with pytest.raises(httpx.RemoteProtocolError):
        await proxy.complete()
    await proxy.until(lambda: proxy.connections() == 0)
    await proxy.until(proxy.idle)


@interpreted
async def test_what_ends_a_request_may_itself_be_broken(
    proxy: Proxy, engine: ScriptedEngine, monkeypatch: Patch, caplog: Log
) -> None:
    """Then there is no answer; but the connection ends, and the place is given back."""
    with monkeypatch.context() as patched:
        patched.setattr(Exchange, "_leave", oops)
        with pytest.raises(httpx.RemoteProtocolError):
            await proxy.complete()
        await proxy.until(proxy.idle)
    assert "could not be ended properly" in logged(caplog)
    assert (await proxy.complete()).status_code == 200


@interpreted
async def test_a_bug_does_not_use_up_what_its_key_may_have_in_flight(
    make_proxy: MakeProxy, engine: ScriptedEngine, monkeypatch: Patch
) -> None:
    key = KeyRoute("one", hashlib.sha256(b"sk").hexdigest(), rates=KeyRates(max_in_flight=1))
    proxy = await make_proxy(table(replica(engine), keys=(key,), keys_required=True))

    async def ask() -> httpx.Response:
        async with proxy.client as client:
            body = {"model": "m", "prompt": "hi"}
            headers = {"authorization": "Bearer sk"}
            return await client.post("/v1/completions", json=body, headers=headers)

    for broken, name in ((Exchange, "_leave"), (Exchange, "place"), (Flight, "__init__")):
        with monkeypatch.context() as patched:
            patched.setattr(broken, name, oops)
            with contextlib.suppress(httpx.RemoteProtocolError):
                assert (await ask()).status_code == 500
        await proxy.until(proxy.idle)
        assert proxy.state.accounts.uses()["one"]["in_flight"] == 0
        assert (await ask()).status_code == 200


async def test_books_that_cannot_be_closed_leave_nothing_in_flight(
    proxy: Proxy, engine: ScriptedEngine, monkeypatch: Patch, caplog: Log
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(ListLog, "write", oops)
        async with proxy.client as client:
            try:
                got = await client.post("/v1/completions", json={"model": "m", "prompt": "hi"})
                assert got.status_code == 200  # it was on its way when the bug came
            except httpx.RemoteProtocolError:
                pass
        await proxy.until(proxy.idle)
    assert "failed inside the proxy" in logged(caplog)
    assert (await proxy.complete()).status_code == 200


@interpreted
async def test_a_client_that_leaves_while_we_are_broken(
    proxy: Proxy, engine: ScriptedEngine, monkeypatch: Patch, caplog: Log
) -> None:
    asleep = table(availability=ModelAvailability.SLEEPING, holds=True, version=2)
    proxy.state.apply(asleep)
    waiting = proxy.ask()
    await proxy.queued(1)
    monkeypatch.setattr(Exchange, "client_gone", oops)
    waiting.cancel()
    await proxy.until(proxy.idle)
    assert "failed inside the proxy" in logged(caplog)
    assert engine.received == []
