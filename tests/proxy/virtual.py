"""Runs proxy, engines and clients in one process, without a port and without a real second.

`VirtualLoop` is asyncio's event loop with a clock of its own. Work takes no time; when nothing is
left to do, the clock jumps to the next timer. So a pause of the machine cannot fail a test, a limit
of 300 s costs a test nothing, and a test may compare seconds exactly. `time.monotonic` and
`time.time`, which the proxy reads, follow this clock while the loop runs. It is about noon (UTC)
when a test begins: budgets of a day or a month begin anew during none.

TCP connections to a server of the same loop are pairs of sockets of the kernel: what one end sends
the other has at once, and buffers, half-closed ends and resets are real. Unix sockets stay as they
are, for the same holds for them. What the loop cannot see, it cannot wait for: other processes, and
threads, but for those of executors (`asyncio.to_thread`) and those that read files of models, for
which time stands still.

Tests in `tests/proxy` run on this loop without a word, since `conftest.py` has

    from tests.proxy.virtual import pytest_asyncio_loop_factories

and so can any other folder. A test of real processes, threads or the kernel's TCP says so, or has
the fixture `make_process`:

    @real_time
    async def test_a_connection_is_taken_by_the_kernel(...): ...

    pytestmark = real_time  # a whole file

In a test:

    async def test_a_body_has_ten_seconds(make_proxy: MakeProxy) -> None:
        proxy = await make_proxy(table(), client_timeout_seconds=10.0)
        client = await RawClient.to(proxy.port)
        began = time.monotonic()
        client.send(b"POST /v1/completions HTTP/1.1\r\ncontent-length: 9\r\n\r\n")
        assert b" 408 " in await client.rest()
        assert time.monotonic() - began == pytest.approx(10, abs=SWEEP_SECONDS)

`await asyncio.sleep(60)` is for free. `await settled()` returns when nothing more happens by
itself, that is without time: after it a test can say that something did *not* happen.
"""

import asyncio
import contextlib
import itertools
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from typing import Any, Final, Self

import pytest

LONGEST_TEST_SECONDS: Final = 7200.0
"""By the loop's clock: who waits for longer waits for what never comes."""
OUTSIDE_SECONDS: Final = 120.0
"""For something from outside, if the loop has no timer: real time, before the test fails."""
BUFFER_BYTES: Final = 65_536
"""That one end of a connection has sent and the other has not read, about: then it is full."""


