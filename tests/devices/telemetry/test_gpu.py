"""GPU telemetry is read through the real NVML binding, over a simulated host's library."""

import asyncio
import threading

import pynvml
import pytest

from partitiond.core.hardware.kinds import Device
from partitiond.core.profile.points import Telemetry
from partitiond.devices.gpus.discovery import GpuDiscovery
from partitiond.devices.telemetry import HostTelemetry
from partitiond.simulated.gpus import GpuDescription, SimulatedHost
from tests.devices.fake import fake_gpus
from tests.gpu_fixtures import MakeHost, is_started


@pytest.fixture
def gpu(make_host: MakeHost) -> SimulatedHost:
    """One H200 at work. It draws nothing by itself, so that its energy is what a test says."""
    host = make_host(GpuDescription("h200-141gb"))
    host.set_load(
        host.uuids()[0], sm_activity=0.3, sm_occupancy=0.1, dram_activity=0.2, gpu_util=0.9,
        power_watts=0, energy_joules=1000,
    )  # fmt: skip
    return host


async def told_by(host: SimulatedHost) -> Telemetry:
    """One window of 10 s on a GPU that uses 250 W, without waiting for it."""
    now = 100.0
    device = GpuDiscovery().discover([0])[0].device
    window = await HostTelemetry(period_seconds=0.01, clock=lambda: now).open(device, ())
    now += 10
    host.set_load(device.id, energy_joules=1000 + 2500)
    told = await window.close()
    assert not is_started()
    assert host.samples_alive() == 0
    assert told is not None
    return told


async def test_a_hopper_gpu_tells_everything_and_an_older_one_utilisation_and_power(
    gpu: SimulatedHost, make_host: MakeHost
) -> None:
    told = await told_by(gpu)
    assert told.source == "nvml-gpm+nvml"
    assert told.sm_activity == pytest.approx(0.3)
    assert told.sm_occupancy == pytest.approx(0.1)
    assert told.dram_activity == pytest.approx(0.2)
    assert told.gpu_util == pytest.approx(0.9)
    # By its energy counter; the gauge says 0 W.
    assert told.energy_joules == pytest.approx(2500)
    assert told.power_watts == pytest.approx(250)
    # Without one energy is power by time.
    gpu.set_load(gpu.uuids()[0], energy_counter=0, power_watts=70)
    told = await told_by(gpu)
    assert told.power_watts == pytest.approx(70)
    assert told.energy_joules == pytest.approx(700)
    host = make_host(GpuDescription("a100-40gb"))
    host.set_load(host.uuids()[0], sm_activity=0.3, gpu_util=0.9)
    told = await told_by(host)
    assert told.source == "nvml"
    assert told.sm_activity is told.sm_occupancy is told.dram_activity is None
    assert told.gpu_util == pytest.approx(0.9)
    assert told.power_watts is not None


async def test_what_is_refused_is_none_with_a_reason(gpu: SimulatedHost) -> None:
    for function, code, figure, words in (
        ("nvmlGpmSampleGet", pynvml.NVML_ERROR_NO_PERMISSION, "sm_activity", "run as root"),
        ("nvmlGpmQueryDeviceSupport", pynvml.NVML_ERROR_NOT_SUPPORTED, "dram_activity", "offer"),
        ("nvmlDeviceGetUtilizationRates", pynvml.NVML_ERROR_NOT_SUPPORTED, "gpu_util", "offer"),
    ):
        gpu.fail(function, code, times=-1)
        told = await told_by(gpu)
        assert getattr(told, figure) is None
        assert told.power_watts is not None
        exposure = await HostTelemetry().exposure(GpuDiscovery().discover([0])[0].device)
        assert words in exposure.missing[figure]
        assert figure not in exposure.exposes
        assert words in exposure.text()
        gpu.heal()


async def test_a_gpu_that_is_gone_fails_nothing(make_host: MakeHost) -> None:
    make_host()
    device: Device = fake_gpus("h200-141gb")[0]
    assert await (await HostTelemetry().open(device, ())).close() is None
    exposure = await HostTelemetry().exposure(device)
    assert exposure.missing["sm_activity"] == "the GPU is gone"


@pytest.mark.usefixtures("gpu")
async def test_a_cancelled_open_leaves_no_thread() -> None:
    device = GpuDiscovery().discover([0])[0].device
    opening = asyncio.ensure_future(HostTelemetry().open(device, ()))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not [t for t in threading.enumerate() if t.name == "gpu-telemetry"]
