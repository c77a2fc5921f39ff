"""Devices report gauges: a simulated GPU host, and this machine's CPU."""

import psutil
import pytest

from partitiond.devices.gauges import LEAST_SECONDS, HostGauges
from partitiond.simulated.gpus import GpuDescription
from tests.gpu_fixtures import MakeHost, make_host

__all__ = ["make_host"]


def test_each_gpu_tells_its_memory_power_and_temperature(make_host: MakeHost) -> None:
    host = make_host(GpuDescription("a100-80gb"), GpuDescription("a100-80gb"))
    found = HostGauges(cpu=False).read()
    assert set(found) == set(host.uuids())
    for reading in found.values():
        assert reading.used_bytes == 0
        assert reading.watts is not None
        assert reading.watts > 0
        assert reading.celsius is not None


def test_without_a_driver_there_is_nothing_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    def refuse() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    assert HostGauges(cpu=False).read() == {}


def test_the_cpu_tells_its_load_since_the_look_before() -> None:
    now = [0.0]
    gauges = HostGauges(nvml=False, clock=lambda: now[0])
    now[0] = 10.0
    (reading,) = gauges.read().values()
    assert reading.used_bytes is not None
    assert 0 < reading.used_bytes < psutil.virtual_memory().total
    assert reading.busy_share is not None
    assert 0 <= reading.busy_share <= 1
    now[0] += LEAST_SECONDS / 2
    assert gauges.read()["cpu"] is reading
