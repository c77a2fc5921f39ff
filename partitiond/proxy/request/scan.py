"""Scans request bodies before anything of them is built: how much, and how deep.

A body of 8 MiB can hold millions of values, and what is built of them would take the event loop
seconds. So a large body is scanned in the pieces that it comes in, between which the event loop
turns, by searches that take about as long whatever a piece holds. What is refused is not kept.

The scan looks at the outline of the JSON: each string is one or two bytes of it, digits and
whitespace are none, and of a run of commas, as token ids have, one is left. Where a body is no
JSON, its outline is right up to there, and no reader comes further.
"""

import codecs
from typing import Final

from partitiond.core.units import KIB, MIB
from partitiond.proxy.request.errors import ApiError, invalid

PIECE_BYTES: Final = 64 * KIB
"""Bodies up to this size are scanned at once, and only if they have many brackets. Chosen."""
MAX_NESTING: Final = 64
"""Depth of the request's JSON. Chosen."""
MAX_FIELDS: Final = 1024
"""Fields of the request itself, which are told apart if one is changed. Chosen."""
MAX_OUTLINE_BYTES: Final = 256 * KIB
"""Some 20,000 messages, or 80,000 empty lists. Building those takes 10 ms of a core, and the rest
of the scan as long (bench/proxy/large_bodies.py)."""
MAX_SPACES: Final = 2 * MIB
"""Whitespace between values: four times what a large outline has if it is indented. Chosen."""
MAX_TOKENS_LIMIT: Final = 1_048_576
"""No engine that we know serves longer contexts; a larger `max_tokens` is a mistake, and so are
more token ids."""

_TOO_DEEP: Final = invalid(
    f"The JSON is nested deeper than {MAX_NESTING} levels.", code="invalid_json"
)
_TOO_MUCH: Final = invalid(
    f"The body holds too many values: at most {MAX_FIELDS} fields, {MAX_TOKENS_LIMIT} token ids, "
    f"and {MAX_OUTLINE_BYTES} bytes beside strings and digits are read. Send fewer at once.",
    code="too_many_values",
)
_UNCOUNTED: Final = bytes(byte for byte in range(256) if byte not in b"[{]},")


class ScannedBody:
    """A body as it comes, scanned in pieces if it is large.

    Attributes:
        refusal: why it is refused, as far as it was scanned; then nothing of it is kept.
    """

    def __init__(self) -> None:
        self.refusal: ApiError | None = None
        self._scanned: list[bytes] = []
        self._new: list[bytes] = []
        self._new_bytes = 0
        self._decoder: codecs.IncrementalDecoder | None = None
        self._rest = b""
        """A backslash, if the byte that it escapes is in the next piece."""
        self._in_string = False
        self._depth = self._fields = self._outline_bytes = self._spaces = self._ids = 0

    def add(self, data: bytes) -> None:
        """Take what has come."""
        self._new.append(data)
        self._new_bytes += len(data)
        if self._new_bytes > PIECE_BYTES:
            self._scan()

    def take(self) -> bytes:
        """Return the whole body, without the byte order mark that some clients write before it."""
        # A body with at most so many brackets cannot be too deep: usually two counts suffice.
        parts = self._new
        if self.refusal is None and not self._scanned:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            if body.count(b"{") + body.count(b"[") <= MAX_NESTING:
                self._new = []
                self.refusal = None if body.isascii() else self._check_text(body)
                return body.removeprefix(codecs.BOM_UTF8)
        self._scan()
        parts, self._scanned = self._scanned, []
        return b"".join(parts).removeprefix(codecs.BOM_UTF8)

    def _scan(self) -> None:
        piece = b"".join(self._new)
        self._new, self._new_bytes = [], 0
        if self.refusal is None:
            outline = self._outline(self._rest + piece)
            self.refusal = self._check_text(piece) or self._measure(outline)
            self._scanned.append(piece)
        if self.refusal is not None:
            self._scanned = []

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
        self._rest = b""
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
            if piece.endswith(b"\\"):
                piece, self._rest = piece[:-1], b"\\"
        parts = piece.split(b'"')
        outline = b'"'.join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        whole = len(outline)
        outline = outline.translate(None, b" \t\r\n")
        self._spaces += whole - len(outline)
        outline = outline.translate(None, b"0123456789")
        commas = len(outline)
        while b",," in outline:
            outline = outline.replace(b",,", b",")
        self._ids += commas - len(outline)
        return outline

    def _measure(self, outline: bytes) -> ApiError | None:
        self._outline_bytes += len(outline)
        if (
            self._outline_bytes > MAX_OUTLINE_BYTES
            or self._ids > MAX_TOKENS_LIMIT
            or self._spaces > MAX_SPACES
        ):
            return _TOO_MUCH
        depth = self._depth
        for byte in outline.translate(None, _UNCOUNTED):
            if byte == 44:  # a comma
                self._fields += depth == 1
            elif byte in b"[{":
                depth += 1
                if depth > MAX_NESTING:
                    return _TOO_DEEP
            else:
                depth -= 1
        self._depth = depth
        return _TOO_MUCH if self._fields >= MAX_FIELDS else None


def not_json(error: Exception) -> ApiError:
    """400: a reader of JSON stopped at this."""
    return invalid(f"The body is not valid JSON: {error}.", code="invalid_json")
