"""Sends the answer to another host's request in frames."""

from collections.abc import Callable

from partitiond.proxy.edge.answer import Answer
from partitiond.proxy.peers import frames
from partitiond.proxy.peers.messages import AnswerHead, Failed, encode
from partitiond.proxy.peers.socket import PeerSocket
from partitiond.proxy.request.errors import ApiError

_STREAM_TYPE = b"text/event-stream; charset=utf-8"


class PeerAnswer(Answer):
    """An answer to the proxy of another host.

    Args:
        was_sent: returns whether the request was sent to a replica.
    """

    __slots__ = ("_number", "_socket", "_was_sent")

    def __init__(self, socket: PeerSocket, number: int, was_sent: Callable[[], bool]) -> None:
        super().__init__(socket.chunk_writer(number), chunked=True)
        self._socket = socket
        self._number = number
        self._was_sent = was_sent

    def whole(self, status: int, content_type: bytes, body: bytes, headers: bytes = b"") -> None:
        """Send a complete answer."""
        told = dict(line.partition(b": ")[::2] for line in headers.split(b"\r\n") if line)
        head = AnswerHead(
            status,
            content_type,
            metadata=told.get(b"metadata", b""),
            load=told.get(b"endpoint-load-metrics", b""),
        )
        self.status = status
        self.ended = True
        self._socket.send(frames.HEAD, self._number, encode(head))
        self._socket.send_pieces(self._number, body)
        self._socket.send_last(frames.END, self._number)

    def start_stream(self, first: bytes) -> None:
        """Send the head of a stream and its first events."""
        self.status = 200
        self.streaming = True
        self._socket.send(
            frames.HEAD, self._number, encode(AnswerHead(200, _STREAM_TYPE, stream=True))
        )
        self._socket.send_pieces(self._number, first)

    def piece(self, data: bytes) -> None:
        """Send further events of a stream."""
        self._socket.send_pieces(self._number, data)

    def end_stream(self, data: bytes) -> None:
        """Send the last events of a stream, and its head if the stream has not begun."""
        if not self.streaming:
            self.start_stream(data)
        else:
            self._socket.send_pieces(self._number, data)
        self.streaming = False
        self.ended = True
        self._socket.send_last(frames.END, self._number)

    def error(self, error: ApiError, opening: bytes = b"") -> None:  # noqa: ARG002 -- the entry's
        """Say why there is no answer, or no further one; the entry words it for its client."""
        if self.ended:
            return
        failed = Failed(
            error.status,
            error.code or "",
            error.message,
            error.retry_after_seconds,
            refused=not self._was_sent(),
        )
        self.status = error.status
        self.streaming = False
        self.ended = True
        self._socket.send(frames.FAIL, self._number, encode(failed))
