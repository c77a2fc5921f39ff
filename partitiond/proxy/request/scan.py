"""Scans request bodies before anything of them is built: how much there is, and how deep.

Millions of values would take the event loop seconds. So a large body is scanned in the pieces in
which it comes, between which the loop turns, by searches that take about as long for any bytes. The
outline of JSON is left: a quote of a string, of numbers what is no digit, and one comma of those
between token ids. If a body is no JSON, this is right up to there, and no reader comes further.
"""

import codecs
from typing import Final

from partitiond.core.units import KIB, MIB
from partitiond.proxy.request.errors import ApiError, invalid

PIECE_BYTES: Final = 64 * KIB
"""Smaller bodies are scanned only if they have many brackets. Chosen."""
MAX_PIECES: Final = 256
"""More are joined, or pieces of a byte or two would take twenty times the memory. Chosen."""
MAX_NESTING: Final = 64
"""Depth of the request's JSON. Chosen."""
MAX_WORK: Final = 2 * MIB
"""As much as a million token ids, 16,000 messages, or 80,000 empty lists; what is built of these
takes 3 to 30 ms of a core (bench/proxy/large_bodies.py)."""
_BYTE, _COLON, _TOKEN_ID = 8, 24, 2
"""Work of a byte of the outline, more of a colon, which has a name before it, and of a token id; of
a byte of whitespace and of a backslash it is 1."""
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[{]}")


class ScannedBody:
    """A body as it comes.

    Attributes:
        refusal: why it is refused, as far as it was scanned.
    """

    refusal: ApiError | None = None
    _scanned_parts = 0
    _new_bytes = 0
    _decoder: codecs.IncrementalDecoder | None = None
    _rest = b""
    """A backslash, if the byte that it escapes is in the next piece."""
    _in_string = False
    _depth = 0
    _work = 0

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, data: bytes) -> None:
        """Take what has come."""
        self._parts.append(data)
        self._new_bytes += len(data)
        many = len(self._parts) - self._scanned_parts > MAX_PIECES
        if many or self._new_bytes > PIECE_BYTES:
            self._scan()

    def take(self) -> bytes:
        """Return the whole body, without the byte order mark that some clients write before it."""
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        # A body with at most so many brackets cannot be too deep: usually two counts suffice.
        if self._scanned_parts or body.count(b"{") + body.count(b"[") > MAX_NESTING:
            self._scan()
        elif not body.isascii():
            self.refusal = self._check_text(body)
        self._parts = []
        return body.removeprefix(codecs.BOM_UTF8)

    def _scan(self) -> None:
        piece = b"".join(self._parts[self._scanned_parts :])
        self._parts[self._scanned_parts :] = [piece]
        self._scanned_parts += 1
        self._new_bytes = 0
        if self.refusal is None:
            self.refusal = self._check_text(piece) or self._measure(self._outline(piece))
        if self.refusal is not None:
            self._parts[:] = [b""] * self._scanned_parts

    def _check_text(self, piece: bytes) -> ApiError | None:
        """Check the text, as engines do; msgspec does not check what it skips."""
        if self._decoder is None:
            self._decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            self._decoder.decode(piece)
        except UnicodeDecodeError as error:
            return not_json(error)
        return None

    def _outline(self, piece: bytes) -> bytes:
        piece, self._rest = self._rest + piece, b""
        if b"\\" in piece:
            self._work += piece.count(b"\\")
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
            if piece.endswith(b"\\"):
                piece, self._rest = piece[:-1], b"\\"
        parts = piece.split(b'"')
        outline = b'"'.join(parts[int(self._in_string) :: 2])
        if len(parts) % 2 == 0:
            self._in_string = not self._in_string
        whole = len(outline)
        outline = outline.translate(None, b" \t\r\n")
        self._work += whole - len(outline)
        outline = outline.translate(None, b"0123456789")
        commas = len(outline)
        while b",," in outline:
            outline = outline.replace(b",,", b",")
        self._work += _TOKEN_ID * (commas - len(outline))
        return outline

    def _measure(self, outline: bytes) -> ApiError | None:
        self._work += _BYTE * len(outline) + _COLON * outline.count(b":")
        if self._work > MAX_WORK:
            return _TOO_MUCH
        depth = self._depth
        for byte in outline.translate(None, _NO_BRACKETS):
            depth += 1 if byte in b"[{" else -1
            if depth > MAX_NESTING:
                return _TOO_DEEP
        self._depth = depth
        return None


def not_json(error: Exception) -> ApiError:
    """400: a reader of JSON stopped at this."""
    return invalid(f"The body is not valid JSON: {error}.", code="invalid_json")


_TOO_DEEP: Final = invalid(
    f"The JSON is nested deeper than {MAX_NESTING} levels.", code="invalid_json"
)
_TOO_MUCH: Final = invalid(
    "The body holds too many values: send fewer lists, objects, token ids and escapes at once.",
    code="too_many_values",
)
