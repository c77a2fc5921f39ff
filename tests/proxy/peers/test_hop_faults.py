"""A cable between two hosts that stalls, breaks or is slow costs the streams on it, at most."""

import asyncio
import dataclasses
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from partitiond.core.dispatch.routing import PeerRoute
from partitiond.proxy.peer_server import connection
from partitiond.proxy.peers import known, link
from tests.proxy.conftest import MakeEngine, replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host, tables_of
from tests.proxy.peers.relay import Relay, cable
from tests.proxy.peers.test_hops import holding, until_idle, until_received
from tests.proxy.scripted import STREAM_HEAD, ScriptedEngine, Step, chunk, text_event
from tests.proxy.virtual import virtual_time

pytestmark = virtual_time

DONE = "data: [DONE]\n\n"


@dataclasses.dataclass
class Rig:
    """An entry; an owner behind a cable, which serves `m`; a sound one, which serves `n`."""

    entry: Host
    owner: Host
    sound: Host
    cable: Relay
    far: ScriptedEngine
    near: ScriptedEngine
    go: asyncio.Event

    async def settle(self) -> None:
        await until_idle([self.entry, self.owner, self.sound])


@pytest.fixture(autouse=True)
def clean_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No fault may look like a bug of ours."""
    yield
    bad = [
        one for one in caplog.get_records("call") if one.levelno >= logging.ERROR or one.exc_info
    ]
    assert not bad, [one.getMessage() for one in bad]


@pytest.fixture
async def rig(folder: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(known, "LEARN_SECONDS", 5.0)
    go = asyncio.Event()
    far, near = await make.engine(holding(go), "e1"), await make.engine(holding(go), "e2")
    routes = table(replica(far, "m-1"), replica(near, "n-1", model="n"), models=("m", "n"))
    entry, owner, sound = await make.hosts(routes, {"a": [], "b": ["m-1"], "c": ["n-1"]})
    async with cable(folder, owner) as wire:
        told = entry.proxy.state.table
        peers = tuple(
            PeerRoute("b", f"unix:{wire.path}") if one.host == "b" else one for one in told.peers
        )
        entry.proxy.state.apply(dataclasses.replace(told, version=2, peers=peers))
        await entry.until_it_hears(1)
        await entry.until_it_hears(2)
        yield Rig(entry, owner, sound, wire, far, near, go)


def error_of(text: str) -> str:
    """The code of the error event that a stream ended with."""
    assert text.endswith(DONE)
    return str(json.loads(text.split("\n\n")[-3].removeprefix("data: "))["error"]["code"])


async def test_a_cable_that_stalls_ends_its_streams_at_both_sides(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = asyncio.create_task(rig.entry.proxy.stream_text())
    goes_on = asyncio.create_task(rig.entry.proxy.stream_text(model="n"))
    await until_received(2, rig.far, rig.near)
    await rig.entry.proxy.until(
        lambda: sum(one.answer.streaming for one in rig.entry.proxy.exchanges()) == 2
    )
    for side, seconds in ((link, 0.3), (connection, 0.5)):
        monkeypatch.setattr(side, "DEAD_SECONDS", seconds)
    monkeypatch.setattr(link, "PING_SECONDS", 0.05)
    rig.cable.flows.clear()
    assert error_of(await lost) == "upstream_reset"
    await rig.owner.proxy.until(rig.owner.is_idle)
    monkeypatch.undo()
    rig.cable.flows.set()  # and it heals
    rig.go.set()
    assert (await goes_on).endswith(DONE)
    await rig.entry.until_it_hears(2)
    assert (await rig.entry.proxy.complete()).status_code == 200
    await rig.settle()


async def test_what_a_stalled_cable_holds_goes_to_another_host(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = table(replica(rig.far, "m-1"), replica(rig.near, "m-2"), version=3)
    hosts = [rig.entry.route, PeerRoute("b", f"unix:{rig.cable.path}"), rig.sound.route]
    tables = tables_of(routes, hosts, {"m-1": "b", "m-2": "c"})
    for one in (rig.owner, rig.sound, rig.entry):
        one.proxy.state.apply(tables.of(one.name))
    peers = rig.entry.proxy.state.peers
    await rig.entry.proxy.until(lambda: peers.serving("m") == {"b", "c"})
    monkeypatch.setattr(link, "DEAD_SECONDS", 0.3)
    monkeypatch.setattr(link, "PING_SECONDS", 0.05)
    rig.go.set()
    rig.cable.flows.clear()
    asked = [asyncio.create_task(rig.entry.proxy.complete()) for _ in range(8)]
    assert [(await one).status_code for one in asked] == [200] * 8
    await rig.entry.proxy.until(lambda: peers.serving("m") == {"c"})
    assert (await rig.entry.proxy.complete()).status_code == 200
    assert not rig.far.received
    monkeypatch.undo()
    rig.cable.flows.set()
    await rig.entry.until_it_hears(2)
    await rig.settle()


async def test_a_cable_that_heals_in_time_costs_nothing(rig: Rig) -> None:
    asked = asyncio.create_task(rig.entry.proxy.stream_text())
    await rig.far.until(lambda: len(rig.far.received) == 1)
    rig.cable.flows.clear()
    rig.go.set()
    await asyncio.sleep(0.3)
    assert not asked.done()
    rig.cable.flows.set()
    assert (await asked).count('"text":') == 3
    await rig.settle()


@pytest.mark.parametrize("begun", [True, False])
async def test_a_reset_frees_the_places_at_both_sides(rig: Rig, begun: bool) -> None:
    asked = [asyncio.create_task(rig.entry.proxy.complete(stream=begun)) for _ in range(5)]
    await rig.far.until(lambda: len(rig.far.received) == 5)
    if begun:
        await rig.entry.proxy.until(
            lambda: sum(one.answer.streaming for one in rig.entry.proxy.exchanges()) == 5
        )
    rig.cable.reset()
    for one in asked:
        answered = await one
        if begun:
            assert error_of(answered.text) == "upstream_reset"
        else:
            assert answered.status_code == 502
    await rig.settle()
    rig.go.set()
    await rig.entry.until_it_hears(2)
    assert (await rig.entry.proxy.complete()).status_code == 200


async def test_a_request_that_a_reset_met_before_it_had_a_place_is_asked_again_once(
    rig: Rig,
) -> None:
    rig.cable.flows.clear()
    asked = asyncio.create_task(rig.entry.proxy.complete(prompt="x" * 500_000))
    await rig.entry.proxy.until(lambda: bool(rig.entry.proxy.exchanges()))
    rig.cable.reset()
    rig.cable.flows.set()
    assert not rig.far.received
    rig.go.set()
    assert (await asked).status_code == 200
    assert len(rig.far.received) == 1
    await rig.settle()


async def test_bytes_that_come_one_at_a_time_are_the_same_answer(rig: Rig) -> None:
    rig.go.set()
    at_once = await rig.entry.proxy.stream_text()
    rig.cable.step = 1
    assert await rig.entry.proxy.stream_text() == at_once
    await rig.settle()


async def test_a_slow_client_stops_its_engine_and_no_other_stream(
    rig: Rig, make_engine: MakeEngine
) -> None:
    filler = chunk(text_event("x" * 60_000))
    flood: list[Step] = [STREAM_HEAD, *[filler] * 2000]
    calm = rig.far.script
    rig.far.script = lambda got: flood if got.body["prompt"] == "flood" else calm(got)
    body = json.dumps({"model": "m", "prompt": "flood", "stream": True}).encode()
    _, slow = await asyncio.open_connection("127.0.0.1", rig.entry.proxy.port, limit=1024)
    slow.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )
    await rig.entry.proxy.until(lambda: any(one.paused for one in rig.entry.proxy.exchanges()))
    rig.go.set()
    for _ in range(10):  # on the same connection
        assert (await rig.entry.proxy.stream_text()).count('"text":') == 3
    assert rig.far.steps < 1000, "the engine was not stopped"
    slow.transport.abort()
    await rig.far.until(lambda: rig.far.left == 1)
    await rig.settle()


async def test_huge_bodies_and_small_requests_share_a_connection(rig: Rig) -> None:
    rig.go.set()
    huge = [rig.entry.proxy.complete(prompt="x" * 4_000_000) for _ in range(4)]
    small = [rig.entry.proxy.stream_text() for _ in range(40)]
    answers, texts = await asyncio.gather(asyncio.gather(*huge), asyncio.gather(*small))
    assert [one.status_code for one in answers] == [200] * 4
    assert all(text.endswith(DONE) for text in texts)
    assert {len(got.body["prompt"]) for got in rig.far.received} == {2, 4_000_000}
    await rig.settle()
