"""A cable between two hosts that stalls or breaks costs the streams on it, at most."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from partitiond.core.dispatch.routing import PeerRoute
from partitiond.proxy.peers import host
from tests.proxy.conftest import replica, table
from tests.proxy.peers.conftest import Make
from tests.proxy.peers.hosts import Host, tables_of
from tests.proxy.peers.relay import Relay, cable
from tests.proxy.peers.test_hops import holding, until_idle
from tests.proxy.scripted import ScriptedEngine
from tests.proxy.virtual import virtual_time

pytestmark = [virtual_time, pytest.mark.usefixtures("clean_log")]

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

    async def streaming(self, count: int) -> None:
        """Wait until so many streams have begun."""
        asked = self.entry.proxy.exchanges
        await self.entry.proxy.until(lambda: sum(one.answer.streaming for one in asked()) == count)

    async def is_back(self) -> None:
        """It heals, and the owner is heard and serves."""
        self.cable.flows.set()
        self.go.set()
        await self.entry.until_it_hears(2)
        assert (await self.entry.proxy.complete()).status_code == 200
        await self.settle()


@pytest.fixture
async def rig(folder: Path, make: Make) -> AsyncIterator[Rig]:
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


def code_of(text: str) -> str:
    """The code of the error event that a stream ended with."""
    assert text.endswith(DONE)
    return str(json.loads(text.split("\n\n")[-3].removeprefix("data: "))["error"]["code"])


async def test_a_cable_that_stalls_ends_its_streams_at_both_sides(rig: Rig) -> None:
    """One that heals in time costs nothing."""
    lost = asyncio.create_task(rig.entry.proxy.stream_text())
    goes_on = asyncio.create_task(rig.entry.proxy.stream_text(model="n"))
    await rig.streaming(2)
    rig.cable.flows.clear()
    await asyncio.sleep(host.DEAD_SECONDS / 2)
    rig.cable.flows.set()
    await rig.entry.until_it_hears(2)
    assert not lost.done()
    rig.cable.flows.clear()
    assert code_of(await lost) == "upstream_reset"
    await rig.owner.proxy.until(rig.owner.is_idle)
    await rig.is_back()
    assert (await goes_on).count('"text":') == 3


async def test_what_a_stalled_cable_holds_goes_to_another_host(rig: Rig) -> None:
    routes = table(replica(rig.far, "m-1"), replica(rig.near, "m-2"), version=3)
    hosts = [rig.entry.route, PeerRoute("b", f"unix:{rig.cable.path}"), rig.sound.route]
    tables = tables_of(routes, hosts, {"m-1": "b", "m-2": "c"})
    for one in (rig.owner, rig.sound, rig.entry):
        one.proxy.state.apply(tables.of(one.name))
    await rig.entry.proxy.until(lambda: rig.entry.serving("m") == {"b", "c"})
    rig.go.set()
    rig.cable.flows.clear()
    asked = [rig.entry.proxy.ask() for _ in range(8)]
    assert [(await one).status_code for one in asked] == [200] * 8
    await rig.entry.proxy.until(lambda: rig.entry.serving("m") == {"c"})
    assert not rig.far.received
    await rig.is_back()


@pytest.mark.parametrize("begun", [True, False])
async def test_a_reset_frees_the_places_at_both_sides(rig: Rig, begun: bool) -> None:
    asked = [rig.entry.proxy.ask(stream=begun) for _ in range(5)]
    await rig.far.got(5)
    if begun:
        await rig.streaming(5)
    rig.cable.reset()
    for one in asked:
        answered = await one
        if begun:
            assert code_of(answered.text) == "upstream_reset"
        else:
            assert answered.status_code == 502
    await rig.settle()
    await rig.is_back()


async def test_a_request_that_a_reset_met_before_it_had_a_place_is_asked_again_once(
    rig: Rig,
) -> None:
    rig.cable.flows.clear()
    asked = rig.entry.proxy.ask(prompt="x" * 500_000)
    await rig.entry.proxy.until(lambda: bool(rig.entry.proxy.exchanges()))
    rig.cable.reset()
    rig.cable.flows.set()
    assert not rig.far.received
    rig.go.set()
    assert (await asked).status_code == 200
    assert len(rig.far.received) == 1
    await rig.settle()
