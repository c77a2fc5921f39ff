"""A GPU's health is read from its driver."""

import pynvml
import pytest

from partitiond.core.hardware.health import HealthReadings, Throttle
from partitiond.devices.nvml.health import readings_of
from partitiond.devices.nvml.session import gpu
from partitiond.simulated.gpus.host import SimulatedHost
from tests.devices.nvml.conftest import MakeHost


@pytest.fixture
def host(make_host: MakeHost) -> SimulatedHost:
    return make_host()


def readings(host: SimulatedHost) -> HealthReadings:
    uuid = host.uuids()[0]
    with gpu(uuid, "tell its health") as handle:
        return readings_of(handle)


@pytest.mark.parametrize(
    ("figures", "name", "value"),
    [
        ({"ecc": 3}, "ecc_volatile", 3),
        ({"ecc_uncorrected_aggregate": 5}, "ecc_aggregate", 5),
        ({"retired": 2}, "remapped_rows", 2),
        ({"remapped_pending": 1}, "remap_pending", True),
        ({"remapped_failure": 1}, "remap_failed", True),
        ({"temperature_c": 71}, "temperature_c", 71),
        (
            {"throttle": pynvml.nvmlClocksThrottleReasonSwThermalSlowdown},
            "throttle",
            (Throttle.SW_THERMAL,),
        ),
    ],
)
def test_each_figure_is_read(
    host: SimulatedHost, figures: dict[str, int], name: str, value: object
) -> None:
    assert getattr(readings(host), name) != value
    host.set_health(host.uuids()[0], **figures)
    assert getattr(readings(host), name) == value


@pytest.mark.parametrize(
    "reason",
    [
        pynvml.nvmlClocksThrottleReasonGpuIdle,
        pynvml.nvmlClocksThrottleReasonSwPowerCap,
        pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting,
    ],
)
def test_idleness_and_limits_that_were_set_are_no_throttling(
    host: SimulatedHost, reason: int
) -> None:
    host.set_health(host.uuids()[0], throttle=reason)
    assert readings(host).throttle == ()


def test_the_general_reason_is_named_only_where_no_other_is(host: SimulatedHost) -> None:
    general = pynvml.nvmlClocksThrottleReasonHwSlowdown
    host.set_health(host.uuids()[0], throttle=general)
    assert readings(host).throttle == (Throttle.HW_SLOWDOWN,)
    heat = pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    host.set_health(host.uuids()[0], throttle=general | heat)
    assert readings(host).throttle == (Throttle.HW_THERMAL,)


def test_one_call_that_fails_hides_only_its_own_figure(host: SimulatedHost) -> None:
    host.set_health(host.uuids()[0], ecc=3)
    host.fail("nvmlDeviceGetRemappedRows", pynvml.NVML_ERROR_UNKNOWN, times=-1)
    told = readings(host)
    assert (told.remapped_rows, told.ecc_volatile) == (None, 3)


def test_a_gpu_that_does_not_answer_is_unreachable(host: SimulatedHost) -> None:
    host.fail("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_GPU_IS_LOST, times=-1)
    assert "lost" in readings(host).unreachable
