"""Defines the frames in which the proxies of two hosts talk, and cuts received bytes into them.

A frame is the length of its payload (4 bytes, big-endian), its kind (1 byte), the number of the
request that it is about (4 bytes, big-endian; 0 for none), and the payload. All requests of one
host to another share one connection, so many small pieces travel in one write and in one TLS
record. A kind that is unknown is skipped: a newer release may have more of them.

Who asks is the *entry*: its client waits. Who answers is the *owner*: the replica runs there.
"""

import struct
from typing import Final

HEADER: Final = struct.Struct(">IBI")
HEADER_BYTES: Final = 9
MAX_PAYLOAD_BYTES: Final = 256 * 1024
"""Larger payloads end the connection. An engine's chunk may be larger: it is sent in pieces."""
BODY_BYTES: Final = 64 * 1024
"""A request's body is cut into frames of at most this size."""
MAX_NUMBER: Final = 2**32 - 1
"""The highest number of a request; a connection that has used it up is replaced."""

# Of both
HELLO: Final = 1
"""The first frame of each side: `messages.Hello`."""
# Of the entry
OPEN: Final = 2
"""A request: the length of its `messages.Open` (4 bytes), that, and the beginning of its body."""
BODY: Final = 3
"""More of a request's body."""
CANCEL: Final = 4
"""Nobody waits for the answer any more."""
PAUSE: Final = 5
"""The client does not read: send no more for now."""
RESUME: Final = 6
"""The client reads again."""
PING: Final = 7
"""The entry is there. An owner that hears nothing for long takes the entry for dead."""
# Of the owner
PLACED: Final = 8
"""The request has a place on a replica, which `messages.PlacedAt` names."""
HEAD: Final = 9
"""The head of the answer: `messages.AnswerHead`."""
PIECE: Final = 10
"""A piece of the answer's body, of whole events if it is a stream."""
CHUNK: Final = 11
"""The same, as one chunk with its frame, as the engine sent it and as the client gets it."""
END: Final = 12
"""The end of the complete answer."""
FAIL: Final = 13
"""The request has no answer, or no further one: `messages.Failed`."""
COUNTS: Final = 14
"""Load of the owner: the highest number of this entry's requests that it has (4 bytes), the
microseconds of the owner's monotonic clock (8 bytes), both big-endian, then `messages.Counts`."""
LEAVING: Final = 15
"""The owner takes no further request on this connection; those that run go on."""
LATELY: Final = 17
"""What was placed on the owner's replicas lately: `messages.LatelyPlaced`. 16 is of a release
before, which told its use of keys."""

Frame = tuple[int, int, bytes]
"""(kind, number, payload)"""


class WireError(ValueError):
    """The received bytes are not of this protocol."""


def frame(kind: int, number: int, payload: bytes = b"") -> bytes:
    """Return the bytes of a frame."""
    return HEADER.pack(len(payload), kind, number) + payload


class FrameReader:
    """Cuts the bytes of one connection, which arrive in pieces of any size, into frames."""

    __slots__ = ("_kept", "_kept_bytes", "_needed_bytes")

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._needed_bytes = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that are complete now. Raises WireError."""
        if self._kept:
            # Joined once a frame is complete: one that comes byte by byte is copied once.
            self._kept.append(data)
            self._kept_bytes += len(data)
            if self._kept_bytes < self._needed_bytes:
                return []
            data = b"".join(self._kept)
            self._kept = []
        frames: list[Frame] = []
        at, end = 0, len(data)
        self._needed_bytes = HEADER_BYTES
        while end - at >= HEADER_BYTES:
            size, kind, number = HEADER.unpack_from(data, at)
            if size > MAX_PAYLOAD_BYTES:
                raise WireError(f"a frame of {size} bytes")
            after = at + HEADER_BYTES + size
            if after > end:
                self._needed_bytes = HEADER_BYTES + size
                break
            frames.append((kind, number, data[at + HEADER_BYTES : after]))
            at = after
        if at < end:
            self._kept = [data[at:]]
            self._kept_bytes = end - at
        return frames
