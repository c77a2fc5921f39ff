"""A GPU's health is read from its driver."""

import pynvml
import pytest

from partitiond.core.hardware.health import HealthReadings, Throttle
from partitiond.devices.nvml.health import readings_of
from partitiond.devices.nvml.session import gpu
from partitiond.simulated.gpus.host import SimulatedHost
from tests.gpu_fixtures import MakeHost


@pytest.fixture
def host(make_host: MakeHost) -> SimulatedHost:
    return make_host()


def readings(host: SimulatedHost) -> HealthReadings:
    with gpu(host.uuids()[0], "tell its health") as handle:
        return readings_of(handle)


def test_each_figure_is_read_and_one_that_is_refused_hides_no_other(host: SimulatedHost) -> None:
    for figure, number, name, value in (
        ("ecc", 3, "ecc_volatile", 3),
        ("ecc_uncorrected_aggregate", 5, "ecc_aggregate", 5),
        ("retired", 2, "remapped_rows", 2),
        ("remapped_pending", 1, "remap_pending", True),
        ("remapped_failure", 1, "remap_failed", True),
        ("temperature_c", 71, "temperature_c", 71),
    ):
        assert getattr(readings(host), name) != value
        host.set_health(host.uuids()[0], **{figure: number})
        assert getattr(readings(host), name) == value
    host.fail("nvmlDeviceGetRemappedRows", pynvml.NVML_ERROR_UNKNOWN, times=-1)
    told = readings(host)
    assert (told.remapped_rows, told.ecc_volatile) == (None, 3)
    host.fail("nvmlDeviceGetMemoryInfo", pynvml.NVML_ERROR_GPU_IS_LOST, times=-1)
    assert "lost" in readings(host).unreachable


def test_idleness_and_limits_that_were_set_are_no_throttling_and_a_general_reason_comes_last(
    host: SimulatedHost,
) -> None:
    general = pynvml.nvmlClocksThrottleReasonHwSlowdown
    heat = pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    for reason, told in (
        (pynvml.nvmlClocksThrottleReasonGpuIdle, ()),
        (pynvml.nvmlClocksThrottleReasonSwPowerCap, ()),
        (pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting, ()),
        (pynvml.nvmlClocksThrottleReasonSwThermalSlowdown, (Throttle.SW_THERMAL,)),
        (general, (Throttle.HW_SLOWDOWN,)),
        (general | heat, (Throttle.HW_THERMAL,)),
    ):
        host.set_health(host.uuids()[0], throttle=reason)
        assert readings(host).throttle == told
