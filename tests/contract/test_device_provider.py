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


def test_devices_are_consistent_survive_json_and_are_the_same_at_a_second_look(
    provider: DeviceProvider,
) -> None:
    found, again = provider.discover(), provider.discover()
    assert len({device.id for device in found}) == len(found) > 0
    assert [(d.id, d.hardware, d.cores) for d in found] == [
        (d.id, d.hardware, d.cores) for d in again
    ]
    for device in found:
        assert 0 <= device.free_bytes <= device.memory_bytes
        assert 0 <= device.reserved_bytes < device.memory_bytes
        assert device.cores
        assert list(device.cores) == sorted(set(device.cores))
        assert device.modes
        assert (device.kind is DeviceKind.CPU) == (SharingMode.CORES in device.modes)
        assert device.sm_count == 0 or device.kind is DeviceKind.GPU
        assert from_json(Device, to_json(device)) == device
