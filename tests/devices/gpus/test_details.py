"""All details of one GPU are reported."""

import pynvml
import pytest

from partitiond.core.errors import NotFoundError
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.units import GIB
from partitiond.devices.host import HostDevices
from partitiond.serde import from_json, to_json
from partitiond.simulated.gpus.description import GpuDescription
from tests.devices.gpus.conftest import MakeHost


def test_a_gpu_tells_of_itself_and_of_its_links(make_host: MakeHost) -> None:
    host = make_host(name="a100-80gb-x8")
    uuid = host.uuids()[0]
    told = HostDevices().inspect(uuid)
    assert told.device.id == uuid
    assert (told.architecture, told.compute_capability) == ("ampere", "8.0")
    assert (told.compute_mode, told.mig_mode, told.mig_pending) == ("default", "off", "off")
    assert {link.device_id for link in told.links} == set(host.uuids()[1:])
    assert from_json(DeviceDetails, to_json(told)) == told


def test_where_it_sits_and_what_it_draws(make_host: MakeHost) -> None:
    host = make_host(name="a100-80gb-x8")
    told = HostDevices().inspect(host.uuids()[0])
    assert told.pci_bus_id.count(":") == 2
    assert told.pcie.startswith("gen4 x16")
    assert told.nvlinks == 12
    assert told.nvswitch
    assert all(link.path for link in told.links)
    assert told.power_watts
    assert told.energy_joules is not None
    assert told.readings.temperature_c
    assert told.readings.ecc_volatile == 0


def test_a_lost_gpu_is_told_of_as_it_was(make_host: MakeHost) -> None:
    host = make_host(GpuDescription("a100-80gb", count=2))
    lost = host.uuids()[0]
    devices = HostDevices()
    devices.discover()
    host.lose(lost)
    told = devices.inspect(lost)
    assert told.readings.unreachable
    assert told.device.cordoned


def test_an_old_driver_tells_less(make_host: MakeHost) -> None:
    host = make_host()
    for function in (
        "nvmlDeviceGetNvLink*", "nvmlDeviceGetPciInfo*", "nvmlDeviceGetTopology*",
        "nvmlDeviceGetPower*", "nvmlDeviceGetEnforced*", "nvmlDeviceGetTotalEnergy*",
        "nvmlDeviceGetPersistence*", "nvmlDeviceGetArchitecture", "nvmlDeviceGet*Pcie*",
    ):  # fmt: skip
        host.fail(function, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, times=-1)
    told = HostDevices().inspect(host.uuids()[0])
    assert (told.nvlinks, told.pci_bus_id, told.power_watts, told.persistence) == (
        0,
        "",
        None,
        None,
    )


def test_of_the_cpu_only_the_device_is_told_and_others_are_not_there() -> None:
    devices = HostDevices(nvml=False)
    (cpu,) = devices.discover()
    assert devices.inspect("cpu").device.id == cpu.id
    with pytest.raises(NotFoundError, match="no device GPU-x"):
        devices.inspect("GPU-x")


def test_our_memory_is_shown_apart(make_host: MakeHost) -> None:
    host = make_host()
    (uuid,) = host.uuids()
    host.add_process(uuid, 2**22 + 7, 3 * GIB)
    devices = HostDevices(own_pids=lambda: {2**22 + 7})
    assert devices.inspect(uuid).ours_bytes >= 3 * GIB
