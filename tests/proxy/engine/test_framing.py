"""Chunked bodies of engines are decoded for every split of their bytes."""

import itertools

import pytest

from partitiond.proxy.engine.framing import MAX_BODILESS_BYTES, ChunkedDecoder, FramingError

CHUNKS = b"5\r\nhello\r\n", b"169\r\n%b\r\n" % (b"\r\n1\r\n\n" * 60 + b"x"), b"1;a=b\r\n\n\r\n"
BODY = b"hello" + CHUNKS[1][5:-2] + b"\n"
BOUNDARIES = {0, *itertools.accumulate(len(chunk) for chunk in CHUNKS)}
ENDS = b"0\r\n\r\n", b"0\r\nx: y\r\nz: " + b"y" * 200 + b"\r\n\r\n", b"000;a\r\n\r\n"


def decoded(data: bytes, *cuts: int) -> tuple[bytes, ChunkedDecoder]:
    """The body, from pieces that end there. Between chunks the decoder says so, and only there;
    but for a piece that is the last byte of a chunk alone, after which it may not know.
    """
    decoder = ChunkedDecoder()
    body, end = b"", data.find(b"\r\n0") + 2
    for at, to in itertools.pairwise([0, *cuts, len(data)]):
        is_boundary = at in BOUNDARIES and at <= end
        assert decoder.at_boundary == is_boundary or (is_boundary and at - 1 in cuts), (at, cuts)
        body += decoder.feed(data[at:to]) if to > at else b""
    assert not decoder.at_boundary
    return body, decoder


@pytest.mark.parametrize("end", ENDS)
def test_a_body_is_read_and_its_boundaries_known_however_it_is_cut(end: bytes) -> None:
    data = b"".join(CHUNKS) + end
    for cut in range(len(data)):
        body, decoder = decoded(data, cut)
        assert (body, decoder.done, decoder.surplus) == (BODY, True, False)
    assert decoded(data, *range(1, len(data)))[0] == BODY


@pytest.mark.parametrize("more", [b"x", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx", b"5\r\n"])
def test_what_follows_the_end_is_not_of_the_body_and_is_told(more: bytes) -> None:
    data = b"".join(CHUNKS) + ENDS[0]
    for cut in (0, len(data) - 1, len(data)):
        body, decoder = decoded(data + more, cut)
        assert (body, decoder.done, decoder.surplus) == (BODY, True, True)


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
