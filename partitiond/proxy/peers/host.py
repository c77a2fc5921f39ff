"""Hears what the proxy of one other host tells of its load.

The answer to `GET /load` never ends: it is one line of JSON (`messages.News`) ten times a second.
An owner that takes no further request ends it.
"""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable
from typing import Final

from partitiond.core.dispatch.peer_loads import PeerCounts, PeerLoads
from partitiond.core.dispatch.routing import PeerRoute
from partitiond.core.units import MIB
from partitiond.proxy.engine.framing import FramingError, Head
from partitiond.proxy.peers.hop import Hop, head_lines
from partitiond.proxy.peers.messages import Counts, read_failed, read_news
from partitiond.proxy.peers.pool import PeerConnection, PeerPool
from partitiond.proxy.request.errors import AttemptError

LOAD_PATH: Final = "/load"
DEAD_SECONDS: Final = 5.0
"""An owner that says nothing for so long is left: its requests fail, and a new connection is tried.
It tells its load ten times a second. Chosen."""
FIRST_PAUSE_SECONDS: Final = 0.1
"""Pause after a try to connect; doubled after each further one. Chosen."""
LONGEST_PAUSE_SECONDS: Final = 2.0
"""Longest such pause: a host that is back is found so soon. A connection that ends earlier than
that counts as a try that failed, lest a broken peer keep us connecting. Chosen."""
MAX_LINE_BYTES: Final = 4 * MIB
"""Longer lines end the connection: far more than a host with 1,024 replicas tells. Chosen."""

_logger = logging.getLogger("partitiond.proxy")


class PeerHost:
    """One peer: the connections to it, and its load.

    Attributes:
        route: the peer, by the routing table.
        pool: connections for requests.
        running: requests that were sent there.
        loads: by model.
        is_heard: it has told its load on this connection.
        unheard_at: since when it has not, monotonic seconds; it counts while it is not heard.

    Args:
        own: name of this host.
        context: returns the context for TLS; None where none is set.
        changed: called when the peer told its load, or is gone.
        placed: called when the peer told what was placed lately: of which model, and the digests by
            replica of the peer.
    """

    def __init__(
        self,
        route: PeerRoute,
        own: str,
        context: Callable[[], ssl.SSLContext] | None,
        changed: Callable[["PeerHost"], object],
        placed: Callable[[str, dict[str, bytes]], object],
    ) -> None:
        self.route = route
        self.pool = PeerPool(route.address, context)
        self.running: set[Hop] = set()
        self.loads: dict[str, PeerLoads] = {}
        self.is_heard = False
        self.unheard_at = time.monotonic()
        self._own = own
        self._changed = changed
        self._placed = placed
        self._task: asyncio.Task[None] | None = None
        self._has_logged = False

    def start(self) -> None:
        """Begin to listen to it."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._keep())

    def close(self) -> None:
        """Listen no more; the requests there go on."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self.pool.close()

    # What it tells

    def take_news(self, line: bytes) -> None:
        """Take the host's news. Raises ValueError if it makes no sense."""
        news = read_news(line)
        self.is_heard = True
        self._has_logged = False
        self._take_counts(news.counts)
        for model, placed in news.lately.items():
            loads = self.loads.get(model)
            if loads is not None:  # it has a say on its own replicas alone
                self._placed(model, {at: one for at, one in placed.items() if at in loads.replicas})

    def _take_counts(self, counts: Counts) -> None:
        now = time.monotonic()
        for gone in [name for name in self.loads if name not in counts]:
            del self.loads[gone]
        for name, told in counts.items():
            loads = self.loads.get(name)
            if loads is None:
                loads = self.loads[name] = PeerLoads(self.route.host)
            waiting, sequences = told.waiting, told.waiting_sequences
            loads.take_over(
                PeerCounts(told.replicas, waiting, sequences, told.service_seconds), now
            )
        self._changed(self)

    # The connection that it tells on

    async def _keep(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            began = time.monotonic()
            try:
                await self._listen()
            finally:
                self._unheard()
            if time.monotonic() - began > LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_SECONDS, 2 * pause)

    async def _listen(self) -> None:
        """Ask the peer to tell its load on a new connection; return once it is heard no more."""
        try:
            connection = await self.pool.connect()
        except AttemptError as error:
            reason = error.__cause__ or error
            self.log_refusal(
                f"cannot be reached at {self.route.address}: {reason or type(reason).__name__}"
            )
            return
        assert isinstance(connection, PeerConnection)
        reader = _NewsReader(self)
        connection.send(
            b"GET %b HTTP/1.1\r\n%b\r\n" % (LOAD_PATH.encode(), head_lines(self._own)), reader
        )
        try:
            await self._hear(connection, reader)
        finally:
            connection.close()

    async def _hear(self, connection: PeerConnection, reader: "_NewsReader") -> None:
        """Return once nothing is heard here, or the certificates are renewed."""
        while not reader.over.is_set() and self.pool.context() is connection.context:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEAD_SECONDS / 5):
                    await reader.over.wait()
            if time.monotonic() - reader.heard_at > DEAD_SECONDS:
                self.log_refusal(f"has said nothing for {DEAD_SECONDS:g} s")
                self._unheard()  # first: what waits there waits for it to be back
                for hop in list(self.running):
                    hop.lost()
                return

    def log_refusal(self, what: str) -> None:
        """Log why the peer is not heard, once until it is: one that is off needs no line each
        second.
        """
        if not self._has_logged:
            self._has_logged = True
            _logger.warning("the proxy of host %s %s", self.route.host, what)

    def _unheard(self) -> None:
        if self.is_heard:
            self.unheard_at = time.monotonic()
        self.is_heard = False
        self.loads = {}
        self._changed(self)


class _NewsReader:
    """Cuts what a peer tells into lines.

    Attributes:
        over: set once nothing follows.
        heard_at: when bytes came last, monotonic seconds.
    """

    def __init__(self, peer: PeerHost) -> None:
        self.over = asyncio.Event()
        self.heard_at = time.monotonic()
        self._peer = peer
        self._begun = b""

    def received_note(self, head: Head) -> None:
        """Ignore what precedes the answer."""

    def received_head(self, head: Head) -> None:
        """Take note of a refusal."""
        if head.status != 200:
            try:
                why = read_failed(head.hop).message
            except ValueError:
                why = f"status {head.status}"
            self._peer.log_refusal(f"refuses this one: {why}")

    def received_body(self, data: bytes) -> None:
        """Take further lines. Raises FramingError if they make no sense."""
        self.heard_at = time.monotonic()
        *lines, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) > MAX_LINE_BYTES:
            raise FramingError("a line without an end")
        for line in lines:
            try:
                self._peer.take_news(line)
            except ValueError as error:
                self._peer.log_refusal(f"told what makes no sense: {error}")
                raise FramingError(str(error)) from error

    def received_end(self) -> None:
        """End: the peer takes no further request."""
        self.over.set()

    def received_failure(self, failure: AttemptError) -> None:  # noqa: ARG002 -- as at an engine
        """End: the connection has ended, or what came made no sense."""
        self.over.set()

    def on_bug(self) -> None:
        """End after a bug of ours; called inside `except`."""
        _logger.exception("what a peer told of its load could not be taken")
        self.over.set()
