import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from partitiond.core.errors import EngineError, SilentError
from partitiond.core.replica.engine import EngineHandle
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.engines.vllm import unix_http
from partitiond.engines.vllm.unix_http import (
    MAX_ANSWER_BYTES,
    MAX_JSON_BYTES,
    ExchangeError,
    NotListeningError,
    exchange,
)
from tests.engine_fixtures import short_dir, simulated_launch
from tests.machine import no_files_left

__all__ = ["short_dir"]


@contextlib.asynccontextmanager
async def server(path: Path, *answers: bytes) -> AsyncIterator[list[bytes]]:
    """Answers each request with the next of these bytes, then closes; after the last one is
    silent.
    """
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            if len(seen) <= len(answers):
                writer.write(answers[len(seen) - 1])
            else:
                writer.write(b"HTTP/1.1 200 OK\r\n")
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


async def test_bodies_of_all_framings_are_read_and_silence_ends_at_the_deadline(
    short_dir: Path,
) -> None:
    path = str(short_dir / "s")
    with pytest.raises(NotListeningError):
        await exchange(path, "GET", "/", timeout_seconds=1)
    bodies = {
        b"Content-Length: 2\r\n\r\nhi": b"hi",
        b"content-length: 0\r\n\r\n": b"",
        b"\r\nuntil the end" + b"." * 200_000: b"until the end" + b"." * 200_000,
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n": b"abcde",
    }
    answers = [b"HTTP/1.1 200 OK\r\n" + framed for framed in bodies]
    async with server(short_dir / "s", *answers) as seen:
        for body in bodies.values():
            got = await exchange(path, "POST", "/p", {"a": 1}, timeout_seconds=5)
            assert (got.status, got.body) == (200, body)
        assert seen[0].startswith(b"POST /p HTTP/1.1\r\n")
        assert b"Content-Length: 8" in seen[0]
        with pytest.raises(ExchangeError, match=r"no answer to GET /health in 0\.1 s"):
            await exchange(path, "GET", "/health", timeout_seconds=0.1)


LARGE = b"%x\r\n%s\r\n" % (MAX_ANSWER_BYTES, b"x" * MAX_ANSWER_BYTES)
CHUNKS = (LARGE + b"1\r\nx\r\n0\r\n\r\n", b"%x\r\n" % (MAX_ANSWER_BYTES + 1))


async def test_what_is_no_http_or_too_much_is_one_error(short_dir: Path) -> None:
    answers = (
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 30000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_ANSWER_BYTES + 1),
        *(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks for chunks in CHUNKS),
    )
    async with server(short_dir / "s", *answers):
        for _ in answers:
            with pytest.raises(ExchangeError):
                await exchange(str(short_dir / "s"), "GET", "/", timeout_seconds=5)


async def test_an_engine_is_asked_once_this_process_can_open_a_socket(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then it counts neither as one that answers nor as one that does not."""
    monkeypatch.setattr(unix_http, "AGAIN_SECONDS", 0.0)
    path = short_dir / "s"
    async with server(path, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"):
        asking = asyncio.ensure_future(exchange(str(path), "GET", "/", timeout_seconds=60))
        with no_files_left():
            for _ in range(5):
                await asyncio.sleep(0)
            assert not asking.done()
        assert (await asking).status == 200
        with no_files_left(), pytest.raises(SilentError, match="can open no socket"):
            await exchange(str(path), "GET", "/", timeout_seconds=60)


async def test_a_version_that_is_none_is_no_error_and_an_answer_without_one_is(
    short_dir: Path,
) -> None:
    def answer(body: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\n\r\n" + body

    runner = ProcessEngineRunner(short_dir, None)
    launch, socket = simulated_launch("sim-0"), short_dir / "s"
    handle = EngineHandle(launch, 1, 1, "boot", str(socket), "log", str(short_dir))
    metrics = answer(b'vllm:cache_config_info{kv_cache_size_tokens="64"} 1\n')
    told = {b'"0.32.0"': "0.32.0", b"[1]": "", b'"\\ud800"': "", b'"%s"' % (b"1" * 200): "1" * 100}
    for body, version in told.items():
        async with server(socket, metrics, answer(b'{"version":%s}' % body)):
            report = await runner.report(handle)
            assert (report.version, report.kv_cache_tokens) == (version, 64)
        socket.unlink()
    for body in (b"[]", b"[" * 60_000, b'{"version":"1"}' + b" " * MAX_JSON_BYTES, b"{"):
        async with server(socket, metrics, answer(body)):
            with pytest.raises(EngineError, match="no small JSON object"):
                await runner.report(handle)
        socket.unlink()
