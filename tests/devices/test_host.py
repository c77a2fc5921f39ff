"""All devices of this host are discovered together."""

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.chosen_gpus import ChosenGpus
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.devices.cpu import cpu_device_id
from partitiond.devices.gauges import HostGauges
from partitiond.devices.host import HostDevices
from partitiond.devices.nvml import library_in_use
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.simulated.gpus.host import SimulatedHost


def test_the_cpu_comes_last_can_be_left_out_and_is_told_its_limits() -> None:
    found = HostDevices().discover()
    assert found[-1].kind is DeviceKind.CPU
    without = HostDevices(cpu=False).discover()
    assert [device.id for device in without] == [device.id for device in found[:-1]]
    (cpu,) = HostDevices(nvml=False).discover()
    assert (cpu.id, cpu.host) == ("cpu", platform.node())
    (limited,) = HostDevices(cpu.cores[:1], 1 << 30, nvml=False).discover()
    assert (limited.cores, limited.memory_bytes) == (cpu.cores[:1], 1 << 30)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SimulatedHost]:
    """A simulated host; its library is taken out of this process again."""
    with library_in_use(None):
        yield SimulatedHost.create("h100-80gb-x4", tmp_path / "gpus")


def test_xid_messages_fail_a_gpu_until_it_is_forgiven(host: SimulatedHost) -> None:
    devices = HostDevices(simulated_host=host.folder, watch_xids=True)
    uuid = host.uuids()[2]
    try:
        devices.discover()
        for _ in range(1000):  # events before the watch listens are lost
            host.xid(uuid, 62)
            failed = {d.id: d for d in devices.discover() if d.health is DeviceHealth.FAILED}
            if failed:
                break
        assert list(failed) == [uuid]
        assert failed[uuid].cordoned
        assert "Xid 62" in failed[uuid].cordon_reason
        assert devices.inspect(uuid).xids
    finally:
        devices.close()
    devices.forgive(uuid)
    assert not any(device.cordoned for device in devices.discover())


def test_the_devices_of_a_host_that_joined_are_told_apart_from_those_of_any_other(
    host: SimulatedHost,
) -> None:
    devices = HostDevices(simulated_host=host.folder).discover()
    assert [device.id for device in devices] == [*host.uuids(), "cpu"]
    joined = HostDevices(
        simulated_host=host.folder, cpu_id=cpu_device_id("gpu-1"), host="gpu-1"
    ).discover()
    assert [device.id for device in joined] == [*host.uuids(), "cpu-gpu-1"]
    assert {device.host for device in joined} == {"gpu-1"}
    readings = HostGauges(nvml=False, cpu_id="cpu-gpu-1").read()
    assert list(readings) == ["cpu-gpu-1"]
    with pytest.raises(DeviceError, match="cannot be loaded"):
        HostDevices(simulated_host=host.folder / "none")


def test_gpus_that_were_left_to_others_offer_nothing_and_an_index_stays_that_of_one_gpu(
    host: SimulatedHost,
) -> None:
    first, ours, *others = host.uuids()

    def usable(devices: HostDevices) -> list[str]:
        found = devices.discover()
        assert all(
            d.cordoned and "leaves it to others" in d.cordon_reason for d in found if not d.modes
        )
        return [device.id for device in found if device.modes and not device.cordoned]

    def at_index_one() -> HostDevices:
        return HostDevices(
            cpu=False, simulated_host=host.folder, chosen=ChosenGpus(("1",)), looks=DeadlineCalls()
        )

    devices = at_index_one()
    assert usable(devices) == [ours]
    host.lose(first)
    for looking in (devices, at_index_one()):
        found = {d.id: d for d in looking.discover()}
        assert [d.id for d in found.values() if d.modes and not d.cordoned] == [ours]
    host.restore(first)
    assert usable(devices) == [ours]
    assert set(others) <= {d.id for d in devices.discover() if d.cordoned}


def test_a_gpu_whose_mps_daemon_hangs_is_silent_and_no_other(host: SimulatedHost) -> None:
    one = host.uuids()[1]
    devices = HostDevices(
        cpu=False, simulated_host=host.folder, mps_silent=lambda: {one: "it hangs"}
    )
    silent = [d for d in devices.discover() if d.health is DeviceHealth.SILENT]
    assert [(d.id, d.cordoned) for d in silent] == [(one, True)]
    assert silent[0].health_reason.startswith("it hangs")
