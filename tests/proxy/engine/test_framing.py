"""Answers of engines are read for every split of their bytes."""

import itertools

import pytest

from partitiond.proxy.engine.framing import (
    MAX_BODILESS_BYTES,
    MAX_HEAD_BYTES,
    AnswerParser,
    FramingError,
    Head,
)

CHUNKS = b"5\r\nhello\r\n", b"169\r\n%b\r\n" % (b"\r\n1\r\n\n" * 60 + b"x"), b"1;a=b\r\n\n\r\n"
BODY = b"hello" + CHUNKS[1][5:-2] + b"\n"
BOUNDARIES = {0, *itertools.accumulate(len(chunk) for chunk in CHUNKS)}
ENDS = b"0\r\n\r\n", b"0\r\nx: y\r\nz: " + b"y" * 200 + b"\r\n\r\n", b"000;a\r\n\r\n"


class ChunkedDecoder:
    """A parser that is at the first chunk of an answer."""

    def __init__(self) -> None:
        self.parser = AnswerParser()
        self.parser.begin()
        self.parser.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")

    def feed(self, data: bytes) -> bytes:
        self.parser.feed(data)
        return self.parser.take_body()


def decoded(data: bytes, *cuts: int) -> tuple[bytes, AnswerParser]:
    """The body, from pieces that end there. Between chunks the decoder says so, and only there;
    but for a piece that is the last byte of a chunk alone, after which it may not know.
    """
    decoder = ChunkedDecoder()
    body, end = b"", data.find(b"\r\n0") + 2
    for at, to in itertools.pairwise([0, *cuts, len(data)]):
        is_boundary = at in BOUNDARIES and at <= end
        assert decoder.parser.at_boundary == is_boundary or (is_boundary and at - 1 in cuts), (
            at,
            cuts,
        )
        body += decoder.feed(data[at:to]) if to > at else b""
    assert not decoder.parser.at_boundary
    return body, decoder.parser


@pytest.mark.parametrize("end", ENDS)
def test_a_body_is_read_and_its_boundaries_known_however_it_is_cut(end: bytes) -> None:
    data = b"".join(CHUNKS) + end
    for cut in range(len(data)):
        body, decoder = decoded(data, cut)
        assert (body, decoder.is_over, decoder.surplus) == (BODY, True, False)
    assert decoded(data, *range(1, len(data)))[0] == BODY