def _noon(unix: float) -> float:
    """Return the noon of that day (UTC), Unix seconds."""
    return unix - unix % 86_400 + 43_200


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while there is nothing to do.

    Attributes:
        clients: raw clients, which are ended with the proxy that they asked.
    """

    def __init__(self) -> None:
        self._now = self._began = time.monotonic()
        self._unix_offset = _noon(time.time()) - self._now
        self._ahead = 0.0
        self.clients: list[RawClient] = []
        self._outside = 0
        self._listeners: dict[int, VirtualServer] = {}
        self._ports = itertools.count(1)  # where nobody listens in truth
        self._other_end: dict[int, socket.socket] = {}
        self._sockets: list[Any] = []
        super().__init__(_Selector(self))

    # Time

    def time(self) -> float:
        return self._now

    def unix_time(self) -> float:
        return self._now + self._unix_offset + self._ahead

    def set_ahead(self, seconds: float) -> None:
        """Set the wall clock to a time that is wrong by so much."""
        self._ahead = seconds

    def works(self, seconds: float) -> None:
        """Let time pass in which the loop gets nothing done."""
        self._now += seconds

    def run_forever(self) -> None:
        with self._clock():
            super().run_forever()

    @contextlib.contextmanager
    def _clock(self) -> Iterator[None]:
        real = time.monotonic, time.time
        time.monotonic, time.time = self.time, self.unix_time
        try:
            yield
        finally:
            time.monotonic, time.time = real

    def idle(self, seconds: float | None) -> bool:
        """Go on to the next timer. Returns whether to wait for other threads instead."""
        if self._outside or seconds is None:
            return True
        self._now += seconds
        if self._now > self._began + LONGEST_TEST_SECONDS:
            raise RuntimeError("the test waits for what never comes")
        return False

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = super().run_in_executor(executor, func, *args)
        self._outside += 1
        future.add_done_callback(self._executed)
        return future

    def _executed(self, _: object) -> None:
        self._outside -= 1

    # Connections

    async def create_server(  # type: ignore[override]
        self, factory: Callable[[], Any], host: Any = None, port: Any = None, **more: Any
    ) -> "asyncio.AbstractServer":
        if "sock" in more:
            return await super().create_server(factory, **more)
        server = VirtualServer(self, port or next(self._ports), factory, more.get("ssl"))
        self._listeners[server.port] = server
        return server

    async def create_connection(  # type: ignore[override]
        self, factory: Callable[[], Any], host: Any = None, port: Any = None, **more: Any
    ) -> Any:
        if more.get("sock") is not None:
            return await super().create_connection(factory, **more)
        server = self._listeners.get(port)
        if server is None:
            raise ConnectionRefusedError(f"nobody listens on {host}:{port} of this loop")
        client = server.connected()
        tls: dict[str, Any] = {
            "ssl": more.get("ssl"),
            "server_hostname": more.get("server_hostname"),
        }
        if tls["ssl"] and not tls["server_hostname"]:
            tls["server_hostname"] = host
        return await super().create_connection(factory, sock=client, **tls)

    async def create_unix_connection(  # type: ignore[override]
        self, factory: Callable[[], Any], path: Any = None, **more: Any
    ) -> Any:
        transport, protocol = await super().create_unix_connection(factory, path, **more)
        self._sockets.append(transport.get_extra_info("socket"))
        return transport, protocol

    def open_sockets(self) -> int:
        """How many ends are open of all connections made here, but for the accepting ends of Unix
        sockets. Only the loop can tell: other threads of the process have sockets as well.
        """
        self._sockets = [one for one in self._sockets if one.fileno() != -1]
        return len(self._sockets)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of a new connection."""
        ends = socket.socketpair()
        self._sockets.extend(ends)
        for one, other in (ends, ends[::-1]):
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES // 2)
            self._other_end[one.fileno()] = other
        return ends

    def reset(self, transport: asyncio.WriteTransport) -> None:
        """End a connection so that the other end has ECONNRESET, as of a killed process.

        The kernel does this if the end that closes has unread bytes, so it gets one.
        """
        number = transport.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError):
            self._other_end[number].send(b"x")
        transport.abort()

    def unlisten(self, port: int) -> None:
        self._listeners.pop(port, None)


