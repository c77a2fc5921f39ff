"""GPUs through the real NVML binding over a library that is not there."""

import asyncio
import threading

import pynvml
import pytest

from partitiond.core.hardware import Device
from partitiond.core.profile import Telemetry
from partitiond.core.units import GIB
from partitiond.devices.fake import fake_gpus
from partitiond.devices.fake_nvml import FakeGpu, FakeNvml, fake_h200
from partitiond.devices.nvml import discover_gpus
from partitiond.devices.telemetry import HostTelemetry
from partitiond.devices.telemetry.gpu import GpuSampler


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


async def told_by(gpu: FakeGpu, *, seconds: float = 10.0) -> Telemetry | None:
    """One window of `seconds` on `gpu`, without waiting for it."""
    clock = Clock()
    nvml = FakeNvml([gpu], clock=clock)
    with nvml.installed():
        device = discover_gpus([0])[0]
        window = await HostTelemetry(period_seconds=0.01, clock=clock).open(device, ())
        await asyncio.sleep(0.05)
        clock.seconds += seconds
        told = await window.close()
    assert nvml.initialised == 0
    assert nvml.samples_alive == 0
    return told


def test_the_fake_is_discovered_like_a_gpu() -> None:
    with FakeNvml([fake_h200(), FakeGpu(uuid="GPU-1", name="NVIDIA L4", total_bytes=23 * GIB)]
                  ).installed():  # fmt: skip
        first, second = discover_gpus([0, 1])
    assert (first.hardware, second.hardware) == ("h200-141gb", "l4-24gb")
    assert first.driver == "580.00.fake"
    assert second.id == "GPU-1"


async def test_a_hopper_gpu_tells_everything() -> None:
    told = await told_by(fake_h200())
    assert told is not None
    assert told.source == "nvml-gpm+nvml"
    assert told.sm_activity == pytest.approx(0.3)
    assert told.sm_occupancy == pytest.approx(0.1)
    assert told.dram_activity == pytest.approx(0.2)
    assert told.gpu_util == pytest.approx(0.9)
    assert told.energy_joules == pytest.approx(2500)
    assert told.power_watts == pytest.approx(250)


async def test_an_older_gpu_tells_utilisation_and_power_only() -> None:
    told = await told_by(FakeGpu(name="NVIDIA A100-SXM4-40GB", gpm=False))
    assert told is not None
    assert told.source == "nvml"
    assert told.sm_activity is told.sm_occupancy is told.dram_activity is None
    assert told.gpu_util == pytest.approx(0.9)


async def test_without_an_energy_counter_energy_is_power_by_time() -> None:
    told = await told_by(FakeGpu(energy_counter=False, power_watts=70.0))
    assert told is not None
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
    function: str, code: int, figure: str, words: str
) -> None:
    gpu = fake_h200()
    gpu.refuses[function] = code
    told = await told_by(gpu)
    assert told is not None
    assert getattr(told, figure) is None
    assert told.power_watts is not None
    with FakeNvml([gpu]).installed():
        exposure = await HostTelemetry().exposure(discover_gpus([0])[0])
    assert words in exposure.missing[figure]
    assert figure not in exposure.exposes
    assert words in exposure.text()


async def test_a_gpu_that_is_gone_fails_nothing() -> None:
    with FakeNvml([]).installed():
        device: Device = fake_gpus("h200-141gb")[0]
        assert await (await HostTelemetry().open(device, ())).close() is None
        exposure = await HostTelemetry().exposure(device)
    assert exposure.missing["sm_activity"] == "the GPU is gone"


async def test_a_cancelled_open_leaves_no_thread() -> None:
    with FakeNvml([fake_h200()]).installed():
        device = discover_gpus([0])[0]
        opening = asyncio.ensure_future(HostTelemetry().open(device, ()))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
    assert not [t for t in threading.enumerate() if t.name == "gpu-telemetry"]


def test_an_exporter_fills_what_nvml_does_not_tell(exporter: str) -> None:
    gpu = FakeGpu(uuid="GPU-abc", gpm=False)
    with FakeNvml([gpu]).installed():
        sampler = GpuSampler("GPU-abc", dcgm_url=exporter, period_seconds=0.01)
        sampler.open()
        figures = sampler.close()
    assert figures.values["sm_activity"] == pytest.approx(0.25)
    assert figures.values["gpu_util"] == pytest.approx(0.9), "NVML comes first"
    assert figures.sources == ["nvml", "dcgm"]
    assert not {"sm_activity", "gpu_util"} & set(figures.missing)


async def test_an_exporter_that_does_not_answer_is_named() -> None:
    with FakeNvml([FakeGpu(gpm=False)]).installed():
        source = HostTelemetry(dcgm_url="http://127.0.0.1:1/metrics")
        exposure = await source.exposure(discover_gpus([0])[0])
    assert "127.0.0.1:1" in exposure.missing["sm_activity"]
