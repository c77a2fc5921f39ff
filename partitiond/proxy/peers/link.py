"""Keeps a connection to the proxy of another host, and what that one tells of its load."""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from typing import Final, cast

from partitiond.core.dispatch.balance import ReplicaLoad
from partitiond.core.dispatch.peer_loads import PeerClock, PeerCounts, PeerLoads
from partitiond.core.dispatch.routing import UNIX, PeerRoute
from partitiond.core.keys.charging import LONGEST_CONTEXT
from partitiond.platform.unix_socket import socket_address
from partitiond.proxy.peers import frames
from partitiond.proxy.peers.messages import (
    Counts,
    Hello,
    LatelyPlaced,
    Open,
    encode,
    read_counts,
    read_lately,
)
from partitiond.proxy.peers.stream import HopOwner, PeerStream, PeerStreams

PING_SECONDS: Final = 1.0
"""How often the entry says that it is there."""
DEAD_SECONDS: Final = 5.0
"""An owner that says nothing for so long is left: its requests fail, and a new connection is tried.
It tells its load ten times a second. Chosen."""
CONNECT_SECONDS: Final = 3.0
"""Limit for a connection and its handshake."""
FIRST_PAUSE_SECONDS: Final = 0.1
"""Pause after a try to connect; doubled after each further one. Chosen."""
LONGEST_PAUSE_SECONDS: Final = 2.0
"""Longest such pause: a host that is back is found so soon. A connection that ends earlier than
that counts as a try that failed, lest a broken peer keep us connecting. Chosen."""

_logger = logging.getLogger("partitiond.proxy")


