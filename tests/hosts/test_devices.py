"""Hosts that are late, silent, lost and back, as a look at all devices tells."""

import asyncio
import dataclasses
import itertools
from collections.abc import Sequence

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
from tests.hosts.pipes import FakeAgent, Pipe, agent, devices_of, piped

LIMITS = HostLimits(silent_seconds=20.0, lost_seconds=300.0)
FINE, SILENT, FAILED = DeviceHealth.FINE, DeviceHealth.SILENT, DeviceHealth.FAILED


class World:
    """The hosts "one" (the head's) and "two", and a clock."""

    def __init__(self, two: FakeAgent | None = None) -> None:
        self.clock = FakeClock()
        self.one, self.two = agent("one", FakeRunner()), two or agent("two", FakeRunner())
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

    async def health(self, host: str = "two") -> set[DeviceHealth]:
        return {device.health for device in await self.look() if device.host == host}

    def hangs(self, there: FakeAgent) -> None:
        """Have a host's driver hang, and whoever is asked be late soon."""
        there.devices.hang()
        self.hosts.devices._late_seconds = 0.05

    def state(self, host: str = "two") -> HostState:
        return {view.name: view.state for view in self.hosts.views()}[host]

    async def begin(self) -> None:
        await self.hosts.engines.find()
        assert await self.health() == {FINE}

    async def comes_back(self) -> None:
        self.pipe.mend()
        await self.look()
        await self.hosts.engines.returned()


async def test_a_host_is_late_silent_lost_and_back() -> None:
    world = World()
    await world.begin()
    assert world.state() is HostState.FINE
    world.pipe.cut()
    world.clock.now += 5.0
    assert await world.health() == {FINE}
    world.clock.now += 14.0
    assert await world.health() == {FINE}
    assert world.state() is HostState.LATE
    assert world.hosts.engines.knows("two")
    world.clock.now += 1.0
    assert await world.health() == {SILENT}
    assert not world.hosts.engines.knows("two")
    world.clock.now += 280.0
    assert await world.health() == {FAILED}
    assert world.state() is HostState.LOST
    assert world.hosts.engines.knows("two")  # it counts as having none
    assert world.hosts.engines.is_gone("two")
    world.pipe.mend()
    assert await world.health() == {SILENT}
    assert "has just come back" in world.hosts.devices.unseen
    await world.hosts.engines.returned()
    assert await world.health() == {FINE}
    assert world.state() is HostState.FINE
    assert await world.health("one") == {FINE}


async def test_a_head_that_was_restarted_loses_a_host_that_it_never_heard_of() -> None:
    world = World()
    world.pipe.cut()
    world.hosts.devices.remember(devices_of("two"))
    await world.hosts.engines.find()
    assert await world.health() == {SILENT}
    world.clock.now += 299.0
    assert await world.health() == {SILENT}
    world.clock.now += 1.0
    assert await world.health() == {FAILED}
    await world.comes_back()
    assert await world.health() == {FINE}


async def test_a_host_that_comes_and_goes_makes_its_devices_come_and_go_a_few_times_only() -> None:
    world = World()
    await world.begin()
    seen = []
    for _ in range(60):
        world.pipe.cut()
        world.clock.now += 5.0
        await world.look()
        world.clock.now += 20.0
        seen.append(await world.health())
        world.pipe.mend()
        world.clock.now += 1.0
        await world.look()
        await world.hosts.engines.returned()
        seen.append(await world.health())
    changes = sum(one != other for one, other in itertools.pairwise(seen))
    assert changes <= 4
    assert seen[-1] == {FAILED}
    for _ in range(70):
        world.clock.now += 5.0
        await world.look()
    await world.hosts.engines.returned()
    assert await world.health() == {FINE}


async def test_a_host_that_is_late_now_and_again_changes_nothing() -> None:
    world = World()
    await world.begin()
    for turn in range(40):
        world.clock.now += 5.0
        (world.pipe.mend if turn % 2 else world.pipe.cut)()
        assert await world.health() == {FINE}


async def test_one_host_that_hangs_is_late_and_holds_up_no_other() -> None:
    world = World()
    await world.begin()
    world.hangs(world.two)
    assert await world.health() == {FINE}
    assert world.state() is HostState.LATE
    gpu, cpu = devices_of("one")
    world.one.devices.become((gpu, dataclasses.replace(cpu, cordoned=True)))
    async with asyncio.timeout(60):
        while not {device.id: device for device in await world.look()}["cpu-one"].cordoned:
            pass
    world.two.devices.become(devices_of("two"))


async def test_the_heads_own_host_is_never_late() -> None:
    world = World()
    await world.begin()
    world.hangs(world.one)
    await world.look()
    assert world.state("one") is HostState.FINE
    world.clock.now += 400.0
    assert await world.health("one") == {SILENT}  # its driver is
    assert world.state("one") is HostState.FINE
    world.one.devices.become(devices_of("one"))


