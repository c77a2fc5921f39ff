"""A bug of ours costs only its own request: it is logged, answered, and leaves nothing behind."""

import asyncio
import contextlib
import os
from typing import Any

import httpx
import pytest

from partitiond.core.dispatch.routing import KeyRates, ModelAvailability
from partitiond.proxy.dispatch.live_requests import LiveRequest
from partitiond.proxy.edge.attempt import Attempt
from partitiond.proxy.edge.data_protocol import DataProtocol
from partitiond.proxy.edge.exchange import Exchange
from partitiond.proxy.engine.upstream import UpstreamConnection
from tests.proxy.conftest import ListLog, Make, Proxy, key, replica, table
from tests.proxy.scripted import ScriptedEngine, answer, completion, plays, stream, text_event

Patch = pytest.MonkeyPatch
Log = pytest.LogCaptureFixture
pytestmark = pytest.mark.skipif(
    os.environ.get("PARTITIOND_TEST_NATIVE") == "1", reason="compiled methods cannot be replaced"
)


@pytest.fixture
async def engine(make: Make) -> ScriptedEngine:
    return await make.engine()


@pytest.fixture
async def proxy(make: Make, engine: ScriptedEngine) -> Proxy:
    return await make.proxy(table(replica(engine, max_sequences=1)))


def oops(*_: object, **__: object) -> Any:
    raise RuntimeError("a bug")


def logged(caplog: Log) -> str:
    return " ".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("broken", "method"),
    [
        *[(Attempt, name) for name in ("received_head", "received_body", "received_end", "_send")],
        *[(Exchange, name) for name in ("finished_whole", "attempt_failed", "sweep")],
    ],
)
async def test_where_an_answer_is_read_or_ends_or_its_time_does(
    proxy: Proxy, engine: ScriptedEngine, monkeypatch: Patch, caplog: Log, *, broken: type,
    method: str,
) -> None:  # fmt: skip
    """The client gets an end in time; nothing is in flight; the log names the request."""
    well, steps = engine.script, {"attempt_failed": "reset", "sweep": "hold"}
    if method in steps:
        engine.script = plays(steps[method])
    with monkeypatch.context() as patched:
        patched.setattr(broken, method, oops)
        got = await proxy.complete(headers={"x-request-id": "the-unlucky-one"})
    assert got.status_code == 500
    assert got.json()["error"]["code"] == "internal_error"
    await proxy.until(proxy.idle)
    assert "the-unlucky-one failed inside the proxy" in logged(caplog)
    (record,) = proxy.records()
    assert record["request_id"] == "the-unlucky-one"
    assert (record["outcome"], record["status"]) == ("failed", 500)
    engine.script = well
    assert (await proxy.complete()).status_code == 200


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


async def test_where_a_place_is_given(
    proxy: Proxy, engine: ScriptedEngine, monkeypatch: Patch, caplog: Log
) -> None:
    """One that waited is unlucky; whose place it got is not, and who waits behind is served."""
    go = asyncio.Event()
    engine.script = plays(go, *answer(completion("fine")))
    asked = [proxy.ask()]
    await engine.got(1)
    for waiting in (1, 2):
        asked.append(proxy.ask())
        await proxy.queued(waiting)
    placed, calls = Exchange.placed, []

    def once(self: Exchange, *arguments: Any) -> None:
        calls.append(self)
        if len(calls) == 1:
            raise RuntimeError("a bug")
        placed(self, *arguments)

    monkeypatch.setattr(Exchange, "placed", once)
    go.set()
    assert [(await task).status_code for task in asked] == [200, 500, 200]
    await proxy.until(proxy.idle)
    assert calls[0].record.request_id in logged(caplog)


async def test_what_ends_a_request_or_looks_at_its_connection_may_itself_be_broken(
    proxy: Proxy, engine: ScriptedEngine, monkeypatch: Patch, caplog: Log
) -> None:
    """Then there is no answer; but the connection ends, and the place is given back."""
    for broken, method in ((Exchange, "leave"), (DataProtocol, "sweep")):
        well = engine.script
        if broken is DataProtocol:
            engine.script = plays("hold")
        with monkeypatch.context() as patched:
            patched.setattr(broken, method, oops)
            with pytest.raises(httpx.RemoteProtocolError):
                await proxy.complete()
            await proxy.until(lambda: proxy.connections() == 0 and proxy.idle())
        engine.script = well
        assert (await proxy.complete()).status_code == 200
    assert "could not be ended properly" in logged(caplog)


async def test_a_bug_does_not_use_up_what_its_key_may_have_in_flight(
    make: Make, monkeypatch: Patch
) -> None:
    keys = (key(rates=KeyRates(max_in_flight=1)),)
    proxy, _ = await make.both(route={"keys": keys, "keys_required": True})
    for broken, name in ((Exchange, "leave"), (Exchange, "place_here"), (LiveRequest, "__init__")):
        with monkeypatch.context() as patched:
            patched.setattr(broken, name, oops)
            with contextlib.suppress(httpx.RemoteProtocolError):
                assert (await proxy.complete(key="k1")).status_code == 500
        await proxy.until(proxy.idle)
        assert proxy.state.accounts.uses()["k1"]["in_flight"] == 0
        assert (await proxy.complete(key="k1")).status_code == 200


async def test_books_that_cannot_be_closed_leave_nothing_in_flight(
    proxy: Proxy, monkeypatch: Patch, caplog: Log
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(ListLog, "write", oops)
        with contextlib.suppress(httpx.RemoteProtocolError):
            # Or it was on its way when the bug came.
            assert (await proxy.complete()).status_code == 200
        await proxy.until(proxy.idle)
    assert "failed inside the proxy" in logged(caplog)
    assert (await proxy.complete()).status_code == 200


async def test_a_client_that_leaves_while_we_are_broken(
    proxy: Proxy, engine: ScriptedEngine, monkeypatch: Patch, caplog: Log
) -> None:
    proxy.state.apply(table(availability=ModelAvailability.SLEEPING, holds=True, version=2))
    waiting = proxy.ask()
    await proxy.queued(1)
    monkeypatch.setattr(Exchange, "client_gone", oops)
    waiting.cancel()
    await proxy.until(proxy.idle)
    assert "failed inside the proxy" in logged(caplog)
    assert engine.received == []
