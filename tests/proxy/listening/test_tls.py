"""TLS of the endpoint works with one process and with workers: renewed, refused, attacked."""

import asyncio
import contextlib
import functools
import json
import os
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from partitiond.core.errors import PartitiondError
from partitiond.proxy.config import ProxyOptions
from partitiond.proxy.supervisor import ProxyProcess
from tests.machine import in_time
from tests.proxy.certificates import Authority, Files
from tests.proxy.conftest import MakeEngine, replica, table
from tests.proxy.scripted import (
    DONE,
    Received,
    Step,
    answer,
    completion,
    stream,
    text_event,
)

MakeProcess = Callable[..., Any]
BOTH = pytest.mark.parametrize("workers", [1, 2])


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def issued(authority: Authority) -> Files:
    return authority.issue("first")


@pytest.fixture
def files(issued: Files, tmp_path: Path) -> Files:
    """The endpoint's own, to be replaced."""
    mine = Files(tmp_path / "endpoint.pem", tmp_path / "endpoint.key")
    mine.replace_by(issued)
    return mine


@pytest.fixture
async def make_process(folder: Path, files: Files) -> AsyncIterator[MakeProcess]:
    made: list[ProxyProcess] = []

    async def make(*engines: Any, **options: Any) -> ProxyProcess:
        (folder / "s").mkdir(exist_ok=True)
        process = ProxyProcess(
            host="127.0.0.1",
            port=0,
            state_dir=folder / "s",
            control_socket=folder / "s" / "run" / "proxy.sock",
            options=ProxyOptions(
                tls_certificate=str(files.certificate), tls_key=str(files.key), **options
            ),
        )
        made.append(process)
        await process.ensure_running()
        await process.publish(table(*(replica(engine) for engine in engines)))
        return process

    yield make
    for process in made:
        await process.stop(0)


def port_of(process: ProxyProcess) -> int:
    assert process.base_url.startswith("https://127.0.0.1:")
    return int(process.base_url.rpartition(":")[2])


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "s/log/proxy.log").read_text().splitlines()]


