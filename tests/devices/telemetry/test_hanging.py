"""The telemetry window of a hanging driver ends without that GPU, which then is silent."""

import threading
from collections.abc import Iterator

import pytest

from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import Device
from partitiond.devices.host import HostDevices
from partitiond.devices.telemetry import HostTelemetry
from partitiond.devices.telemetry import host as host_module
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.simulated.gpus import GpuDescription, SimulatedHost
from tests.gpu_fixtures import MakeHost, is_started

PATIENT, HASTY = 60.0, 0.05
"""Deadlines of a look: where nothing hangs, and where everything that is looked at does."""

OPENING = ("nvmlInitWithFlags", "nvmlGpmSampleGet")
OPEN = ("nvmlDeviceGetUtilizationRates", "nvmlGpmMetricsGet", "nvmlShutdown")
"""Calls of a window, by when the driver is first asked."""


@pytest.fixture
def host(make_host: MakeHost) -> Iterator[SimulatedHost]:
    made = make_host(GpuDescription("h200-141gb"))
    yield made
    made.heal()
    for thread in threads():
        thread.join(60)


def threads() -> list[threading.Thread]:
    names = ("look at ", "gpu-telemetry")
    return [t for t in threading.enumerate() if t.name.startswith(names)]


async def gpu_tells(source: HostTelemetry, device: Device) -> bool:
    """Whether a window has figures of the GPU."""
    told = await (await source.open(device, (1,))).close()
    return told is not None and told.source.startswith("nvml")


@pytest.mark.parametrize("function", OPENING + OPEN)
async def test_a_window_ends_without_a_gpu_that_hangs(host: SimulatedHost, function: str) -> None:
    looks = DeadlineCalls(PATIENT)
    devices, source = HostDevices(cpu=False, looks=looks), HostTelemetry(looks=looks)
    (device,) = devices.discover()
    assert device.health is DeviceHealth.FINE
    assert await gpu_tells(source, device)
    host.hang(function)
    looks.seconds = HASTY
    for _ in range(3):
        assert not await gpu_tells(source, device)
    # Whatever call it is that hangs, every look at the GPU says so.
    assert devices.discover()[0].health is DeviceHealth.SILENT
    exposure = await source.exposure(device)
    assert exposure.missing["sm_activity"] == "silent for 0.05 s"
    assert len([t for t in threads() if t.name == "gpu-telemetry"]) == 1
    host.heal()
    looks.seconds = PATIENT
    for thread in threads():
        thread.join(60)
    assert await gpu_tells(source, device)
    assert devices.discover()[0].health is DeviceHealth.FINE
    for thread in threads():
        thread.join(60)
    assert not is_started(), "the window that was left behind lets go of the driver"
    assert host.samples_alive() == 0


@pytest.mark.usefixtures("host")
async def test_a_window_ends_without_a_host_that_hangs() -> None:
    looks, release = DeadlineCalls(HASTY), threading.Event()
    source = HostTelemetry(looks=looks)
    (device,) = HostDevices(cpu=False, looks=DeadlineCalls()).discover()
    looks.begin(host_module.PROCESSES, lambda: release.wait(60))
    try:
        figures = await (await source.open(device, (1,))).close_with_reasons()
        assert figures.missing["cores_used"] == "silent for 0.05 s"
    finally:
        release.set()