@pytest.mark.parametrize("more", [b"x", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx", b"5\r\n"])
def test_what_follows_the_end_is_not_of_the_body_and_is_told(more: bytes) -> None:
    data = b"".join(CHUNKS) + ENDS[0]
    for cut in (0, len(data) - 1, len(data)):
        body, decoder = decoded(data + more, cut)
        assert (body, decoder.is_over, decoder.surplus) == (BODY, True, True)


@pytest.mark.parametrize("rest", [
    b"zz\r\n", b"-1\r\n", b"0x5\r\n", b" 5\r\n", b"\r\n", b";a\r\n", b"1_0\r\n", b"5\n",
    b"fffffffffffffffff\r\n", b"5\r\nhello5\r\n", b"5\r\nhello\n", b"5\r\nhel\r\n0\r\n\r\n",
    b"0\r\n x: y\r\n\r\n", b"0\r\nno colon\r\n\r\n", b"0\r\na b: c\r\n\r\n",
    b"0\r\nx: \x00\r\n\r\n", b"0\r\nx: y\nz\r\n\r\n",
])  # fmt: skip
def test_what_is_not_chunked_properly_is_refused(rest: bytes) -> None:
    for begun, cut in itertools.product((b"", CHUNKS[0]), (0, 1, 3)):
        decoder = ChunkedDecoder()
        decoder.feed(begun) if begun else None
        with pytest.raises(FramingError):
            [decoder.feed(piece) for piece in (rest[:cut], rest[cut:], b"x\r\n") if piece]


@pytest.mark.parametrize("begun", [b"0\r\nx: ", b"0\r\n", b"1;"])
def test_what_comes_without_a_body_is_bounded(begun: bytes) -> None:
    line = b"x: y\r\n" if begun.endswith(b"\n") else b"x"
    decoder = ChunkedDecoder()
    decoder.feed(CHUNKS[0])
    decoder.feed(begun)
    for _ in range((MAX_BODILESS_BYTES - len(begun)) // len(line)):
        decoder.feed(line)
    with pytest.raises(FramingError, match="without an end"):
        decoder.feed(line)


def test_a_long_body_in_small_chunks_is_not_taken_for_trailers() -> None:
    decoder = ChunkedDecoder()
    for _ in range(MAX_BODILESS_BYTES):
        assert decoder.feed(b"1;a\r") + decoder.feed(b"\nx\r\n") == b"x"


OK = b"HTTP/1.1 200 OK\r\n"
PLACED = b"HTTP/1.1 103 Early Hints\r\nX-Partitiond-Hop: [1]\r\n\r\n"


@pytest.mark.parametrize(("data", "heads", "body", "is_over"), [
    (OK + b"Content-Type: a/b\r\ncontent-length: 2\r\nmetadata: m\r\n\r\nok",
     [Head(200, b"a/b", 2, keep_alive=True, metadata=b"m")], b"ok", True),
    (OK + b"connection: close\r\ncontent-length: 0\r\n\r\n", [Head(200, length=0)], b"", True),
    (OK + b"\r\nto the end", [Head(200)], b"to the end", False),
    (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", [Head(200, length=2)], b"ok", True),
    (b"HTTP/1.1 204 No\r\n\r\n", [Head(204, length=0, keep_alive=True)], b"", True),
    (PLACED + b"HTTP/1.1 503 No\r\nx-partitiond-hop: [2]\r\ncontent-length: 0\r\n\r\n",
     [Head(103, length=0, keep_alive=True, hop=b"[1]"),
      Head(503, length=0, keep_alive=True, hop=b"[2]")], b"", True),
    (OK + b"transfer-encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\nx-partitiond-hop: [3]\r\n\r\n",
     [Head(200, chunked=True, keep_alive=True)], b"x", True),
])  # fmt: skip
def test_heads_and_bodies_are_read_however_they_are_cut(
    data: bytes, heads: list[Head], body: bytes, *, is_over: bool
) -> None:
    """On one connection, again and again."""
    parser = AnswerParser()
    for cut in range(1, len(data)) if heads[-1].keep_alive else (1, len(data) // 2):
        if not heads[-1].keep_alive:
            parser = AnswerParser()
        parser.begin()
        found = parser.feed(data[:cut]) + parser.feed(data[cut:])
        assert (found, parser.take_body(), parser.is_over) == (heads, body, is_over)
        assert not parser.surplus
        assert parser.hop == (b"[3]" if heads[-1].chunked else b"")


@pytest.mark.parametrize("head", [
    b"x", b"HTTP/2 200 OK\r\n", b"HTTP/1.1 099 No\r\n\r\n", b"HTTP/1.1 2000 OK\r\n",
    b"HTTP/1.1 101 Other\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", OK + b"no colon\r\n",
    OK + b"x: y\r\n z\r\n", OK + b"x : y\r\n", OK + b"x: y\x01\r\n", OK + b"x: y\nz: a\r\n",
    OK + b"content-length: 1\r\ncontent-length: 1\r\n", OK + b"content-length: +1\r\n",
    OK + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
    OK + b"transfer-encoding: gzip, chunked\r\n",
    OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    OK + b"x: " + b"y" * MAX_HEAD_BYTES,
])  # fmt: skip
def test_what_is_no_head_is_refused(head: bytes) -> None:
    for cut in (0, len(head) - 1):
        parser = AnswerParser()
        parser.begin()
        with pytest.raises(FramingError):
            [parser.feed(piece) for piece in (head[:cut], head[cut:], b"\r\n") if piece]
