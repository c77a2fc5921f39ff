"""Who is served at the listener for other hosts may change; nobody there keeps out others."""

import asyncio
import dataclasses
import json
import logging
from pathlib import Path

import pytest

from partitiond.core.units import KIB
from partitiond.proxy.peer_server import connection, server
from partitiond.proxy.peer_server.server import HANDSHAKE_FAILED, MAX_HANDSHAKES, _names
from partitiond.proxy.peers import frames, socket, tls
from partitiond.proxy.peers.frames import FrameReader, frame
from partitiond.proxy.peers.messages import Hello, Open, encode, read_failed
from tests.proxy.certificates import issue_host
from tests.proxy.conftest import MakeEngine, replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host, host, parts, tables_of
from tests.proxy.peers.test_hops import until_idle
from tests.proxy.peers.test_tls import secured
from tests.proxy.scripted import Received, Step, answer, completion


def listed(host: Host) -> list[str]:
    return [one.peer for one in host.server.sockets]


async def test_a_host_that_left_the_fleet_is_served_no_further_request(make: Make) -> None:
    """What it has there already ends as it would have."""
    go = asyncio.Event()

    def holds(_: Received) -> list[Step]:
        return [go, *answer(completion())]

    engine = await make.engine(holds)
    routes = table(replica(engine))
    a, b = await make.hosts(routes, {"a": [], "b": ["m-1"]})
    before = asyncio.create_task(a.proxy.complete())
    await engine.until(lambda: len(engine.received) == 1)
    parts(dataclasses.replace(routes, version=2), [b], {"m-1": "b"})  # a goes on with its own
    await a.proxy.until(lambda: a.proxy.state.peers.heard() == [])
    assert (await a.proxy.complete()).status_code == 503
    go.set()
    assert (await before).status_code == 200
    await b.proxy.until(lambda: listed(b) == [])
    assert len(engine.received) == 1
    await until_idle([a, b])


async def test_a_refused_host_that_does_not_leave_is_answered_no_more(
    folder: Path, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "DEAD_SECONDS", 3600.0)
    engine = await make_engine(lambda _: ["hold"])
    async with host(folder, "b") as b, host(folder, "a") as a:
        routes = table(replica(engine))
        b.proxy.state.apply(tables_of(routes, [a.route, b.route], {"m-1": "b"}).of("b"))
        reader, writer = await asyncio.open_unix_connection(b.route.address.removeprefix("unix:"))
        writer.write(frame(frames.HELLO, 0, encode(Hello(1, "a"))))
        body = json.dumps({"model": "m", "prompt": "hi"}).encode()
        head = encode(
            Open("m", "/v1/completions", "r", len(body), False, 1, 10, total_seconds=60.0)
        )
        opening = len(head).to_bytes(4, "big") + head + body
        writer.write(frame(frames.OPEN, 1, opening))
        await engine.until(lambda: len(engine.received) == 1)
        alone = tables_of(dataclasses.replace(routes, version=2), [b.route], {"m-1": "b"})
        b.proxy.state.apply(alone.of("b"))
        cutter, told = FrameReader(), []
        while frames.LEAVING not in told:
            told += [kind for kind, _, _ in cutter.feed(await reader.read(1 << 16))]
        writer.write(frame(frames.OPEN, 2, opening))
        refused = None
        while refused is None:
            for kind, number, payload in cutter.feed(await reader.read(1 << 16)):
                if (kind, number) == (frames.FAIL, 2):
                    refused = read_failed(payload)
        assert refused.refused
        assert len(engine.received) == 1
        writer.write(frame(frames.CANCEL, 1))
        while await reader.read(1 << 16):  # until the connection ends, with its last request
            pass
        writer.close()
        await until_idle([b])


@pytest.mark.parametrize("renewed", ["a", "b"], ids=["the entry's", "the owner's"])
async def test_who_was_let_in_by_a_former_authority_must_show_a_certificate_of_this_one(
    renewed: str, folder: Path, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "RELOAD_SECONDS", 0.0)
    engine = await make_engine()
    files = {name: issue_host(folder, name) for name in "ab"}
    async with secured(folder, "a", files["a"]) as a, secured(folder, "b", files["b"]) as b:
        parts(table(replica(engine)), [a, b], {"m-1": "b"})
        assert (await a.proxy.complete()).status_code == 200
        issue_host(folder, renewed, "another")
        await b.proxy.until(lambda: listed(b) == [])
        assert (await a.proxy.complete()).status_code == 503
        assert len(engine.received) == 1


