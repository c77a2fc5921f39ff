"""Carries one request to another host, and its answer back, beside others on one connection."""

from collections.abc import Callable
from typing import Final, Protocol

from partitiond.proxy.dispatch.flights import HOP_SECONDS, Flight, FlightTarget
from partitiond.proxy.engine.framing import SIZES, Head
from partitiond.proxy.engine.upstream import AnswerStream, Receiver
from partitiond.proxy.peers import frames
from partitiond.proxy.peers.messages import Failed, PlacedAt, read_failed, read_head, read_placed
from partitiond.proxy.peers.socket import PeerSocket
from partitiond.proxy.request.dialects import Markers
from partitiond.proxy.request.errors import FAILURE_STATUS, AttemptError

LOST: Final = Failed(
    502, "upstream_reset", "The host of the model's engine cannot be reached any more."
)
"""What a request hears whose connection to its owner ended."""
SILENT: Final = Failed(429, "queue_timeout", "No slot came free in time.", 1, refused=True)
"""What a request hears whose owner neither starts nor refuses it."""
UNREACHED: Final = "upstream_connect"
"""What an owner says that reached none of its replicas."""
FLOODS: Final = Failed(
    502, "upstream_bad_response", "The host of the model's engine sends more than is read."
)
"""What a request hears whose owner goes on sending after it was asked to pause."""
MAX_PAUSED_BYTES: Final = 32 * 1024 * 1024
"""Most of an answer that is taken while its client does not read: what an owner sent before it
heard of it, which the buffers of one TCP connection bound. Chosen, several times those buffers."""
MAX_PLACES: Final = 64
"""Most replicas that one request is sent to at its owner. Chosen, far above the retries."""
_KIND: Final = "upstream_"


class HopOwner(Protocol):
    """A request that was sent to another host."""

    def hop_placed(self, stream: "PeerStream", replica_id: str) -> None:
        """Begin: the request has a place on a replica there."""
        ...

    def hop_moved(self, replica_id: str, attempts: int) -> None:
        """Note that the owner has sent the request to another of its replicas.

        Args:
            attempts: as the owner tells them, with this one and without those whose replica was not
                reached.
        """
        ...

    def hop_failed(self, failed: Failed, *, sent: bool) -> None:
        """Go on elsewhere, or end: the owner gives no answer.

        Args:
            sent: the request had a place on a replica; else it was refused, or never arrived.
        """
        ...

    def crashed(self) -> None:
        """End after a bug of ours; called inside `except`."""
        ...


class PeerStreams(PeerSocket):
    """The streams of one connection, on the entry's side; `PeerLink` is the only kind."""

    def forget(self, number: int) -> None:
        """Forget a stream that has ended."""
        raise NotImplementedError


