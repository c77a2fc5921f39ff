"""Chunked bodies of engines are parsed for every split of their bytes."""

import pytest

from partitiond.proxy.engine.framing import MAX_TRAILER_BYTES, ChunkedDecoder, FramingError

BODY = b"5\r\nhello\r\n0\r\n"


def decoded(data: bytes, cut: int) -> tuple[bytes, ChunkedDecoder]:
    """The body, from pieces of so many bytes."""
    decoder = ChunkedDecoder()
    body = b"".join(decoder.feed(data[at : at + cut]) for at in range(0, len(data), cut))
    return body, decoder


@pytest.mark.parametrize("cut", [1, 7, 63, 64, 65, 100_000])
@pytest.mark.parametrize("length", [0, 59, 60, 61, 62, 63, 64, 65, 1000])
def test_trailers_of_any_length_end_the_answer(length: int, cut: int) -> None:
    trailers = b"x-t:" + b"y" * length + b"\r\nx-u: z\r\n\r\n"
    body, decoder = decoded(BODY + trailers, cut)
    assert (body, decoder.done, decoder.rest) == (b"hello", True, b"")


def test_what_follows_long_trailers_is_not_theirs() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(BODY + b"x: " + b"y" * 100 + b"\r\n\r\nHTTP/1.1 200 OK") == b"hello"
    assert (decoder.done, decoder.rest) == (True, b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("cut", [1, 1000, 10_000_000])
@pytest.mark.parametrize("line", [b"x: y\r\n", b"x: " + b"y" * 1000 + b"\r\n", b"y"])
def test_trailers_are_bounded_together_as_each_by_itself(line: bytes, cut: int) -> None:
    begun = b"" if line.endswith(b"\n") else b"x: "
    fits = (MAX_TRAILER_BYTES - len(begun) - 4) // len(line)
    end = b"\r\n" if line.endswith(b"\n") else b"\r\n\r\n"
    assert decoded(BODY + begun + line * fits + end, cut)[1].done
    with pytest.raises(FramingError, match="trailers without an end"):
        decoded(BODY + begun + line * (fits + 2 + 4 // len(line)), cut)


@pytest.mark.parametrize(
    "line", [b"no colon", b": no name", b"a b: c", b"x: \x00", b"x: y\nz", b" x: y"]
)
@pytest.mark.parametrize("cut", [1, 1000])
def test_a_trailer_that_is_no_header_is_refused(line: bytes, cut: int) -> None:
    with pytest.raises(FramingError):
        decoded(BODY + line + b"\r\n\r\n", cut)


@pytest.mark.parametrize("cut", [1, 1000])
def test_a_size_line_stays_short(cut: int) -> None:
    assert decoded(b"5;" + b"x" * 60 + b"\r\nhello\r\n0\r\n\r\n", cut)[0] == b"hello"
    with pytest.raises(FramingError, match="no chunk size"):
        decoded(b"5;" + b"x" * 62 + b"\r\nhello\r\n0\r\n\r\n", cut)
