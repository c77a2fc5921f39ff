"""TLS of the endpoint is renewed, refused and attacked; processes show that it is wired."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from partitiond.core.errors import SettingsError
from partitiond.platform.watched_files import RELOAD_SECONDS
from partitiond.proxy.edge.data_protocol import GOODBYE_SECONDS
from partitiond.proxy.listening.handshakes import open_clients
from partitiond.proxy.listening.tls import server_tls
from partitiond.proxy.supervisor import ProxyProcess
from tests.proxy.certificates import Authority, Files
from tests.proxy.conftest import Make, MakeEngine, MakeProcess, Proxy, post, replica, table
from tests.proxy.scripted import (
    DONE,
    ScriptedEngine,
    Step,
    answer,
    completion,
    plays,
    stream,
    text_event,
)
from tests.proxy.virtual import RawClient, running_loop, settled

ASKED = post({"model": "m", "prompt": "hi"})
STREAMED = post({"model": "m", "prompt": "hi", "stream": True})
MODELS = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def issued(authority: Authority) -> Files:
    return authority.issue("first")


@pytest.fixture(scope="session")
def renewed(authority: Authority) -> Files:
    return authority.issue("renewed")


@pytest.fixture
def files(issued: Files, tmp_path: Path) -> Files:
    """The endpoint's own, to be replaced."""
    mine = Files(tmp_path / "endpoint.pem", tmp_path / "endpoint.key")
    mine.replace_by(issued)
    return mine


class Endpoint:
    """A proxy whose connections are opened with TLS."""

    def __init__(self, proxy: Proxy, engine: ScriptedEngine, authority: Authority) -> None:
        tls = server_tls(proxy.state.options, proxy.log)
        assert tls is not None
        self.proxy = proxy
        self.engine = engine
        self.tls = tls
        self.opener = open_clients(proxy.state, tls)
        self.trust = authority.trust()

    async def plain(self) -> RawClient:
        """A client that knows nothing of TLS."""
        client, ours = running_loop().pair()
        self.opener.open(ours)
        return await RawClient.connected(sock=client)

    async def client(self, context: ssl.SSLContext | None = None) -> RawClient:
        client, ours = running_loop().pair()
        self.opener.open(ours)
        return await RawClient.connected(
            sock=client, ssl=context or self.trust, server_hostname="127.0.0.1"
        )

    async def serves(self, context: ssl.SSLContext | None = None) -> RawClient:
        client = await self.client(context)
        client.send(MODELS)
        assert (await client.until(b"}]}")).startswith(b"HTTP/1.1 200")
        return client


def serial(client: RawClient) -> int:
    return int(client.writer.get_extra_info("peercert")["serialNumber"], 16)


def transport(client: RawClient) -> Any:
    """Paused, not even the goodbye of TLS is answered."""
    return client.writer.transport


MakeEndpoint = Callable[..., Awaitable[Endpoint]]


@pytest.fixture
async def make_endpoint(
    make: Make, authority: Authority, files: Files
) -> AsyncIterator[MakeEndpoint]:
    made: list[Endpoint] = []

    async def endpoint(*steps: Step, **options: Any) -> Endpoint:
        tls: Any = {"tls_certificate": str(files.certificate), "tls_key": str(files.key)}
        proxy, engine = await make.both(plays(*(steps or answer(completion()))), **tls, **options)
        made.append(Endpoint(proxy, engine, authority))
        return made[-1]

    yield endpoint
    for one in made:
        one.opener.close()


async def test_plain_http_gets_no_answer_at_the_tls_port_and_others_do(
    make_endpoint: MakeEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = await make_endpoint()
    for nonsense in (MODELS, b"\x16\x03\x01\x00\x05hello", b"\0" * 999):
        plain = await endpoint.plain()
        plain.send(nonsense)
        with contextlib.suppress(ConnectionError):
            assert not (await plain.rest()).startswith(b"HTTP")
    (await endpoint.plain()).leave()
    await endpoint.serves()
    assert endpoint.proxy.state.metrics.refusals["tls_handshake"] == 4
    assert not caplog.records


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
    make_endpoint: MakeEndpoint, authority: Authority, version: ssl.TLSVersion, *, is_taken: bool
) -> None:
    endpoint = await make_endpoint()
    context = authority.trust()
    context.set_ciphers("ALL:@SECLEVEL=0")  # or the client would not even offer the old one
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    if not is_taken:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await endpoint.client(context)
        return
    client = await endpoint.serves(context)
    session = client.writer.get_extra_info("ssl_object")
    assert session.selected_alpn_protocol() == "http/1.1"