async def test_who_never_finishes_a_handshake_keeps_nobody_out(
    folder: Path, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_SECONDS", 3600.0)
    async with (
        secured(folder, "a", issue_host(folder, "a")) as a,
        secured(folder, "b", issue_host(folder, "b")) as b,
    ):
        at, _, port = b.route.address.partition(":")
        silent = [await asyncio.open_connection(at, int(port)) for _ in range(3 * MAX_HANDSHAKES)]
        refusals = b.proxy.state.metrics.refusals
        await b.proxy.until(lambda: refusals[HANDSHAKE_FAILED] >= 2 * MAX_HANDSHAKES)
        parts(table(replica(await make_engine())), [a, b], {"m-1": "b"})
        assert (await a.proxy.complete()).status_code == 200
        for _, writer in silent:
            writer.transport.abort()


async def test_bodies_of_other_hosts_leave_room_for_those_of_clients(
    folder: Path, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a body comes in time, or its request ends; and all of them have half of the room."""
    monkeypatch.setattr(connection, "LEAST_BODY_RATE", 1 << 40)
    room = {"max_bodies_bytes": 400 * KIB, "max_body_bytes": 200 * KIB}
    async with host(folder, "b", client_timeout_seconds=1.0, **room) as b, host(folder, "a") as a:
        routes = table(replica(await make_engine()))
        b.proxy.state.apply(tables_of(routes, [a.route, b.route], {"m-1": "b"}).of("b"))
        reader, writer = await asyncio.open_unix_connection(b.route.address.removeprefix("unix:"))
        writer.write(frame(frames.HELLO, 0, encode(Hello(1, "a"))))
        for number in (1, 2):
            head = encode(Open("m", "/v1/completions", "r", 190 * KIB, False, 1, 10))
            writer.write(frame(frames.OPEN, number, len(head).to_bytes(4, "big") + head))
            writer.write(frame(frames.BODY, number, b"x" * 120 * KIB))
        cutter, failed = FrameReader(), {}
        while 2 not in failed:
            for kind, number, payload in cutter.feed(await reader.read(1 << 16)):
                if kind == frames.FAIL:
                    failed[number] = read_failed(payload).code
        assert failed == {2: "bodies_full"}
        assert (await b.proxy.complete(prompt="p" * 150 * KIB)).status_code == 200
        while 1 not in failed:
            writer.write(frame(frames.BODY, 1, b"x"))
            for kind, number, payload in cutter.feed(await reader.read(1 << 16)):
                if kind == frames.FAIL:
                    failed[number] = read_failed(payload).code
        assert failed[1] == "timeout"
        assert b.proxy.state.body_bytes == 0
        writer.close()


async def test_the_defaults_of_a_model_add_to_no_bodys_size(make: Make) -> None:
    routes = table(replica(await make.engine()))
    defaults = json.dumps({"stop": ["x" * 9 * KIB]})
    models = tuple(dataclasses.replace(one, defaults_json=defaults) for one in routes.models)
    hosts = await make.hosts(
        dataclasses.replace(routes, models=models), {"a": [], "b": ["m-1"]}, max_body_bytes=2 * KIB
    )
    for one in hosts:
        assert (await one.proxy.complete(prompt="p" * KIB)).status_code == 200


async def test_who_is_refused_at_each_try_is_named_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with host(folder, "a") as a, host(folder, "b") as b:
        tables = tables_of(table(), [a.route, b.route], {})
        tried: list[bytes] = []

        def newer(data: bytes) -> Hello:
            tried.append(data)
            return Hello(2, "b")

        monkeypatch.setattr(socket, "read_hello", newer)
        with caplog.at_level(logging.WARNING):
            a.proxy.state.apply(tables.of("a"))
            await a.proxy.until(lambda: len(tried) >= 3)
        (line,) = {record.getMessage() for record in caplog.records}
        assert line.startswith("the connection to the proxy of host b ends: it speaks version 2")
        assert len(caplog.records) <= 2, "one at each end"


async def test_a_host_that_was_renamed_says_so(make: Make, folder: Path) -> None:
    routes = table(replica(await make.engine()))
    a, b = await make.hosts(routes, {"a": [], "b": ["m-1"]})
    assert (await a.proxy.complete()).status_code == 200
    a.name, a.route = "c", dataclasses.replace(a.route, host="c")
    parts(dataclasses.replace(routes, version=2), [a, b], {"m-1": "b"})
    await a.proxy.until(lambda: a.proxy.state.peers.heard() == ["b"] and listed(b) == ["c"])
    assert (await a.proxy.complete()).status_code == 200


def test_an_address_in_a_certificate_is_the_same_however_it_is_written() -> None:
    certificate = {"subjectAltName": (("IP Address", "FD00:0:0:0:0:0:0:5"),)}
    assert _names(certificate, "a", "[fd00::5]:6387")
    assert not _names(certificate, "a", "[fd00::6]:6387")
