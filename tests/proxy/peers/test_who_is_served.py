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
from partitiond.proxy.peers.messages import Hello, read_failed
from tests.proxy.certificates import issue_host
from tests.proxy.conftest import MakeEngine, replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host, host, parts, tables_of
from tests.proxy.peers.liar import LyingEntry
from tests.proxy.peers.test_hops import holding, until_idle
from tests.proxy.peers.test_tls import secured
from tests.proxy.scripted import plays
from tests.proxy.virtual import virtual_time


def listed(host: Host) -> list[str]:
    return [one.peer for one in host.server.sockets]


@virtual_time
async def test_a_host_that_left_the_fleet_is_served_no_further_request(make: Make) -> None:
    """What it has there already ends as it would have."""
    go = asyncio.Event()
    a, b, engine = await make.pair(holding(go))
    before = a.proxy.ask()
    await engine.got(1)
    parts(table(replica(engine), version=2), [b], {"m-1": "b"})  # a goes on with its own
    await a.proxy.until(lambda: a.proxy.state.peers.heard() == [])
    assert (await a.proxy.complete()).status_code == 503
    go.set()
    assert (await before).status_code == 200
    await b.proxy.until(lambda: listed(b) == [])
    assert len(engine.received) == 1
    await until_idle([a, b])


@virtual_time
async def test_a_refused_host_that_does_not_leave_is_answered_no_more(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "DEAD_SECONDS", 3600.0)
    _, b, engine = await make.pair(plays("hold"))
    caller = await LyingEntry.call(b)
    caller.ask([1])
    await engine.got(1)
    parts(table(replica(engine), version=2), [b], {"m-1": "b"})
    await caller.heard(frames.LEAVING)
    caller.ask([2])
    number, refused = await caller.heard(frames.FAIL)
    assert (number, read_failed(refused).refused) == (2, True)
    assert len(engine.received) == 1
    caller.send(frames.CANCEL, 1)
    await caller.ended()  # with its last request
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


@virtual_time
async def test_bodies_of_other_hosts_leave_room_for_those_of_clients(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a body comes in time, or its request ends; and all of them have half of the room."""
    monkeypatch.setattr(connection, "LEAST_BODY_RATE", 1 << 40)
    room = {"max_bodies_bytes": 400 * KIB, "max_body_bytes": 200 * KIB}
    _, b, _ = await make.pair(options={"client_timeout_seconds": 10.0, **room})
    caller = await LyingEntry.call(b)
    caller.ask((1, 2), b"x" * 120 * KIB, body_bytes=190 * KIB)
    number, failed = await caller.heard(frames.FAIL)
    assert (number, read_failed(failed).code) == (2, "bodies_full")
    assert (await b.proxy.complete(prompt="p" * 150 * KIB)).status_code == 200
    ends = asyncio.create_task(caller.heard(frames.FAIL))

    async def poll() -> None:
        while not ends.done():
            caller.send(frames.BODY, 1, b"x")
            await asyncio.sleep(1)

    await poll()
    number, failed = ends.result()
    assert (number, read_failed(failed).code) == (1, "timeout")
    assert b.proxy.state.body_bytes == 0
    caller.writer.close()


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
