"""Operators' cordons take effect, and findings about a device's health become known."""

import dataclasses
import threading
from collections.abc import Sequence

import pytest

from partitiond.controller.journal import Journal
from partitiond.controller.runtime.cordons import (
    NO_REASON,
    Cordons,
    health_changes,
    host_changes,
    with_cordons,
)
from partitiond.controller.runtime.watching import DeviceWatch
from partitiond.core.errors import InputError, NotFoundError
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.host_state import FINE, HostStanding, HostState
from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.named import device_named
from partitiond.store import Store
from tests.controller.fakes import FakeClock, ignored
from tests.devices.fake import FakeDevices, fake_cpu, fake_gpus

GPUS = fake_gpus("a100-80gb", 2)
FIRST, SECOND = GPUS


class Careful(FakeDevices):
    """Devices that can be inspected, and that remember faults until they are forgiven."""

    def __init__(self, devices: Sequence[Device]) -> None:
        super().__init__(devices)
        self.forgiven: list[str] = []

    def inspect(self, device_id: str) -> DeviceDetails:
        found = next(device for device in self.discover() if device.id == device_id)
        return DeviceDetails(found, pci_bus_id="0000:07:00.0")

    def forgive(self, device_id: str) -> None:
        assert threading.current_thread() is not threading.main_thread(), "a host may hang"
        self.forgiven.append(device_id)


class World:
    """Cordons over devices that are watched."""

    def __init__(self, store: Store, devices: FakeDevices) -> None:
        clock = FakeClock()
        self.store, self.provider, self.replanned = store, devices, 0
        self.watch = DeviceWatch(
            devices,
            clock,
            marked=lambda found: with_cordons(found, store.marks("cordon")),
            after_look=self._looked,
            troubled=ignored,
        )
        self.cordons = Cordons(
            store=store,
            devices=self.watch,
            clock=clock,
            journal=Journal(store, clock),
            changed=self._changed,
        )

    def _looked(self, before: Sequence[Device], now: Sequence[Device]) -> None:
        self.cordons.looked(before, now)

    def _changed(self) -> None:
        self.replanned += 1

    @classmethod
    async def of(cls, store: Store, devices: FakeDevices) -> "World":
        made = cls(store, devices)
        await made.watch.refresh(0.0)
        return made

    def events(self) -> list[str]:
        return [event.kind for event in self.store.events()]


async def test_a_cordon_holds_at_once_and_over_looks_and_restarts(store: Store) -> None:
    devices = Careful(GPUS)
    world = await World.of(store, devices)
    device = world.cordons.set(FIRST.id, "fan")
    assert (device.cordoned, device.cordon_reason) == (True, "fan")
    assert world.replanned == 1
    again = await World.of(store, Careful(GPUS))
    assert [d.cordoned for d in again.watch.devices] == [True, False]
    assert world.events() == ["device-cordoned"]
    told = await world.watch.inspect(FIRST.id)
    assert (told.device.cordon_reason, told.pci_bus_id) == ("fan", "0000:07:00.0")
    for _ in range(2):  # once more is no error
        assert not (await world.cordons.lift(FIRST.id)).cordoned
    assert devices.forgiven == [FIRST.id] * 2
    assert dict(store.marks("cordon")) == {}


async def test_a_device_that_failed_by_itself_stays_cordoned(store: Store) -> None:
    failed = dataclasses.replace(
        FIRST,
        cordoned=True,
        cordon_reason="Xid 79",
        health=DeviceHealth.FAILED,
        health_reason="Xid 79",
    )
    world = await World.of(store, FakeDevices([failed, SECOND]))
    assert world.cordons.set(FIRST.id, "fan").cordon_reason == "fan Also: Xid 79"
    device = await world.cordons.lift(FIRST.id)
    assert (device.cordoned, device.cordon_reason) == (True, "Xid 79")


async def test_a_device_that_is_not_there_is_refused_and_a_reason_is_always_there(
    store: Store,
) -> None:
    world = await World.of(store, FakeDevices(GPUS))
    with pytest.raises(NotFoundError, match="no device GPU-x") as caught:
        world.cordons.set("GPU-x", "fan")
    assert FIRST.id in caught.value.hint
    assert dict(store.marks("cordon")) == {}
    assert world.cordons.set(FIRST.id, "  ").cordon_reason == NO_REASON
    assert (await world.watch.inspect(SECOND.id)) == DeviceDetails(SECOND), "no more is told of it"


def test_the_beginning_of_an_id_is_enough_where_it_is_one_devices() -> None:
    devices = [*GPUS, fake_cpu()]
    assert device_named(devices, "cpu").id == "cpu"
    assert device_named(devices, FIRST.id) is FIRST
    with pytest.raises(InputError, match="2 device ids"):
        device_named(devices, "a100")
    with pytest.raises(NotFoundError):
        device_named(devices, "a1")  # too short to be meant
    with pytest.raises(NotFoundError, match="no device"):
        device_named(devices, "")


async def test_what_becomes_of_a_device_is_told_once_and_plans_are_made_anew(store: Store) -> None:
    devices = FakeDevices(GPUS)
    world = await World.of(store, devices)
    assert (world.events(), world.replanned) == ([], 0)
    failed = dataclasses.replace(
        FIRST, cordoned=True, health=DeviceHealth.FAILED, health_reason="Xid 79: fell off the bus."
    )
    devices.become([failed, SECOND])
    for _ in range(3):
        await world.watch.forgive("")  # look again
        await world.watch.refresh(0.0)
    assert world.events() == ["device-failed"]
    assert store.events()[0].message == "Xid 79: fell off the bus."
    assert world.replanned == 1
    devices.become(GPUS)
    await world.watch.forgive("")
    await world.watch.refresh(0.0)
    assert world.events() == ["device-failed", "device-fine"]
    assert world.replanned == 2


def test_at_the_first_look_what_is_not_fine_is_news() -> None:
    bad = dataclasses.replace(FIRST, health=DeviceHealth.DEGRADED, health_reason="hot.")
    assert health_changes((), (bad, SECOND)) == ((bad, "device-degraded", "hot."),)


SILENT = HostStanding(HostState.SILENT, "no word.", answers=False)
LOST = HostStanding(HostState.LOST, "gone.", answers=False, gone=True)
LATE = HostStanding(HostState.LATE, "late.")


@pytest.mark.parametrize(
    ("was", "now", "kinds"),
    [
        (FINE, SILENT, ["host-silent"]),
        (SILENT, LOST, ["host-lost"]),
        (LOST, LOST, []),
        (LOST, FINE, ["host-back"]),
        (None, FINE, []),
        (LATE, FINE, []),
    ],
)
def test_a_host_that_fell_silent_is_lost_or_is_back_is_told_once(
    was: HostStanding | None, now: HostStanding, kinds: list[str]
) -> None:
    before = {} if was is None else {"h": was}
    assert [kind for _, kind, _ in host_changes(before, {"h": now})] == kinds
