"""All devices of this host together."""

from partitiond.core.hardware import DeviceKind
from partitiond.devices.host import HostDevices


def test_the_cpu_comes_last_and_can_be_left_out() -> None:
    found = HostDevices().discover()
    assert found[-1].kind is DeviceKind.CPU
    without = HostDevices(cpu=False).discover()
    assert [device.id for device in without] == [device.id for device in found[:-1]]


def test_without_nvml_there_is_only_the_cpu() -> None:
    assert [device.id for device in HostDevices(nvml=False).discover()] == ["cpu"]


def test_limits_reach_the_cpu_device() -> None:
    core = HostDevices(nvml=False).discover()[0].cores[0]
    device = HostDevices((core,), 1 << 30, nvml=False).discover()[0]
    assert device.cores == (core,)
    assert device.memory_bytes == 1 << 30