async def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 -- another process has no event for it
            await asyncio.sleep(0.02)


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @property
    def serial(self) -> int:
        certificate = self.writer.get_extra_info("peercert")
        return int(certificate["serialNumber"], 16)

    def ask(self, path: str = "/v1/completions", *more: str, **body: Any) -> None:
        text = json.dumps({"model": "m", "prompt": "hi", **body})
        lines = [
            f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json",
            f"Content-Length: {len(text)}", *more, "", text,
        ]  # fmt: skip
        self.writer.write("\r\n".join(lines).encode())

    async def until(self, mark: bytes) -> bytes:
        async with asyncio.timeout(240):
            return await self.reader.readuntil(mark)

    async def rest(self) -> bytes:
        """What still comes until the connection ends, however."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            async with asyncio.timeout(240):
                return await self.reader.read()
        return b""


@contextlib.asynccontextmanager
async def raw(process: ProxyProcess, context: ssl.SSLContext | None) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(process), ssl=context)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


@BOTH
async def test_requests_are_answered_over_tls(
    make_process: MakeProcess, make_engine: MakeEngine, authority: Authority, workers: int
) -> None:
    process = await make_process(await make_engine(), workers=workers)
    async with httpx.AsyncClient(
        base_url=process.base_url, verify=authority.trust(), timeout=60
    ) as client:
        for _ in range(3):  # the second one has a known head
            whole = await client.post("/v1/completions", json={"model": "m", "prompt": "hi"})
            assert whole.json()["choices"][0]["text"] == "hello"
        streamed = await client.post(
            "/v1/completions", json={"model": "m", "prompt": "hi", "stream": True}
        )
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == "m"
        assert (await client.get("/nothing")).status_code == 404
        assert (await client.post("/v1/completions", content=b"{")).status_code == 415


@BOTH
async def test_plain_http_gets_no_answer_at_the_tls_port_and_others_do(
    make_process: MakeProcess, make_engine: MakeEngine, authority: Authority, folder: Path,
    workers: int,
) -> None:  # fmt: skip
    process = await make_process(await make_engine(), workers=workers)
    for nonsense in (
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"\0" * 999,
    ):
        async with raw(process, None) as plain:
            plain.writer.write(nonsense)
            assert not (await plain.rest()).startswith(b"HTTP")
    async with raw(process, None) as silent:
        silent.writer.close()
    async with raw(process, authority.trust()) as client:
        client.ask()
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    refused = 'partitiond_proxy_refusals_total{reason="tls_handshake"}'
    assert (await process.stats())[refused] >= 3
    assert not [line for line in log_of(folder) if line.get("level") == "error"]


@pytest.mark.parametrize(
    ("version", "is_taken"),
    [
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_the_protocol_is_tls_1_2_or_newer_and_http_1_1(
    make_process: MakeProcess, authority: Authority, version: ssl.TLSVersion, is_taken: bool
) -> None:
    process = await make_process()
    context = authority.trust()
    context.set_ciphers("ALL:@SECLEVEL=0")  # or the client would not even offer the old one
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    if not is_taken:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with raw(process, context):
                pass
        return
    async with raw(process, context) as client:
        session = client.writer.get_extra_info("ssl_object")
        assert session.selected_alpn_protocol() == "http/1.1"


@BOTH
async def test_a_handshake_that_does_not_end_is_ended(
    make_process: MakeProcess, authority: Authority, workers: int
) -> None:
    process = await make_process(client_timeout_seconds=0.5, workers=workers)
    async with raw(process, None) as silent, raw(process, None) as slow:
        slow.writer.write(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a greeting
        assert await silent.rest() == b""
        assert await slow.rest() == b""
    async with raw(process, authority.trust()) as client:
        client.writer.write(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


@BOTH
async def test_clients_that_never_finish_their_handshakes_keep_nobody_out(
    make_process: MakeProcess, authority: Authority, workers: int
) -> None:
    process = await make_process(max_connections=100, workers=workers)
    async with contextlib.AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(raw(process, None)) for _ in range(300)]
        async with raw(process, authority.trust()) as client:
            client.writer.write(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await silent[0].rest() == b"", "the oldest went first"


async def test_an_address_has_no_more_handshakes_than_connections(
    make_process: MakeProcess, authority: Authority
) -> None:
    process = await make_process(max_connections_per_address=2)
    async with raw(process, None), raw(process, None), raw(process, None) as third:
        assert await third.rest() == b""


@BOTH
async def test_a_renewed_certificate_is_taken_and_streams_go_on(
    make_process: MakeProcess, make_engine: MakeEngine, authority: Authority, files: Files,
    workers: int,
) -> None:  # fmt: skip
    go_on = asyncio.Event()

    def script(request: Received) -> list[Step]:
        return stream(text_event("hel"), go_on, text_event("lo", "stop"), DONE)

    process = await make_process(await make_engine(script), workers=workers)
    async with raw(process, authority.trust()) as old:
        first = old.serial
        old.ask(stream=True)
        await old.until(b"hel")
        # With a key of another kind: a context that kept both would go on with the former.
        files.replace_by(authority.issue("renewed", rsa=True))

        async def presents_the_new_one() -> bool:
            async with raw(process, authority.trust()) as new:
                return new.serial != first

        async with asyncio.timeout(240):
            in_a_row = 0
            while in_a_row < 3 * workers:
                in_a_row = in_a_row + 1 if await presents_the_new_one() else 0
                await asyncio.sleep(0.05)
        go_on.set()
        assert b"[DONE]" in await old.until(b"0\r\n\r\n")


async def test_a_hangup_takes_a_renewed_certificate_at_once(
    make_process: MakeProcess, authority: Authority, files: Files, folder: Path
) -> None:
    process = await make_process()
    assert process.identity is not None
    renewals = [authority.issue(f"renewed-{number}") for number in range(6)]

    def has_reloaded(times: int) -> bool:
        return [line["event"] for line in log_of(folder)].count("tls_reloaded") >= times

    begin = time.monotonic()
    for times, renewed in enumerate(renewals, 1):
        files.replace_by(renewed)
        os.kill(process.identity.pid, signal.SIGHUP)
        await until(functools.partial(has_reloaded, times))
    took = time.monotonic() - begin
    assert in_time(took, 8.0, starts=10), "found by looking every 2 s, they take 10 s and more"


async def test_a_broken_renewal_leaves_the_former_in_force_until_it_is_mended(
    make_process: MakeProcess, authority: Authority, files: Files, folder: Path, issued: Files
) -> None:
    process = await make_process()
    other = authority.issue("renewed")
    files.replace_by(Files(other.certificate, issued.key))  # does not belong together
    await until(lambda: "former certificate stays" in (folder / "s/log/proxy.log").read_text())
    async with raw(process, authority.trust()) as client:
        first = client.serial
    files.certificate.unlink()  # and while it is not even there
    async with raw(process, authority.trust()) as client:
        assert client.serial == first
    files.replace_by(other)
    await until(lambda: any(line["event"] == "tls_reloaded" for line in log_of(folder)))
    async with raw(process, authority.trust()) as client:
        assert client.serial != first


@BOTH
async def test_files_that_cannot_be_used_are_refused_at_the_start(
    make_process: MakeProcess, files: Files, folder: Path, workers: int
) -> None:
    files.key.write_text("no key")
    with pytest.raises(PartitiondError):
        await make_process(workers=workers)
    (refused,) = [line for line in log_of(folder) if line["event"] == "refused"]
    assert str(files.certificate) in refused["message"]


async def test_a_client_that_leaves_cancels_upstream(
    make_process: MakeProcess, make_engine: MakeEngine, authority: Authority
) -> None:
    engine = await make_engine(lambda request: stream(text_event("hel"), "hold"))
    process = await make_process(engine)
    async with raw(process, authority.trust()) as client:
        client.ask(stream=True)
        await client.until(b"hel")
    await engine.until(lambda: engine.left == 1)
    async with raw(process, authority.trust()) as client:
        client.ask(stream=True)
        await client.until(b"hel")
        client.writer.close()  # with TLS's own goodbye
        await engine.until(lambda: engine.left == 2)


async def test_a_client_that_leaves_a_request_behind_another_is_noticed(
    make_process: MakeProcess, make_engine: MakeEngine, authority: Authority
) -> None:
    """The proxy does not read while the second waits for its turn."""
    engine = await make_engine(lambda request: stream(text_event("hel"), "hold"))
    process = await make_process(engine)
    async with raw(process, authority.trust()) as client:
        client.ask(stream=True)
        await client.until(b"hel")
        client.ask(stream=True)
        await asyncio.sleep(0.1)  # the usual case: it has been read, and waits
        client.writer.transport.abort()
        await engine.until(lambda: engine.left == 1)
    assert len(engine.received) == 1


async def test_a_client_that_does_not_read_holds_the_engine_back(
    make_process: MakeProcess, make_engine: MakeEngine, authority: Authority
) -> None:
    pieces = [text_event("x" * 50_000) for _ in range(1000)]
    engine = await make_engine(lambda request: stream(*pieces, text_event("", "stop"), DONE))
    process = await make_process(engine)
    async with raw(process, authority.trust()) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.ask(stream=True)
        await engine.until(lambda: engine.steps > 1)
        steps = -1
        while steps != engine.steps:
            steps = engine.steps
            await asyncio.sleep(0.3)
        assert steps < 500, "of 50 MB most wait in the engine"
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        received = 0
        async with asyncio.timeout(240):
            while data := await client.reader.read(1 << 20):
                received += len(data)
                if data.endswith(b"0\r\n\r\n"):
                    break
    assert received > 50_000_000


async def test_a_slow_client_gets_the_whole_last_answer_before_the_connection_closes(
    make_process: MakeProcess, make_engine: MakeEngine, authority: Authority
) -> None:
    engine = await make_engine(lambda request: answer(completion("x" * 20_000_000)))
    process = await make_process(engine)
    async with raw(process, authority.trust()) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.ask("/v1/completions", "Connection: close")
        await engine.until(lambda: engine.steps == 1)
        await asyncio.sleep(1.5)  # much longer than a client has that took everything
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert len(body) > 20_000_000


@BOTH
async def test_clients_that_never_say_goodbye_do_not_hold_up_the_end(
    make_process: MakeProcess, authority: Authority, workers: int
) -> None:
    process = await make_process(workers=workers)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(4):
            idle = await stack.enter_async_context(raw(process, authority.trust()))
            idle.writer.write(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await idle.until(b"}]}")
            idle.writer.transport.pause_reading()  # type: ignore[attr-defined]
        begin = time.monotonic()
        await process.stop(20)
        took = time.monotonic() - begin
    assert in_time(took, 8.0, starts=10), "the grace is not waited for"


async def test_a_body_that_is_too_large_is_refused_with_words(
    make_process: MakeProcess, make_engine: MakeEngine, authority: Authority
) -> None:
    process = await make_process(await make_engine(), max_body_bytes=1000)
    async with raw(process, authority.trust()) as client:
        client.ask(prompt="x" * 100_000)
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 413")
        assert b"too_large" in await client.rest()


async def test_the_load_generator_trusts_a_private_authority(
    make_process: MakeProcess, make_engine: MakeEngine, authority: Authority
) -> None:
    process = await make_process(await make_engine())
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadgen", "--url", process.base_url, "--model", "m",
        "--concurrency", "2", "--duration", "0.5", "--warmup", "0", "--json", "--quiet",
        "--allow-saturated",
        env={**os.environ, "SSL_CERT_FILE": str(authority.certificate)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await child.communicate()
    assert child.returncode == 0, errors.decode() + out.decode()
    assert (await process.stats())["partitiond_proxy_requests_total"] > 2
