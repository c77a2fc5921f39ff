import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from partitiond.engines.vllm.unix_http import ExchangeError, NotListeningError, exchange
from tests.engine_fixtures import short_dir

__all__ = ["short_dir"]


@contextlib.asynccontextmanager
async def server(path: Path, answer: bytes, *, hold: bool = False) -> AsyncIterator[list[bytes]]:
    """Answers each request with the given bytes, then closes (or keeps silent)."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            if hold:
                await reader.read()
        except ConnectionResetError:
            pass
        finally:
            writer.close()

    listener = await asyncio.start_unix_server(serve, path)
    try:
        yield seen
    finally:
        listener.close()


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            b"abcde",
        ),
    ],
)
async def test_bodies_of_all_framings(short_dir: Path, answer: bytes, body: bytes) -> None:
    async with server(short_dir / "s", answer):
        got = await exchange(str(short_dir / "s"), "GET", "/", timeout_seconds=5)
    assert (got.status, got.body) == (200, body)


async def test_the_request_carries_its_payload(short_dir: Path) -> None:
    async with server(short_dir / "s", b"HTTP/1.1 204 No Content\r\n\r\n") as seen:
        await exchange(str(short_dir / "s"), "POST", "/p", {"a": 1}, timeout_seconds=5)
    assert seen[0].startswith(b"POST /p HTTP/1.1\r\n")
    assert b"Content-Length: 8" in seen[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 30000 + b"\r\n",
    ],
)
async def test_what_is_no_http_is_one_error(short_dir: Path, answer: bytes) -> None:
    async with server(short_dir / "s", answer):
        with pytest.raises(ExchangeError):
            await exchange(str(short_dir / "s"), "GET", "/", timeout_seconds=5)


async def test_silence_ends_at_the_deadline(short_dir: Path) -> None:
    async with server(short_dir / "s", b"HTTP/1.1 200 OK\r\n", hold=True):
        with pytest.raises(ExchangeError, match=r"no answer to GET /health in 0\.1 s"):
            await exchange(str(short_dir / "s"), "GET", "/health", timeout_seconds=0.1)


async def test_a_missing_socket_is_told_apart(short_dir: Path) -> None:
    with pytest.raises(NotListeningError):
        await exchange(str(short_dir / "none"), "GET", "/", timeout_seconds=1)
