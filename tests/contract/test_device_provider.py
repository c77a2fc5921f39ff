"""Every device provider, fake or real, keeps the contract."""

import pytest

from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.devices.fake import FakeDevices, fake_cpu, fake_gpus
from partitiond.devices.host import HostDevices
from partitiond.ports import DeviceProvider
from partitiond.serde import from_json, to_json


@pytest.fixture(params=["fake", "host"])
def provider(request: pytest.FixtureRequest) -> DeviceProvider:
    if request.param == "host":
        return HostDevices()
    return FakeDevices([*fake_gpus("a100-80gb", 8), fake_cpu()])


def test_ids_are_unique(provider: DeviceProvider) -> None:
    found = provider.discover()
    assert found
    assert len({device.id for device in found}) == len(found)


def test_a_second_look_finds_the_same_devices(provider: DeviceProvider) -> None:
    first, second = (
        [(device.id, device.hardware, device.cores) for device in provider.discover()]
        for _ in range(2)
    )
    assert first == second


def test_memory_is_consistent(provider: DeviceProvider) -> None:
    for device in provider.discover():
        assert 0 <= device.free_bytes <= device.memory_bytes
        assert 0 <= device.reserved_bytes < device.memory_bytes


def test_cores_are_sorted_and_unique(provider: DeviceProvider) -> None:
    for device in provider.discover():
        assert device.cores
        assert list(device.cores) == sorted(set(device.cores))


def test_kinds_have_modes_of_their_own(provider: DeviceProvider) -> None:
    for device in provider.discover():
        assert device.modes
        assert (device.kind is DeviceKind.CPU) == (SharingMode.CORES in device.modes)
        assert device.sm_count == 0 or device.kind is DeviceKind.GPU


def test_devices_survive_json(provider: DeviceProvider) -> None:
    for device in provider.discover():
        assert from_json(Device, to_json(device)) == device