class VirtualServer(asyncio.AbstractServer):
    """A listener on a port that only this loop knows."""

    def __init__(self, loop: VirtualLoop, port: int, factory: Callable[[], Any], tls: Any) -> None:
        self.port = port
        self._loop = loop
        self._factory = factory
        self._tls = tls
        self._accepting: set[asyncio.Task[None]] = set()

    @property
    def sockets(self) -> tuple[Self, ...]:
        """Itself, since only the address is asked of a listener's socket."""
        return (self,)

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    def connected(self) -> socket.socket:
        """The client's end of a new connection."""
        client, ours = self._loop.pair()
        task = self._loop.create_task(self._accept(ours))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)
        return client

    async def _accept(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # as a handshake that fails
            await self._loop.connect_accepted_socket(self._factory, connection, ssl=self._tls)

    def close(self) -> None:
        self._loop.unlisten(self.port)

    async def wait_closed(self) -> None:
        """Nothing is left to do: connections outlive their listener."""

    def is_serving(self) -> bool:
        return True

    async def start_serving(self) -> None:
        """It serves from the beginning."""

    async def serve_forever(self) -> None:
        await self._loop.create_future()

    def get_loop(self) -> VirtualLoop:
        return self._loop


def _files_are_looked_at() -> bool:
    """Return whether a thread of `models.reading` or `models.checksums` works."""
    threads = ("look at the files in ", "checksums")
    return any(one.name.startswith(threads) for one in threading.enumerate())


class _Selector(selectors.DefaultSelector):
    """Lets time pass in place of waiting."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        works = True
        while works and not ready and timeout != 0:
            works = _files_are_looked_at()  # before the next look: a thread answers, and then ends
            ready = super().select(0.001 if works else 0)
        if ready or timeout == 0 or not self._loop.idle(timeout):
            return ready
        ready = super().select(OUTSIDE_SECONDS)
        if not ready:
            raise RuntimeError("the test waits, and nothing can happen any more")
        return ready


def running_loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "this test is for the virtual loop"
    return loop


async def settled() -> None:
    """Return once nothing happens any more unless time passes."""
    await asyncio.sleep(1e-6)  # its timer is looked at only once there is nothing else to do


class RawClient:
    """Sends bytes as they are, and leaves as it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, port: int, *, limit: int = 65_536) -> Self:
        """Connect; of an answer that is not asked for, only some `limit` bytes are read."""
        return await cls.connected(host="127.0.0.1", port=port, limit=limit)

    @classmethod
    async def connected(cls, **where: Any) -> Self:
        """Connect with the arguments of `asyncio.open_connection`, and be ended with the proxy."""
        client = cls(*await asyncio.open_connection(**where))
        loop = asyncio.get_running_loop()
        if isinstance(loop, VirtualLoop):
            loop.clients.append(client)
        return client

    def send(self, data: bytes) -> None:
        """Send as much as the other end takes now, and the rest as it takes more."""
        self.writer.write(data)

    async def until(self, marker: bytes) -> bytes:
        """What comes up to the marker, and with it."""
        return await self.reader.readuntil(marker)

    async def rest(self) -> bytes:
        """All that comes until the proxy closes."""
        return await self.reader.read()

    def leave(self, *, reset: bool = False) -> None:
        """Close at once, as a process that ends; what was not taken is not sent."""
        if reset:
            running_loop().reset(self.writer.transport)
        else:
            self.writer.transport.abort()


def end_clients() -> None:
    """End the raw clients of this loop, if it is a virtual one; tests need not."""
    loop = asyncio.get_running_loop()
    for client in loop.clients if isinstance(loop, VirtualLoop) else ():
        client.leave()


LoopFactory = Callable[[], asyncio.AbstractEventLoop]
_FACTORIES: Final[Mapping[str, LoopFactory]] = {
    "virtual": VirtualLoop,
    "real": asyncio.SelectorEventLoop,
}

REAL_UNLESS_ASKED: Final = ("loops", "peers", "workers")
_PROCESSES: Final = "make_process"
"""A fixture that starts real processes: whoever has it needs no mark."""
virtual_time: Final = pytest.mark.asyncio(loop_factories=["virtual"])
"""Marks tests that run on the virtual loop where the others of their folder do not."""
real_time: Final = pytest.mark.asyncio(loop_factories=["real"])
"""Marks tests of what the loop cannot see: other processes, threads, the kernel's TCP."""


def pytest_asyncio_loop_factories(
    config: pytest.Config,
    item: pytest.Item,
) -> Mapping[str, LoopFactory]:
    """Choose the loop of each test of a folder whose conftest.py has this name."""
    asked = [marker.kwargs.get("loop_factories") for marker in item.iter_markers("asyncio")]
    fixtures = getattr(item, "fixturenames", ())
    is_real = item.path.parent.name in REAL_UNLESS_ASKED or _PROCESSES in fixtures
    names = next((names for names in asked if names), ["real" if is_real else "virtual"])
    return {name: _FACTORIES[name] for name in names}
