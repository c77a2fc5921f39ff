"""Requests that no engine answers have their answer in their turn; a body ends the connection."""

from email.utils import formatdate

import pytest

from partitiond.proxy.edge.data_protocol import IDLE_SECONDS, LINGER_SECONDS
from partitiond.proxy.edge.local_requests import LocalRequest
from partitiond.proxy.edge.state import SWEEP_SECONDS
from tests.proxy.conftest import Make, Proxy, post, table
from tests.proxy.virtual import RawClient, running_loop, settled

READ = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
ASKED = post({"model": "m", "prompt": "hi"})
NONE = b"POST /v1/none HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = NONE + b"transfer-encoding: chunked\r\n\r\n"


async def ended(proxy: Proxy) -> float:
    """Wait until no connection is left; return for how long that took, in seconds."""
    began = running_loop().time()
    await proxy.until(lambda: not proxy.connections())
    return running_loop().time() - began


@pytest.mark.parametrize(
    ("request_", "rest"),
    [
        (CHUNKED, b"junk\r\n"),
        (NONE + b"expect: 100-continue\r\ncontent-length: 4\r\n\r\n", b"junk" + READ),
        (NONE + b"content-length: 4\r\n\r\n", b"junk" + READ),
    ],
)
async def test_a_body_is_dropped_and_nothing_follows_it(
    make: Make, request_: bytes, rest: bytes
) -> None:
    proxy = await make.proxy(table())
    client = await RawClient.to(proxy.port)
    client.send(request_)
    assert b" 404 " in await client.until(b"}}")
    client.send(rest)
    await settled()
    assert proxy.connections() == 1, "what is being sent must not reset the answer"
    assert await client.rest() == b""
    assert await ended(proxy) < LINGER_SECONDS + 2 * SWEEP_SECONDS


async def test_after_its_answer_a_connection_is_idle_as_after_any_other(make: Make) -> None:
    proxy = await make.proxy(table(), client_timeout_seconds=10)
    client = await RawClient.to(proxy.port)
    client.send(NONE + b"\r\n")
    assert b" 404 " in await client.until(b"}}")
    assert await ended(proxy) == pytest.approx(IDLE_SECONDS, abs=0.1)


async def test_every_answer_has_the_date_of_its_second_and_says_once_that_it_is_the_last(
    make: Make,
) -> None:
    """Whether the request or the end of the worker makes it so."""
    proxy, _ = await make.both()
    client = await RawClient.to(proxy.port)
    last = READ.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
    for says_goodbye, sent, times in ((False, READ, 0), (False, ASKED, 0), (True, ASKED, 1),
                                      (True, READ, 1), (True, last, 1)):  # fmt: skip
        proxy.state.says_goodbye = says_goodbye
        later = running_loop().time() + 0.9
        await proxy.until(lambda at=later: running_loop().time() >= at)  # type: ignore[misc]
        client.send(sent)
        head = (await client.until(b"\r\n\r\n")).lower()
        date = formatdate(int(running_loop().unix_time()), usegmt=True).lower().encode()
        assert (head.count(b"\r\ndate: " + date), head.count(b"\r\ndate:")) == (1, 1)
        assert head.count(b"\r\nconnection: close") == times
        assert b"\r\nserver:" not in head
        await client.until(b"]}" if b"GET" in sent else b"}}")
    assert await client.rest() == b""


async def test_a_bug_is_logged_and_answered(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = await make.proxy(table())

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    client = await RawClient.to(proxy.port)
    with monkeypatch.context() as patched:
        patched.setattr(LocalRequest, "_answer_models", broken)
        client.send(READ)
        assert b'"internal_error"' in await client.until(b"}}")
    assert "/v1/models failed inside the proxy" in caplog.text
    client.send(READ)
    assert b" 200 " in await client.until(b"]}")
