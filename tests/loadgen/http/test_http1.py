"""Answers are read correctly from any split of their bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.http.http1 import AnswerReader, HttpError

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;name=value\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
)
PLAIN = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nX-A:  b \r\n\r\noh no"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN


def read(data: bytes, cuts: list[int]) -> tuple[AnswerReader, bytes]:
    reader, body, before = AnswerReader(), b"", 0
    for cut in [*sorted({min(c, len(data)) for c in cuts}), len(data)]:
        body += b"".join(reader.feed(data[before:cut]))
        before = cut
    return reader, body


@given(st.lists(st.integers(0, 200), max_size=12))
def test_chunks_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    reader, body = read(CHUNKED, cuts)
    assert (reader.status, body, reader.complete, reader.keep_alive) == (
        200, b"hello world", True, True,
    )  # fmt: skip


@pytest.mark.parametrize("data", [PLAIN, INTERIM])
@given(st.lists(st.integers(0, 100), max_size=8))
def test_bodies_of_stated_length(data: bytes, cuts: list[int]) -> None:
    reader, body = read(data, cuts)
    assert (reader.status, body, reader.complete) == (404, b"oh no", True)
    assert reader.headers[b"x-a"] == b"b"


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    reader, body = read(b"HTTP/1.1 200 OK\r\n\r\nabc", [])
    assert (body, reader.complete) == (b"abc", False)
    assert reader.end_of_stream()
    assert not reader.keep_alive


def test_a_chunked_body_does_not_end_with_its_connection() -> None:
    reader, _ = read(CHUNKED[:-10], [])
    assert not reader.end_of_stream()


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
        (b"HTTP/1.1 200 OK\r\n", True),
    ],
)
def test_whether_the_connection_can_be_used_again(head: bytes, keep_alive: bool) -> None:
    reader, _ = read(head + b"Content-Length: 0\r\n\r\n", [])
    assert (reader.keep_alive, reader.complete) == (keep_alive, True)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000,
    ],
)
def test_what_is_no_http_is_refused(data: bytes) -> None:
    with pytest.raises(HttpError):
        AnswerReader().feed(data)