class PeerLink(PeerStreams):
    """One connection to a peer.

    Attributes:
        is_leaving: the owner takes no further request on it.
        context: with which the owner's certificate was checked; None without TLS.
    """

    def __init__(self, own: Hello, client: "PeerClient") -> None:
        super().__init__(own)
        self.called = client.route.host
        self._client = client
        self._streams: dict[int, PeerStream] = {}
        self._number = 0
        self._clock = PeerClock()
        self._beat_timer: asyncio.TimerHandle | None = None
        self.is_leaving = False
        self.context: ssl.SSLContext | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say who we are, and from now on that we are there."""
        super().connection_made(transport)
        self._beat()

    def _beat(self) -> None:
        """Say that this entry is there, also while the last requests of a leaving owner run; leave
        an owner that says nothing.
        """
        self._beat_timer = None
        now = time.monotonic()
        if now - self.heard_at > DEAD_SECONDS:
            self.close(f"has said nothing for {DEAD_SECONDS:g} s")
        elif self.unread_seconds(now) > DEAD_SECONDS:
            self.close(f"has read nothing for {DEAD_SECONDS:g} s")
        elif not self.closed:
            if self.context is not self._client.context() and not self.is_leaving:
                self.leave()  # the next connection is made with the certificates in force
            self.send(frames.PING, 0)
            self._beat_timer = asyncio.get_running_loop().call_later(PING_SECONDS, self._beat)

    @property
    def is_open(self) -> bool:
        """Whether it takes requests."""
        return bool(self.peer) and not (self.closed or self.is_leaving)

    def in_flight(self) -> int:
        """Return the number of requests on it."""
        return len(self._streams)

    def open(self, asked: Open, body: bytes, owner: HopOwner) -> PeerStream:
        """Send a request."""
        self._number += 1
        stream = self._streams[self._number] = PeerStream(self, self._number, owner)
        head = encode(asked)
        first = body[: frames.BODY_BYTES]
        opening = len(head).to_bytes(4, "big") + head + first
        if len(first) == len(body):
            self.send_last(frames.OPEN, stream.number, opening)
        else:
            self.send(frames.OPEN, stream.number, opening)
        for at in range(frames.BODY_BYTES, len(body), frames.BODY_BYTES):
            self.send(frames.BODY, stream.number, body[at : at + frames.BODY_BYTES])
        if self._number >= frames.MAX_NUMBER:
            self.leave()
        return stream

    def leave(self) -> None:
        """Take no further request; end once those that run have ended."""
        self.is_leaving = True
        self._client.lost(self)
        if not self._streams:
            self.finish()

    def forget(self, number: int) -> None:
        """Forget a stream that has ended."""
        self._streams.pop(number, None)
        if self.is_leaving and not self._streams:
            self.finish()

    def greeted(self, hello: Hello) -> str:
        """Refuse a host that is not the one that was called."""
        if hello.host != self._client.route.host:
            return f"calls itself {hello.host[:64]!r}"
        return ""

    def take(self, kind: int, number: int, payload: bytes) -> None:
        """Take a frame. Raises ValueError if it makes no sense."""
        stream = self._streams.get(number)
        if stream is not None:
            stream.take(kind, payload)
        elif kind == frames.COUNTS:
            told = int.from_bytes(payload[4:12], "big") / 1e6
            made_at = self._clock.made_at(told, time.monotonic())
            last_number = int.from_bytes(payload[:4], "big")
            self._client.told(self, last_number, made_at, read_counts(payload[12:]))
        elif kind == frames.LATELY:
            self._client.told_lately(self, read_lately(payload))
        elif kind == frames.LEAVING:
            self.leave()

    def log_end(self, reason: str) -> None:
        """Log why the connection ends, once until the peer is heard."""
        if not self._client.has_complained:
            self._client.has_complained = True
            super().log_end(reason)

    def gone(self) -> None:
        """Fail the requests on it."""
        if self._beat_timer is not None:
            self._beat_timer.cancel()
        self._client.lost(self)
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            stream.lost()


class PeerClient:
    """One peer: the connection to it, made again whenever it ends, and its load.

    Attributes:
        route: the peer, by the routing table.
        link: the connection, or None while there is none.
        loads: by model.
        max_model_len: by model, longest context of any replica there, in tokens.
        is_heard: it has told its load on this connection.
        has_complained: it was logged that the peer is not reached, since it was heard.
        unheard_at: since when it has not, monotonic seconds; it counts while it is not heard.

    Args:
        context: returns the context for TLS; None where none is set.
        changed: called when the peer told its load, or is gone.
        placed: called when the peer told what was placed on its replicas lately.
    """

    def __init__(
        self,
        route: PeerRoute,
        own: Hello,
        context: Callable[[], ssl.SSLContext] | None,
        changed: Callable[["PeerClient"], object],
        placed: Callable[[LatelyPlaced], object],
    ) -> None:
        self.route = route
        self.link: PeerLink | None = None
        self.loads: dict[str, PeerLoads] = {}
        self.max_model_len: dict[str, int] = {}
        self._own = own
        self._context = context
        self._changed = changed
        self._placed = placed
        self._task: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self.has_complained = False
        self.is_heard = False
        self.unheard_at = time.monotonic()

    def context(self) -> ssl.SSLContext | None:
        """Return the TLS context in force; None for a path."""
        is_path = self.route.address.startswith(UNIX)
        return None if is_path or self._context is None else self._context()

    def start(self) -> None:
        """Begin to keep the connection."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep())

    def close(self) -> None:
        """End the connection once the requests on it have ended."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self.link is not None:
            self.link.leave()

    def told(self, link: PeerLink, last_number: int, made_at: float, counts: Counts) -> None:
        """Take the peer's word of its load, made at this time of the own clock."""
        if link is not self.link:
            return
        self.is_heard = True
        self.has_complained = False
        for gone in [name for name in self.loads if name not in counts]:
            del self.loads[gone]
            self.max_model_len.pop(gone, None)
        for name, told in counts.items():
            loads = self.loads.get(name)
            if loads is None:
                loads = self.loads[name] = PeerLoads(self.route.host)
            replicas = tuple(
                ReplicaLoad(
                    one.replica_id, one.sequences, one.max_sequences, one.kv_tokens,
                    one.kv_cache_tokens, one.draining, one.ejected, one.doubt,
                )
                for one in told.replicas
            )  # fmt: skip
            loads.take_over(
                PeerCounts(
                    replicas, told.waiting, told.waiting_sequences, told.service_seconds,
                    last_number,
                ),
                made_at,
            )  # fmt: skip
            longest = max((one.max_model_len for one in told.replicas), default=0)
            self.max_model_len[name] = min(max(0, longest), LONGEST_CONTEXT)
        self._changed(self)

    def told_lately(self, link: PeerLink, lately: LatelyPlaced) -> None:
        """Take the peer's word of what was placed on its replicas, and on no others. Raises
        ValueError if it makes no sense.
        """
        loads = self.loads.get(lately.model)
        if link is self.link and loads is not None:
            own = {name: told for name, told in lately.replicas.items() if name in loads.replicas}
            self._placed(LatelyPlaced(lately.model, own))

    def lost(self, link: PeerLink) -> None:
        """Note that a connection has ended, or takes no further request."""
        if link is self.link:
            self.link = None
            if self.is_heard:
                self.unheard_at = time.monotonic()
            self.is_heard = False
            self.loads = {}
            self.max_model_len = {}
            self._wanted.set()
            self._changed(self)

    async def _keep(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            link = await self._connect()
            if link is not None:
                began = time.monotonic()
                await self._watch(link)
                if time.monotonic() - began > LONGEST_PAUSE_SECONDS:
                    pause = FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_SECONDS, 2 * pause)

    async def _connect(self) -> PeerLink | None:
        """Return a new connection; None if there is none for now."""
        loop = asyncio.get_running_loop()
        link = PeerLink(self._own, self)
        protocol = cast("asyncio.Protocol", link)
        address = self.route.address
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if address.startswith(UNIX):
                    with socket_address(address.removeprefix(UNIX)) as path:
                        await loop.create_unix_connection(lambda: protocol, path)
                elif (context := self.context()) is not None:
                    link.context = context
                    host, _, port = address.rpartition(":")
                    host = host.strip("[]")
                    await loop.create_connection(
                        lambda: protocol, host, int(port), ssl=context, server_hostname=host
                    )
                else:
                    raise ConnectionError("no certificates are set, and hosts talk by TLS alone")
        except (OSError, ValueError, TimeoutError) as error:
            if not self.has_complained:  # a host that is off needs no line each second
                self.has_complained = True
                _logger.warning(
                    "the proxy of host %s cannot be reached at %s: %s",
                    self.route.host, address, error or type(error).__name__,
                )  # fmt: skip
            link.close("")
            return None
        return link

    async def _watch(self, link: PeerLink) -> None:
        """Return once the connection has ended, or takes no further request."""
        self._wanted.clear()
        self.link = link
        if not link.closed:
            await self._wanted.wait()
