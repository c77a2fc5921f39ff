"""The telemetry window of a hanging driver ends without that GPU, which then is silent."""

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import Device
from partitiond.devices.host import HostDevices
from partitiond.devices.telemetry import HostTelemetry
from partitiond.devices.telemetry import host as host_module
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.simulated.gpus import GpuDescription, SimulatedHost
from tests.gpu_fixtures import MakeHost, is_started, make_host

__all__ = ["make_host"]

SECONDS = 0.25
"""Deadline of a look here. A slow machine may miss it where nothing hangs, so what is well is
looked at until it answers."""

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


async def until(asked: Callable[[], Awaitable[bool]], patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while not await asked():
        assert time.monotonic() < deadline


@pytest.mark.parametrize("function", OPENING + OPEN)
async def test_a_window_ends_without_a_gpu_that_hangs(host: SimulatedHost, function: str) -> None:
    looks = DeadlineCalls(SECONDS)
    devices, source = HostDevices(cpu=False, looks=looks), HostTelemetry(looks=looks)

    async def health_is(wanted: DeviceHealth) -> bool:
        return {device.health for device in devices.discover()} == {wanted}

    await until(lambda: health_is(DeviceHealth.FINE))
    (device,) = devices.discover()
    await until(lambda: gpu_tells(source, device))
    host.hang(function)
    for _ in range(3):
        assert not await gpu_tells(source, device)
    # Whatever call it is that hangs, every look at the GPU says so.
    await until(lambda: health_is(DeviceHealth.SILENT))
    exposure = await source.exposure(device)
    assert exposure.missing["sm_activity"] == "silent for 0.25 s"
    assert len([t for t in threads() if t.name == "gpu-telemetry"]) == 1
    host.heal()
    await until(lambda: gpu_tells(source, device))
    await until(lambda: health_is(DeviceHealth.FINE))
    for thread in threads():
        thread.join(60)
    assert not is_started(), "the window that was left behind lets go of the driver"
    assert host.samples_alive() == 0


async def test_a_window_ends_without_a_host_that_hangs(host: SimulatedHost, tmp_path: Path) -> None:
    looks, release = DeadlineCalls(SECONDS), threading.Event()
    source = HostTelemetry(looks=looks)
    (device,) = HostDevices(cpu=False, looks=DeadlineCalls()).discover()
    looks.begin(host_module.PROCESSES, lambda: release.wait(60))
    try:
        figures = await (await source.open(device, (1,))).close_with_reasons()
        assert figures.missing["cores_used"] == "silent for 0.25 s"
    finally:
        release.set()
