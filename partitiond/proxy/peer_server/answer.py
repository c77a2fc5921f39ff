"""Sends the answer to another host's request: as to a client, with what its entry needs to know."""

from collections.abc import Callable

from partitiond.proxy.edge.answer import STATUS_LINES, Answer, ClientSide
from partitiond.proxy.engine.framing import HOP
from partitiond.proxy.peers.messages import Failed, PlacedAt, encode
from partitiond.proxy.request.dialects import Dialect
from partitiond.proxy.request.errors import ApiError


class PeerAnswer(Answer):
    """An answer to the proxy of another host.

    Args:
        was_sent: returns whether the request was sent to a replica.
    """

    __slots__ = ("_was_sent",)

    def __init__(self, client: ClientSide, dialect: Dialect, was_sent: Callable[[], bool]) -> None:
        super().__init__(client, dialect, "", keep_alive=True, chunked=True)
        self._was_sent = was_sent

    def placed(self, replica_id: str, attempts: int) -> None:
        """Say that the request has a place on a replica."""
        told = encode(PlacedAt(replica_id, attempts))
        self.write(b"HTTP/1.1 103 Early Hints\r\n%b: %b\r\n\r\n" % (HOP, told))

    def _head(self, status: int, headers: bytes) -> bytes:
        self.status = status
        return b"%b%b\r\n" % (STATUS_LINES[status], headers)

    def error(self, error: ApiError, opening: bytes = b"") -> None:  # noqa: ARG002 -- the entry's
        """Say why there is no answer, or no further one; the entry words it for its client."""
        if self.ended:
            return
        told = encode(
            Failed(
                error.status, error.code or "", error.message, error.retry_after_seconds,
                refused=not self._was_sent(),
            )
        )  # fmt: skip
        self.ended = True
        if self.streaming:
            self.streaming = False
            self.write(b"0\r\n%b: %b\r\n\r\n" % (HOP, told))
        else:
            self.write(self._head(error.status, b"%b: %b\r\ncontent-length: 0\r\n" % (HOP, told)))
