"""Who is served at the listener for other hosts may change; nobody there keeps out others."""

import asyncio
import dataclasses
import logging
from pathlib import Path

import pytest

from partitiond.platform import watched_files
from partitiond.proxy.peer_server.server import _names
from partitiond.proxy.peers import hop
from partitiond.proxy.peers import host as peer_host
from partitiond.proxy.peers.messages import PROTOCOL
from partitiond.proxy.peers.tls import peer_tls
from tests.proxy.certificates import issue_host
from tests.proxy.conftest import MakeEngine, replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host, host, parts, tables_of
from tests.proxy.peers.liar import LyingEntry, opened
from tests.proxy.peers.test_hops import holding, until_idle
from tests.proxy.peers.test_tls import secured
from tests.proxy.virtual import virtual_time


def listed(host: Host) -> list[str]:
    return [one.peer for one in host.server.connections]


@virtual_time
async def test_a_host_that_left_the_fleet_is_served_no_further_request(make: Make) -> None:
    """What it has there already ends as it would have."""
    go = asyncio.Event()
    a, b, engine = await make.pair(holding(go))
    before = a.proxy.ask()
    await engine.got(1)
    parts(table(replica(engine), version=2), [b], {"m-1": "b"})  # a goes on with its own
    await a.proxy.until(lambda: a.heard() == [])
    assert (await a.proxy.complete()).status_code == 503
    go.set()
    assert (await before).status_code == 200
    await b.proxy.until(lambda: listed(b) == [])
    assert len(engine.received) == 1
    await until_idle([a, b])


@virtual_time
async def test_a_refused_host_that_does_not_leave_is_answered_no_more(make: Make) -> None:
    _, b, engine = await make.pair()
    caller = await LyingEntry.call(b)
    caller.writer.write(opened())
    assert b"103" in await caller.head()
    assert b"200" in await caller.head()
    routes = table(replica(engine), version=2)
    b.proxy.state.apply(dataclasses.replace(routes, host="b"))
    caller.writer.write(opened())
    await caller.ended()
    assert len(engine.received) == 1
    await until_idle([b])


@pytest.mark.parametrize("authority", ["ca", "another"])
@pytest.mark.parametrize("renewed", ["a", "b"], ids=["the entry's", "the owner's"])
async def test_renewed_certificates_are_those_of_all_connections_soon(
    renewed: str, authority: str, folder: Path, make_engine: MakeEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """So a former authority lets nobody in. No request is lost, and files half written are none."""
    monkeypatch.setattr(watched_files, "RELOAD_SECONDS", 0.0)
    files = {name: issue_host(folder, name) for name in "ab"}
    async with secured(folder, "a", files["a"]) as a, secured(folder, "b", files["b"]) as b:
        parts(table(replica(await make_engine())), [a, b], {"m-1": "b"})
        assert (await a.proxy.complete()).status_code == 200
        former = set(b.server.connections)
        (files[renewed] / "cert.pem").write_text("half of it")
        assert (await a.proxy.complete()).status_code == 200
        assert former <= b.server.connections
        issue_host(folder, renewed, authority)
        if authority == "ca":
            assert (await a.proxy.complete()).status_code == 200
            await a.proxy.until(lambda: not former & b.server.connections)
            assert (await a.proxy.complete()).status_code == 200
        else:
            await a.proxy.until(lambda: a.heard() == [])
            assert (await a.proxy.complete()).status_code == 503


@pytest.mark.parametrize("shaken", [True, False], ids=["shaken hands", "in its handshake"])
async def test_a_silent_connection_does_not_outlive_a_renewal(
    shaken: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched_files, "RELOAD_SECONDS", 0.0)
    files = {name: issue_host(folder, name) for name in "ab"}
    async with secured(folder, "b", files["b"]) as b:
        address, _, port = b.route.address.rpartition(":")
        former = peer_tls(files["a"]).current().client
        reader, writer = await asyncio.open_connection(address, int(port))
        await b.proxy.until(lambda: len(b.server) == 1)
        if shaken:
            await writer.start_tls(former, server_hostname=address)
            await b.proxy.until(lambda: len(b.server.connections) == 1)
        issue_host(folder, "b", "another")
        if not shaken:
            await writer.start_tls(former, server_hostname=address)
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()


async def test_who_is_refused_at_each_try_is_named_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with host(folder, "a") as a, host(folder, "b") as b:
        tables = tables_of(table(), [a.route, b.route], {})
        tried: list[str] = []

        def newer(host: str) -> bytes:
            tried.append(host)
            return hop.head_lines(host).replace(b"protocol: %d" % PROTOCOL, b"protocol: 99")

        monkeypatch.setattr(peer_host, "head_lines", newer)
        with caplog.at_level(logging.WARNING):
            for one in (a, b):
                one.proxy.state.apply(tables.of(one.name))
            await a.proxy.until(lambda: tried.count("a") >= 3)
        told = sorted(record.getMessage() for record in caplog.records)
        why = f"it speaks version 99 of the protocol, not {PROTOCOL}"
        assert told == [
            f"a request of the proxy of host a is refused: {why}",
            f"a request of the proxy of host b is refused: {why}",
            f"the proxy of host a refuses this one: {why}",
            f"the proxy of host b refuses this one: {why}",
        ]


async def test_a_host_that_was_renamed_says_so(make: Make, folder: Path) -> None:
    routes = table(replica(await make.engine()))
    a, b = await make.hosts(routes, {"a": [], "b": ["m-1"]})
    assert (await a.proxy.complete()).status_code == 200
    a.name, a.route = "c", dataclasses.replace(a.route, host="c")
    parts(dataclasses.replace(routes, version=2), [a, b], {"m-1": "b"})
    await a.proxy.until(lambda: a.heard() == ["b"] and "c" in listed(b))
    assert (await a.proxy.complete()).status_code == 200


def test_an_address_in_a_certificate_is_the_same_however_it_is_written() -> None:
    certificate = {"subjectAltName": (("IP Address", "FD00:0:0:0:0:0:0:5"),)}
    assert _names(certificate, "a", "[fd00::5]:6387")
    assert not _names(certificate, "a", "[fd00::6]:6387")