async def test_a_host_that_comes_back_with_fewer_gpus_has_fewer() -> None:
    world = World()
    await world.begin()
    world.pipe.cut()
    await world.look()
    world.clock.now += 400.0
    await world.look()
    world.two.devices.become(devices_of("two")[1:])
    await world.comes_back()
    assert {d.id for d in await world.look() if d.host == "two"} == {"cpu-two"}


async def test_a_host_without_devices_has_a_state_too() -> None:
    world = World()
    world.two.devices.become(())
    await world.hosts.engines.find()
    assert await world.health() == set()
    assert world.state() is HostState.FINE
    world.pipe.cut()
    await world.look()
    world.clock.now += 400.0
    await world.look()
    assert world.state() is HostState.LOST


async def test_a_driver_that_refuses_is_no_host_that_does_not_answer() -> None:
    world = World()
    await world.begin()
    world.two.devices.refuse("no driver.")
    world.clock.now += 400.0
    assert await world.health() == {SILENT}
    assert world.state() is HostState.FINE
    assert "no driver" in world.hosts.devices.unseen


async def test_a_host_that_obeys_another_head_is_refused() -> None:
    world = World()
    await world.begin()

    def obeys_another() -> Sequence[Device]:
        raise ConflictError("it obeys another head.")

    world.two.devices.discover = obeys_another  # type: ignore[method-assign]
    assert await world.health() == {SILENT}
    assert world.state() is HostState.REFUSED
    world.clock.now += 400.0
    assert await world.health() == {FAILED}


async def test_a_host_whose_devices_have_the_ids_of_another_hosts_is_refused() -> None:
    world = World()
    world.two.devices.become(
        dataclasses.replace(device, host="two") for device in devices_of("one")
    )
    await world.hosts.engines.find()
    assert {device.host for device in await world.look()} == {"one"}
    assert world.state() is HostState.REFUSED
    assert world.state("one") is HostState.FINE
    (reason,) = (view.reason for view in world.hosts.views() if view.name == "two")
    assert "GPU-one is one of the host one, too" in reason
    assert 'of the same "name"' in reason
    world.two.devices.become(devices_of("two"))
    await world.comes_back()
    assert world.state() is HostState.FINE


async def test_a_device_that_was_put_into_another_host_is_that_ones_once_its_host_lacks_it() -> (
    None
):
    world = World()
    await world.begin()
    moved = [dataclasses.replace(device, host="one") for device in devices_of("two")[:1]]
    world.two.devices.become(devices_of("two")[1:])
    await world.look()
    world.one.devices.become((*devices_of("one"), *moved))
    assert {d.id for d in await world.look() if d.host == "one"} == {
        "GPU-one",
        "cpu-one",
        "GPU-two",
    }
    assert world.state() is HostState.FINE


async def test_a_device_of_a_lost_host_may_be_in_another_one() -> None:
    world = World()
    await world.begin()
    world.pipe.cut()
    await world.look()
    world.clock.now += 400.0
    await world.look()
    assert world.state() is HostState.LOST
    moved = [dataclasses.replace(device, host="one") for device in devices_of("two")[:1]]
    world.one.devices.become((*devices_of("one"), *moved))
    seen = await world.look()
    assert [device.host for device in seen if device.id == "GPU-two"] == ["one"]
    assert len({device.id for device in seen}) == len(seen)


async def test_the_ids_of_a_host_that_is_remembered_are_its_own() -> None:
    world = World()
    world.hosts.devices.remember(devices_of("two"))
    world.one.devices.become(devices_of("one"))
    world.two.devices.become(devices_of("two"))
    await world.begin()
    assert world.state() is HostState.FINE


async def test_a_head_that_was_overtaken_begins_nothing_on_its_own_host_either() -> None:
    world = World()
    await world.begin()
    world.hosts.devices.overtaken("epoch 2 has taken over.")
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
    world.hosts.devices.overtaken("")
    assert await world.health("one") == {FINE}


@pytest.mark.parametrize("count", [1, 40])
async def test_any_number_of_hosts_is_looked_at_at_once(count: int) -> None:
    there = [agent(f"h{n}", FakeRunner()) for n in range(count)]
    pipes: list[Pipe] = []
    others = []
    for one in there[1:]:
        remote, pipe = piped(one)
        pipes.append(pipe)
        others.append(remote)
    clock = FakeClock()
    hosts = Hosts([there[0], *others], late_seconds=60.0, limits=LIMITS, clock=clock)
    await hosts.engines.find()
    assert len(await asyncio.to_thread(hosts.devices.discover)) == 2 * count
    for pipe in pipes[::2]:
        pipe.cut()
    await asyncio.to_thread(hosts.devices.discover)
    clock.now += 30.0
    seen = await asyncio.to_thread(hosts.devices.discover)
    assert len(seen) == 2 * count
    assert sum(device.health is SILENT for device in seen) == 2 * len(pipes[::2])
    assert next(view.name for view in hosts.views()) == "h0"
    assert len(hosts.views()) == count
