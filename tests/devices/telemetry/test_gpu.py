"""GPU telemetry is read through the real NVML binding, over a simulated host's library."""

import asyncio
import threading

import pynvml
import pytest

from partitiond.core.hardware.kinds import Device
from partitiond.core.profile.points import Telemetry
from partitiond.devices.fake import fake_gpus
from partitiond.devices.gpus.discovery import discover_gpus
from partitiond.devices.telemetry import HostTelemetry
from partitiond.devices.telemetry.gpu import GpuSampler
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.simulated.gpus import GpuDescription, SimulatedHost
from tests.gpu_fixtures import MakeHost, is_started, make_host

__all__ = ["make_host"]


H200 = GpuDescription("h200-141gb")


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def gpu(make_host: MakeHost) -> SimulatedHost:
    """One H200 at work. It draws nothing by itself, so that its energy is what a test says."""
    host = make_host(H200)
    host.set_load(
        host.uuids()[0],
        sm_activity=0.3,
        sm_occupancy=0.1,
        dram_activity=0.2,
        gpu_util=0.9,
        power_watts=0,
        energy_joules=1000,
    )
    return host


async def told_by(host: SimulatedHost, *, seconds: float = 10.0) -> Telemetry | None:
    """One window of `seconds` on a GPU that uses 250 W, without waiting for it."""
    clock = Clock()
    device = discover_gpus([0])[0]
    window = await HostTelemetry(period_seconds=0.01, clock=clock).open(device, ())
    clock.seconds += seconds
    host.set_load(device.id, energy_joules=1000 + 250 * seconds)
    told = await window.close()
    assert not is_started()
    assert host.samples_alive() == 0
    return told


async def test_a_hopper_gpu_tells_everything(gpu: SimulatedHost) -> None:
    told = await told_by(gpu)
    assert told is not None
    assert told.source == "nvml-gpm+nvml"
    assert told.sm_activity == pytest.approx(0.3)
    assert told.sm_occupancy == pytest.approx(0.1)
    assert told.dram_activity == pytest.approx(0.2)
    assert told.gpu_util == pytest.approx(0.9)
    # By its energy counter; the gauge says 0 W.
    assert told.energy_joules == pytest.approx(2500)
    assert told.power_watts == pytest.approx(250)


async def test_an_older_gpu_tells_utilisation_and_power_only(make_host: MakeHost) -> None:
    host = make_host(GpuDescription("a100-40gb"))
    host.set_load(host.uuids()[0], sm_activity=0.3, gpu_util=0.9)
    told = await told_by(host)
    assert told is not None
    assert told.source == "nvml"
    assert told.sm_activity is told.sm_occupancy is told.dram_activity is None
    assert told.gpu_util == pytest.approx(0.9)
    assert told.power_watts is not None


async def test_without_an_energy_counter_energy_is_power_by_time(gpu: SimulatedHost) -> None:
    gpu.set_load(gpu.uuids()[0], energy_counter=0, power_watts=70)
    told = await told_by(gpu)
    assert told is not None
    assert told.power_watts == pytest.approx(70)
    assert told.energy_joules == pytest.approx(700)


@pytest.mark.parametrize(
    ("function", "code", "figure", "words"),
    [
        ("nvmlGpmSampleGet", pynvml.NVML_ERROR_NO_PERMISSION, "sm_activity", "run as root"),
        ("nvmlGpmQueryDeviceSupport", pynvml.NVML_ERROR_NOT_SUPPORTED, "dram_activity", "offer"),
        ("nvmlDeviceGetUtilizationRates", pynvml.NVML_ERROR_NOT_SUPPORTED, "gpu_util", "offer"),
    ],
)
async def test_what_is_refused_is_none_with_a_reason(
    gpu: SimulatedHost, function: str, code: int, figure: str, words: str
) -> None:
    gpu.fail(function, code, times=-1)
    told = await told_by(gpu)
    assert told is not None
    assert getattr(told, figure) is None
    assert told.power_watts is not None
    exposure = await HostTelemetry().exposure(discover_gpus([0])[0])
    assert words in exposure.missing[figure]
    assert figure not in exposure.exposes
    assert words in exposure.text()


async def test_a_gpu_that_is_gone_fails_nothing(make_host: MakeHost) -> None:
    make_host()
    device: Device = fake_gpus("h200-141gb")[0]
    assert await (await HostTelemetry().open(device, ())).close() is None
    exposure = await HostTelemetry().exposure(device)
    assert exposure.missing["sm_activity"] == "the GPU is gone"


@pytest.mark.usefixtures("gpu")
async def test_a_cancelled_open_leaves_no_thread() -> None:
    device = discover_gpus([0])[0]
    opening = asyncio.ensure_future(HostTelemetry().open(device, ()))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not [t for t in threading.enumerate() if t.name == "gpu-telemetry"]


def test_an_exporter_fills_what_nvml_does_not_tell(gpu: SimulatedHost, exporter: str) -> None:
    (uuid,) = gpu.uuids()
    gpu.set_load(uuid, gpm=0)
    sampler = GpuSampler(uuid, DeadlineCalls(), dcgm_url=f"{exporter}?{uuid}", period_seconds=0.01)
    sampler.open()
    figures = sampler.close()
    assert figures.values["sm_activity"] == pytest.approx(0.25)
    assert figures.values["gpu_util"] == pytest.approx(0.9), "NVML comes first"
    assert figures.sources == ["nvml", "dcgm"]
    assert not {"sm_activity", "gpu_util"} & set(figures.missing)


async def test_an_exporter_that_does_not_answer_is_named(gpu: SimulatedHost) -> None:
    gpu.set_load(gpu.uuids()[0], gpm=0)
    source = HostTelemetry(dcgm_url="http://127.0.0.1:1/metrics")
    exposure = await source.exposure(discover_gpus([0])[0])
    assert "127.0.0.1:1" in exposure.missing["sm_activity"]