class PeerStream(AnswerStream):
    """One request at another host.

    Attributes:
        host: name of the other host.
        number: of the request on its connection.
        over: it has ended, or nobody waits for it.
        is_placed: it has a place on a replica.
        is_lost: its connection ended before it.
    """

    __slots__ = (
        "_has_head", "_is_paused", "_link", "_markers", "_owner", "_paused_bytes", "_places",
        "_receiver", "_write", "host", "is_lost", "is_placed", "number", "over",
    )  # fmt: skip

    def __init__(self, link: PeerStreams, number: int, owner: HopOwner) -> None:
        super().__init__()
        self.is_sent = True
        self.number = number
        self.over = False
        self.is_placed = False
        self.is_lost = False
        self._has_head = False
        self._is_paused = False
        self._paused_bytes = 0
        self._places = 0
        self.host = link.peer
        self._link = link
        self._owner = owner
        self._receiver: Receiver | None = None
        self._write: Callable[[bytes], object] | None = None
        self._markers: Markers = (b"", b"", b"", b"")

    # Calls of an attempt

    def answer_to(self, receiver: Receiver) -> None:
        """Pass the answer to the receiver."""
        self._receiver = receiver

    def open_fast_way(self, write: Callable[[bytes], object], markers: Markers) -> None:
        """Send plain pieces straight to `write` from now on."""
        self._write, self._markers = write, markers

    def pause(self) -> None:
        """Ask the owner to send nothing for now."""
        if not self.over:
            self._is_paused, self._paused_bytes = True, 0
            self._link.send(frames.PAUSE, self.number)

    def resume(self) -> None:
        """Ask the owner to send again."""
        if not self.over:
            self._is_paused = False
            self._link.send(frames.RESUME, self.number)

    def close(self) -> None:
        """Drop the answer, and tell the owner that nobody waits for it."""
        if not self.over:
            self._link.send(frames.CANCEL, self.number)
            self._end()

    def let_go(self) -> None:
        """Ignore the rest of the answer, also its end: its client has received all of it."""
        if not self.over:
            self._end()

    # Calls of the connection

    def take(self, kind: int, payload: bytes) -> None:
        """Take a frame. Raises ValueError if it makes no sense."""
        try:
            self._take(kind, payload)
        except ValueError:
            raise
        except Exception:  # noqa: BLE001 -- logged by whose answer it is
            self._crashed()

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == frames.CHUNK:
            self._take_chunk(payload)
        elif kind == frames.PIECE:
            self._take_piece(payload)
        elif kind == frames.HEAD:
            self._take_head(payload)
        elif kind == frames.END:
            self._check_turn()
            receiver = self._receiver
            self._end()
            if receiver is not None:
                try:
                    receiver.received_end()
                except Exception:  # noqa: BLE001 -- logged by whose answer it is
                    receiver.crashed()
        elif kind == frames.PLACED:
            self._take_place(read_placed(payload))
        elif kind == frames.FAIL:
            self.fail(read_failed(payload))

    def lost(self) -> None:
        """Fail because the connection has ended."""
        self.is_lost = True
        try:
            self.fail(LOST)
        except Exception:  # noqa: BLE001 -- logged by whose request it is; others are ended, too
            self._owner.crashed()

    def _crashed(self) -> None:
        """End the request after a bug of ours, lest it hang; call it inside `except`."""
        receiver = self._receiver
        self.close()
        if receiver is not None:
            receiver.crashed()
        else:
            self._owner.crashed()

    def _check_turn(self) -> None:
        if not self._has_head:
            raise ValueError("it sent an answer without a head")

    def _take_head(self, payload: bytes) -> None:
        head = read_head(payload)
        if not self.is_placed or self._has_head:
            raise ValueError("it sent a head out of turn")
        self._has_head = True
        if self._receiver is not None:
            self._receiver.received_head(
                Head(
                    head.status, head.content_type, None, head.stream, True,
                    metadata=head.metadata, load=head.load,
                )
            )  # fmt: skip

    def fail(self, failed: Failed) -> None:
        """End without an answer, or without the rest of it."""
        if self.over:
            return
        receiver = self._receiver
        self._end()
        if receiver is None:
            self._owner.hop_failed(failed, sent=self.is_placed)
            return
        self._owner.hop_failed(failed, sent=True)
        kind = failed.code.removeprefix(_KIND)
        receiver.received_failure(
            AttemptError(kind if kind in FAILURE_STATUS else "engine_error", failed.message)
        )

    def _take_place(self, placed: PlacedAt) -> None:
        self._places += 1
        if self._has_head or self._places > MAX_PLACES:
            raise ValueError("it moved a request out of turn")
        if self.is_placed:
            self._owner.hop_moved(placed.replica_id, placed.attempts)
        else:
            self.is_placed = True
            self._owner.hop_placed(self, placed.replica_id)

    def _take_chunk(self, data: bytes) -> None:
        self._check_turn()
        if self._is_paused and self._floods(len(data)):
            return
        at = data.find(b"\r\n", 0, 10)
        size = SIZES.get(data[:at])
        if size is None or size + at + 4 != len(data) or not data.endswith(b"\r\n"):
            size = _size_of(data, at)
        write = self._write
        if write is not None and data.endswith(b"\n\n\r\n"):
            first, second, third, fourth = self._markers
            if (
                first not in data
                and second not in data
                and third not in data
                and fourth not in data
            ):
                self.fast_pieces += 1
                self.fast_bytes += size
                write(data)
                return
        self._pass_on(data[at + 2 : -2])

    def _take_piece(self, data: bytes) -> None:
        self._check_turn()
        if not (self._is_paused and self._floods(len(data))):
            self._pass_on(data)

    def _floods(self, size: int) -> bool:
        """Count what comes though the owner was asked to pause; fail if it goes on and on."""
        self._paused_bytes += size
        if self._paused_bytes <= MAX_PAUSED_BYTES:
            return False
        self._link.send(frames.CANCEL, self.number)
        self.fail(FLOODS)
        return True

    def _pass_on(self, data: bytes) -> None:
        self._write = None
        if self._receiver is not None:
            self._receiver.received_body(data)

    def _end(self) -> None:
        self.over = True
        self._receiver = None
        self._write = None
        self._link.forget(self.number)


def _size_of(data: bytes, at: int) -> int:
    """Return the size of a chunk of any size. Raises ValueError if it is not one whole chunk."""
    size = int(data[:at], 16) if at > 0 and data[:at].isalnum() else -1
    if size < 1 or size + at + 4 != len(data) or not data.endswith(b"\r\n"):
        raise ValueError("it sent what is no chunk")
    return size


class PeerReplica(FlightTarget):
    """A replica of another host, for the one request that runs there; its owner judges it.

    Args:
        left: called when the request has left.
    """

    later_seconds = HOP_SECONDS

    def __init__(self, replica_id: str, stream: PeerStream, left: Callable[[], object]) -> None:
        super().__init__(replica_id)
        self._stream = stream
        self._left = left

    def reuse(self, now: float) -> AnswerStream | None:  # noqa: ARG002 -- as at an engine
        """Return the stream, on which the request was sent already."""
        return self._stream

    async def connect(self) -> AnswerStream:
        """Never called, because there is always the stream. Raises AttemptError."""
        raise AttemptError("connect", "The engine cannot be reached.", no_byte=True)

    def release(self, connection: AnswerStream, now: float) -> None:  # noqa: ARG002
        """Ignore the end of an answer that was relayed already."""
        self._stream.let_go()

    def remove(self, flight: Flight) -> None:
        """Forget the flight; the owner counts the time that it had the engine."""
        if flight.replica is self:
            flight.replica = None
            self._left()

    def connect_failed(self) -> bool:
        """Return True: the owner reached none of its replicas, so nothing was sent."""
        return True

    @property
    def counted_as(self) -> str:
        """The owner's name if it was lost, since only the owner's word names the replica; else
        empty, since the owner counts its engines' failures.
        """
        return self._stream.host if self._stream.is_lost else ""
