"""Hosts that are late, silent, lost and back, as a look at all devices tells."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence

import pytest

from partitiond.controller.runtime.cordons import host_changes
from partitiond.controller.runtime.watching import room_on
from partitiond.core.errors import ConflictError
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.host_state import HostLimits, HostState
from partitiond.core.hardware.kinds import Device
from partitiond.core.replica.observation import Unknown
from partitiond.hosts.together import Hosts
from tests.controller.fakes import FakeClock, FakeRunner
from tests.hosts.pipes import FakeAgent, agent, devices_of, piped
from tests.proxy.virtual import real_time

pytestmark = real_time

LIMITS = HostLimits(silent_seconds=20.0, lost_seconds=300.0)
FINE, SILENT, FAILED = DeviceHealth.FINE, DeviceHealth.SILENT, DeviceHealth.FAILED


class World:
    """The hosts "one" (the head's) and "two", and a clock."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.one, self.two = (agent(name, FakeRunner()) for name in ("one", "two"))
        remote, self.pipe = piped(self.two)
        self.hosts = Hosts(
            [self.one, remote],
            look_seconds=30.0,
            late_seconds=60.0,
            limits=LIMITS,
            ask_again_seconds=0.005,
            clock=self.clock,
        )

    async def look(self) -> Sequence[Device]:
        return await asyncio.to_thread(self.hosts.devices.discover)

    async def health(self, host: str = "two", *, after: float = 0.0) -> set[DeviceHealth]:
        self.clock.now += after
        return {device.health for device in await self.look() if device.host == host}

    async def ids(self, host: str) -> set[str]:
        return {device.id for device in await self.look() if device.host == host}

    def hangs(self, there: FakeAgent) -> None:
        """Have a host's driver hang, and whoever is asked be late soon."""
        there.devices.hang()
        self.hosts.devices._late_seconds = 0.05

    def state(self, host: str = "two") -> HostState:
        return {view.name: view.state for view in self.hosts.views()}[host]

    async def lost(self) -> None:
        self.pipe.cut()
        await self.look()
        self.clock.now += 400.0
        await self.look()
        assert self.state() is HostState.LOST

    async def comes_back(self) -> None:
        self.pipe.mend()
        await self.look()
        await self.hosts.engines.returned()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.hosts.engines.find()
    yield made
    for there in (made.one, made.two):
        there.devices.become(devices_of(there.name))  # whoever hangs ends


async def test_a_host_is_late_silent_lost_and_back(world: World) -> None:
    assert await world.health() == {FINE}
    assert world.state() is HostState.FINE
    world.pipe.cut()
    assert await world.health(after=5.0) == {FINE}
    assert await world.health(after=14.0) == {FINE}
    assert world.state() is HostState.LATE
    assert world.hosts.engines.knows("two")
    assert await world.health(after=1.0) == {SILENT}
    assert not world.hosts.engines.knows("two")
    assert await world.health(after=280.0) == {FAILED}
    assert world.state() is HostState.LOST
    assert world.hosts.engines.knows("two")  # it counts as having none
    world.pipe.mend()
    assert await world.health() == {SILENT}
    assert "has just come back" in world.hosts.devices.unseen
    await world.hosts.engines.returned()
    assert await world.health() == {FINE}
    assert world.state() is HostState.FINE
    assert await world.health("one") == {FINE}


async def test_a_head_that_was_restarted_loses_a_host_that_it_never_heard_of(world: World) -> None:
    world.pipe.cut()
    world.hosts.devices.remember(devices_of("two"))
    assert await world.health() == {SILENT}
    assert await world.health(after=299.0) == {SILENT}
    assert await world.health(after=1.0) == {FAILED}
    await world.comes_back()
    assert await world.health() == {FINE}  # the ids that are remembered are its own


async def test_one_host_that_hangs_is_late_and_holds_up_no_other(world: World) -> None:
    assert await world.health() == {FINE}
    world.hangs(world.two)
    assert await world.health() == {FINE}
    assert world.state() is HostState.LATE
    gpu, cpu = devices_of("one")
    world.one.devices.become((gpu, dataclasses.replace(cpu, cordoned=True)))
    async with asyncio.timeout(60):
        while not {device.id: device for device in await world.look()}["cpu-one"].cordoned:
            pass


async def test_the_heads_own_host_is_never_late(world: World) -> None:
    await world.look()
    world.hangs(world.one)
    await world.look()
    assert world.state("one") is HostState.FINE
    assert await world.health("one", after=400.0) == {SILENT}  # its driver is
    assert world.state("one") is HostState.FINE


@pytest.mark.parametrize("left", [1, 0])
async def test_a_host_that_comes_back_with_fewer_devices_has_fewer(world: World, left: int) -> None:
    """One without any has a state, too."""
    await world.look()
    await world.lost()
    world.two.devices.become(devices_of("two")[2 - left :])
    await world.comes_back()
    assert await world.ids("two") == ({"cpu-two"} if left else set())
    assert world.state() is HostState.FINE
    await world.lost()


async def test_a_driver_that_refuses_is_no_host_that_does_not_answer(world: World) -> None:
    await world.look()
    world.two.devices.refuse("no driver.")
    assert await world.health(after=400.0) == {SILENT}
    assert world.state() is HostState.FINE
    assert "no driver" in world.hosts.devices.unseen


async def test_a_host_that_obeys_another_head_is_refused(world: World) -> None:
    await world.look()

    def obeys_another() -> Sequence[Device]:
        raise ConflictError("it obeys another head.")

    world.two.devices.discover = obeys_another  # type: ignore[method-assign]
    assert await world.health() == {SILENT}
    assert world.state() is HostState.REFUSED


async def test_a_host_whose_devices_have_the_ids_of_another_hosts_is_refused(world: World) -> None:
    world.two.devices.become(
        dataclasses.replace(device, host="two") for device in devices_of("one")
    )
    assert {device.host for device in await world.look()} == {"one"}
    assert world.state() is HostState.REFUSED
    assert world.state("one") is HostState.FINE
    (reason,) = (view.reason for view in world.hosts.views() if view.name == "two")
    assert "GPU-one is one of the host one, too" in reason
    assert 'of the same "name"' in reason
    world.two.devices.become(devices_of("two"))
    await world.comes_back()
    assert world.state() is HostState.FINE


@pytest.mark.parametrize("former", ["lacks it", "is lost", "is silent"])
async def test_a_device_that_was_put_into_another_host_is_that_ones(
    world: World, former: str
) -> None:
    await world.look()
    moved, *rest = devices_of("two")
    if former == "lacks it":
        world.two.devices.become(rest)
        await world.look()
    elif former == "is lost":
        await world.lost()
    else:
        world.pipe.cut()
        await world.look()
        world.clock.now += 30.0
    world.one.devices.become((*devices_of("one"), dataclasses.replace(moved, host="one")))
    assert await world.ids("one") == {"GPU-one", "cpu-one", "GPU-two"}
    assert await world.ids("two") == {"cpu-two"}


async def test_the_own_host_has_the_devices_that_it_shows_and_the_other_one_is_refused(
    world: World,
) -> None:
    """What its look brings is never left out: nothing would say so, for the own host is fine."""
    await world.look()
    (gpu, cpu) = devices_of("one")
    copied = dataclasses.replace(devices_of("two")[0], host="one")
    world.one.devices.become((copied, dataclasses.replace(cpu, cordoned=True), gpu))
    seen = {(device.host, device.id): device for device in await world.look()}
    own = [device_id for host, device_id in seen if host == "one"]
    assert sorted(own) == ["GPU-one", "GPU-two", "cpu-one"]
    assert ("two", "GPU-two") not in seen
    assert seen["one", "cpu-one"].cordoned
    await world.look()
    assert (world.state("one"), world.state()) == (HostState.FINE, HostState.REFUSED)


async def test_a_head_that_was_overtaken_begins_nothing_on_its_own_host_either(
    world: World,
) -> None:
    await world.look()
    world.hosts.overtaken("epoch 2 has taken over.")
    world.clock.now += 400.0
    seen = await world.look()
    standings = world.hosts.devices.hosts()
    assert world.state("one") is HostState.REFUSED
    assert not standings["one"].gone
    assert await world.health("one") == {SILENT}
    rooms = room_on(seen, None, "", standings)
    assert {type(room) for device, room in rooms if device.endswith("one")} == {Unknown}
    assert world.hosts.engines.knows("one")  # its engines are watched as before
    assert host_changes({}, standings) == (("one", "host-refused", "epoch 2 has taken over."),)
    world.hosts.overtaken("")
    assert await world.health("one") == {FINE}
