"""All details of one GPU are reported."""

import pynvml
import pytest

from partitiond.core.errors import NotFoundError
from partitiond.core.units import GIB
from partitiond.devices.host import HostDevices
from partitiond.simulated.gpus.description import GpuDescription
from tests.gpu_fixtures import MakeHost


def test_a_gpu_tells_of_itself_and_of_what_it_draws(make_host: MakeHost) -> None:
    host = make_host(name="a100-80gb-x8")
    uuid = host.uuids()[0]
    host.add_process(uuid, 2**22 + 7, 3 * GIB)
    told = HostDevices(own_pids=lambda: {2**22 + 7}).inspect(uuid)
    assert told.device.id == uuid
    assert told.ours_bytes >= 3 * GIB
    assert (told.architecture, told.compute_capability) == ("ampere", "8.0")
    assert (told.compute_mode, told.mig_mode, told.mig_pending) == ("default", "off", "off")
    assert told.pci_bus_id.startswith("00000000:07")
    assert told.power_watts
    assert told.readings.temperature_c
    assert told.readings.ecc_volatile == 0


def test_a_lost_gpu_is_told_of_as_it_was(make_host: MakeHost) -> None:
    host = make_host(GpuDescription("a100-80gb", count=2))
    devices = HostDevices()
    devices.discover()
    host.lose(host.uuids()[0])
    told = devices.inspect(host.uuids()[0])
    assert told.readings.unreachable
    assert told.device.cordoned


def test_an_old_driver_tells_less(make_host: MakeHost) -> None:
    host = make_host()
    for function in (
        "nvmlDeviceGetPciInfo*", "nvmlDeviceGetPower*", "nvmlDeviceGetEnforced*",
        "nvmlDeviceGetTotalEnergy*", "nvmlDeviceGetPersistence*", "nvmlDeviceGetArchitecture",
    ):  # fmt: skip
        host.fail(function, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, times=-1)
    told = HostDevices().inspect(host.uuids()[0])
    assert (told.pci_bus_id, told.power_watts, told.persistence) == ("", None, None)


def test_of_the_cpu_only_the_device_is_told_and_others_are_not_there() -> None:
    devices = HostDevices(nvml=False)
    (cpu,) = devices.discover()
    assert devices.inspect("cpu").device.id == cpu.id
    with pytest.raises(NotFoundError, match="no device GPU-x"):
        devices.inspect("GPU-x")
