"""Connections that show no token are few and short-lived; all others stay."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from partitiond.api import connections
from partitiond.api.auth import ADMITTED
from partitiond.api.connections import UNKNOWN_SECONDS, ApiConnection
from tests.controller.fakes import a_moment

MAX = 3


class Timer:
    """A call that a test makes in place of the clock."""

    def __init__(self, at: float, call: Callable[[], object]) -> None:
        self.at = at
        self.call = call
        self.cancelled = False

    def when(self) -> float:
        return self.at

    def cancel(self) -> None:
        self.cancelled = True


class Server:
    """Connections on transports that only say whether they were ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(connections, "MAX_UNKNOWN", MAX)
        self.now = 0.0
        self.line = asyncio.Event()
        self.timers: list[Timer] = []
        self.state = ServerState()
        self.config = uvicorn.Config(
            self.answer, interface="asgi3", log_config=None, access_log=False, lifespan="off"
        )

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await self.line.wait()
        scope[ADMITTED] = (b"authorization", b"Bearer t") in scope["headers"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def call_later(self, seconds: float, call: Callable[[], object], *_: object) -> Timer:
        self.timers.append(Timer(self.now + seconds, call))
        return self.timers[-1]

    def create_task(self, *args: Any, **kwargs: Any) -> "asyncio.Task[Any]":
        return asyncio.get_running_loop().create_task(*args, **kwargs)

    def passes(self, seconds: float) -> None:
        self.now += seconds
        for timer in self.timers:
            if not timer.cancelled and timer.at <= self.now:
                timer.cancelled = True
                timer.call()

    async def connect(self, *sent: bytes) -> "Transport":
        self.now += 0.001
        here = ApiConnection(self.config, self.state, {}, _loop=self)  # type: ignore[arg-type]
        transport = Transport(here)
        here.connection_made(transport)
        for data in sent:
            here.data_received(data)
            await asyncio.sleep(0)
        return transport


class Transport(asyncio.Transport):
    """Keeps whether it was ended, and tells its connection."""

    def __init__(self, connection: ApiConnection) -> None:
        super().__init__()
        self.connection = connection
        self.ended = False

    def abort(self) -> None:
        self.ended = True
        self.connection.connection_lost(None)

    def close(self) -> None: ...

    def is_closing(self) -> bool:
        return self.ended

    def write(self, data: Any) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


TOKEN = b"GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer t\r\n\r\n"
NONE = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


async def test_the_oldest_without_a_token_gives_its_place_to_the_next(server: Server) -> None:
    known = await server.connect(TOKEN)
    unknown = [await server.connect(sent) for sent in (b"GET / HT", NONE, b"")]
    assert not any(one.ended for one in unknown)
    await server.connect(TOKEN)
    assert [one.ended for one in unknown] == [True, False, False]
    await server.connect(b"")  # the place of one that is gone is free
    assert [one.ended for one in (known, *unknown)] == [False, True, False, False]


async def test_without_a_token_a_connection_has_a_deadline(server: Server) -> None:
    half, open_path = await server.connect(b"GET /healthz"), await server.connect(NONE)
    token, next_half = await server.connect(TOKEN), await server.connect(TOKEN, b"GET / HT")
    server.passes(UNKNOWN_SECONDS - 0.1)
    assert not half.ended
    server.passes(0.2)
    ended = [one.ended for one in (half, open_path, token, next_half)]
    assert ended == [True, True, False, False]


async def test_what_is_being_answered_has_another_deadline(server: Server) -> None:
    page = await server.connect(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
    for _ in range(3):
        server.passes(UNKNOWN_SECONDS + 0.1)
    assert not page.ended
    server.line.set()
    await a_moment()
    server.passes(UNKNOWN_SECONDS + 0.1)
    assert page.ended
