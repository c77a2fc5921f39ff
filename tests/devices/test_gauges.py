"""Devices report gauges: a simulated GPU host, and this machine's CPU."""

import psutil

from partitiond.devices.gauges import LEAST_SECONDS, HostGauges
from partitiond.devices.gpus.discovery import GpuDiscovery
from partitiond.simulated.gpus import GpuDescription
from tests.gpu_fixtures import MakeHost


def test_each_gpu_tells_its_memory_power_and_temperature(make_host: MakeHost) -> None:
    host = make_host(GpuDescription("a100-80gb", count=2))
    found = HostGauges(cpu=False).read()
    assert set(found) == set(host.uuids())
    for reading in found.values():
        assert reading.used_bytes == 0
        assert reading.watts
        assert reading.celsius is not None
    host.driver(loaded=False)
    assert not GpuDiscovery().discover([0]), "a host without driver has no GPUs"
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