async def test_a_handshake_that_does_not_end_is_ended(make_endpoint: MakeEndpoint) -> None:
    endpoint = await make_endpoint(client_timeout_seconds=10)
    began = time.monotonic()
    silent, slow = await endpoint.plain(), await endpoint.plain()
    slow.send(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a greeting
    for client in (silent, slow):
        with contextlib.suppress(ConnectionError):
            assert await client.rest() == b""
    assert time.monotonic() - began == pytest.approx(10, abs=0.1)
    await endpoint.serves()


async def test_a_renewed_certificate_is_taken_and_streams_go_on(
    make_endpoint: MakeEndpoint, renewed: Files, files: Files
) -> None:
    go_on = asyncio.Event()
    endpoint = await make_endpoint(
        *stream(text_event("hel"), go_on, text_event("lo", "stop"), DONE)
    )
    old = await endpoint.client()
    old.send(STREAMED)
    await old.until(b"hel")
    files.replace_by(renewed)
    await asyncio.sleep(RELOAD_SECONDS + 0.1)
    assert serial(await endpoint.serves()) != serial(old)
    go_on.set()
    assert b"[DONE]" in await old.until(b"0\r\n\r\n")


async def test_a_broken_renewal_leaves_the_former_in_force_until_it_is_mended(
    make_endpoint: MakeEndpoint, renewed: Files, files: Files, issued: Files,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    endpoint = await make_endpoint()
    first = serial(await endpoint.serves())
    files.replace_by(Files(renewed.certificate, issued.key))  # does not belong together
    for _ in range(3):
        await asyncio.sleep(RELOAD_SECONDS + 0.1)
        assert serial(await endpoint.serves()) == first
    assert caplog.text.count("the former certificate stays in force") == 1
    files.certificate.unlink()  # and while it is not even there
    await asyncio.sleep(RELOAD_SECONDS + 0.1)
    assert serial(await endpoint.serves()) == first
    files.replace_by(renewed)
    await asyncio.sleep(RELOAD_SECONDS + 0.1)
    assert serial(await endpoint.serves()) != first
    assert ["tls_reloaded" in line for line in endpoint.proxy.log_lines].count(True) == 1


async def test_a_client_that_leaves_cancels_upstream(make_endpoint: MakeEndpoint) -> None:
    """Without a word, with the goodbye of TLS, and with a request that waits behind the first."""
    endpoint = await make_endpoint(*stream(text_event("hel"), "hold"))
    engine = endpoint.engine
    for left, behind in enumerate((b"", b"", STREAMED)):
        client = await endpoint.client()
        client.send(STREAMED)
        await client.until(b"hel")
        client.send(behind)
        await settled()
        if left == 1:
            client.writer.close()
        else:
            client.leave()
        await engine.until(lambda gone=left + 1: engine.left == gone)  # type: ignore[misc]
    assert len(engine.received) == 3


async def test_a_client_that_does_not_read_holds_the_engine_back(
    make_endpoint: MakeEndpoint,
) -> None:
    pieces = [text_event("x" * 50_000)] * 200
    endpoint = await make_endpoint(*stream(*pieces, text_event("", "stop"), DONE))
    client = await endpoint.client()
    transport(client).pause_reading()
    client.send(STREAMED)
    await settled()
    assert [exchange.paused for exchange in endpoint.proxy.exchanges()] == [True]
    assert endpoint.engine.steps < 40, "of 10 MB most wait in the engine"
    transport(client).resume_reading()
    received = b""
    while not received.endswith(b"0\r\n\r\n"):
        received += await client.reader.read(1 << 20)
    assert len(received) > 10_000_000


@pytest.mark.parametrize("reads", [True, False])
async def test_a_whole_answer_counts_until_its_client_has_it_or_left(
    make_endpoint: MakeEndpoint, *, reads: bool
) -> None:
    """One write of any size fills no buffer that TLS would tell of."""
    endpoint = await make_endpoint(*answer(completion("x" * 5_000_000)))
    state, client = endpoint.proxy.state, await endpoint.client()
    transport(client).pause_reading()
    client.send(ASKED)
    await endpoint.proxy.until(lambda: bool(endpoint.proxy.records()))
    await settled()
    assert state.answers.held > 4_000_000
    if reads:
        transport(client).resume_reading()
        await client.until(b"\r\n\r\n")
        await client.reader.readexactly(5_000_000)
    else:
        client.leave()
    await endpoint.proxy.until(lambda: state.answers.held == 0)


async def test_a_slow_client_gets_the_whole_last_answer_before_the_connection_closes(
    make_endpoint: MakeEndpoint,
) -> None:
    endpoint = await make_endpoint(*answer(completion("x" * 5_000_000)))
    client = await endpoint.client()
    transport(client).pause_reading()
    client.send(ASKED.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
    await asyncio.sleep(20 * GOODBYE_SECONDS)  # much longer than who took everything has
    transport(client).resume_reading()
    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    assert len(body) > 5_000_000


async def test_clients_that_never_say_goodbye_do_not_hold_up_the_end(
    make_endpoint: MakeEndpoint,
) -> None:
    endpoint = await make_endpoint()
    for _ in range(4):
        transport(await endpoint.serves()).pause_reading()
    began = time.monotonic()
    for connection in endpoint.proxy.lanes():
        connection.shut_down()
    await endpoint.proxy.until(lambda: not endpoint.proxy.connections())
    assert time.monotonic() - began < 2 + GOODBYE_SECONDS, "the grace is not waited for"


# Processes


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "s/log/proxy.log").read_text().splitlines()]


def serial_of(process: ProxyProcess, trust: ssl.SSLContext) -> int:
    """Of the certificate that the next connection gets."""
    at = ("127.0.0.1", int(process.base_url.rpartition(":")[2]))
    with socket.create_connection(at, 120) as plain:
        with trust.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            certificate: Any = connection.getpeercert()
            return int(certificate["serialNumber"], 16)


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_process_serves_over_tls_and_takes_a_renewed_certificate_at_a_hangup(
    make_process: MakeProcess, make_engine: MakeEngine, folder: Path, *, authority: Authority,
    files: Files, renewed: Files, workers: int,
) -> None:  # fmt: skip
    tls = {"tls_certificate": str(files.certificate), "tls_key": str(files.key)}
    process = make_process(workers=workers, **tls)
    await process.ensure_running()
    await process.publish(table(replica(await make_engine())))
    trust = authority.trust()
    async with httpx.AsyncClient(base_url=process.base_url, verify=trust, timeout=120) as client:
        for _ in range(3):  # the second one has a known head
            whole = await client.post("/v1/completions", json={"model": "m", "prompt": "hi"})
            assert whole.json()["choices"][0]["text"] == "hello"
        assert (await client.get("/nothing")).status_code == 404
    first = serial_of(process, trust)
    files.replace_by(renewed)
    assert process.identity is not None
    os.kill(process.identity.pid, signal.SIGHUP)  # as hooks of former releases do
    async with asyncio.timeout(120):
        in_a_row = 0
        while in_a_row < 3 * workers:  # each worker takes it, and keeps it
            new = await asyncio.to_thread(serial_of, process, trust)
            in_a_row = in_a_row + 1 if new != first else 0
    await process.stop(60)  # what is killed writes no log
    events = [line["event"] for line in log_of(folder)]
    assert "tls_reloaded" in events
    files.key.write_text("no key")
    with pytest.raises(SettingsError, match=str(files.certificate)):
        await process.ensure_running()
