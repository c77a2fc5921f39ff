"""The loop uses the last view of the devices until the next look ends."""

import asyncio
import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

from partitiond.controller.runtime.watching import DeviceWatch, room_on
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import Device, silent_device
from partitiond.core.replica.observation import Unknown
from tests.controller.fakes import FakeClock, ignored
from tests.controller.samples import cpu
from tests.devices.fake import FakeDevices
from tests.machine import until

ONE = cpu(2)
OTHER = dataclasses.replace(ONE, id="cpu-2")
WHY = "silent for 30 s"


class Partial(FakeDevices):
    """A provider that says why devices may be missing."""

    unseen = ""


def watch(devices: FakeDevices, **changes: Any) -> DeviceWatch:
    given: dict[str, Any] = {"look_seconds": 600.0, "patience_seconds": 60.0, "troubled": ignored}
    return DeviceWatch(devices, FakeClock(), marked=tuple, after_look=ignored, **given | changes)


async def test_nobody_waits_until_a_look_ends_and_one_is_under_way_at_a_time() -> None:
    hanging = FakeDevices([ONE])
    hanging.hang()
    here = watch(hanging, look_seconds=600.0, patience_seconds=0.01)
    async with asyncio.timeout(120):
        await here.refresh(0.0)
        first = here._under_way
        assert first is not None
        for _ in range(3):
            await here.refresh(0.0)
    assert here._under_way is first
    assert (here.devices, here.problem, here.looked) == ((), "", False)
    hanging.become([ONE])
    await until(lambda: here.devices == (ONE,))


async def test_whoever_asks_sees_what_holds_then_also_behind_a_look_that_began_before() -> None:
    class Late(FakeDevices):
        def discover(self) -> Sequence[Device]:
            found = self._devices
            begun.set()
            super().discover()
            return found

    async def seen() -> tuple[Device, ...]:
        await here.refresh(0.0)
        return here.devices

    begun, provider = threading.Event(), Late([ONE])
    provider.hang()
    here = watch(provider)
    asked = [asyncio.create_task(seen())]
    await until(begun.is_set)
    asked += [asyncio.create_task(seen()) for _ in range(3)]
    await asyncio.sleep(0)
    provider.become([OTHER])
    assert (await asyncio.gather(*asked))[1:] == [(OTHER,)] * 3


async def test_it_is_trouble_when_no_device_answers() -> None:
    silent = [silent_device(one, WHY) for one in (ONE, OTHER)]
    for devices, troubled in (
        ([], False),
        ([ONE, OTHER], False),
        ([silent[0], OTHER], False),
        (silent[:1], True),
        (silent, True),
    ):
        here = watch(FakeDevices(devices))
        await here.look()
        assert here.looked
        assert (WHY in here.trouble) is bool(here.trouble) is troubled


async def test_what_cannot_be_seen_of_known_devices_is_silent_and_not_gone() -> None:
    provider = Partial([OTHER])
    here = watch(provider)
    here.remember([ONE, OTHER])
    await here.refresh(0.0)
    assert here.devices == (OTHER,), "the driver has told of all"
    provider.unseen = WHY
    await here.refresh(0.0)
    assert [device.id for device in here.devices] == [OTHER.id, ONE.id]
    assert [here.is_silent(device.id) for device in (ONE, OTHER)] == [True, False]
    silent = silent_device(ONE, WHY)
    room = dict(room_on([silent, OTHER], None, ""))
    assert room[ONE.id] == Unknown(silent.health_reason)
    assert isinstance(room[OTHER.id], int)
    failed = dataclasses.replace(ONE, health=DeviceHealth.FAILED)
    assert dict(room_on([failed, OTHER], None, "")).keys() == {OTHER.id}, "nothing starts there"
