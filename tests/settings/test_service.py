"""Settings and devices give the control plane the host's memory."""

import psutil
import pytest

from partitiond.core.units import GIB
from partitiond.settings.schema import load_settings
from partitiond.settings.service import service_options


@pytest.mark.parametrize(
    "overrides",
    [{"cpu.enabled": True}, {"cpu.enabled": False, "gpu.simulated_host": "/nonexistent"}],
)
def test_host_memory_is_said_by_the_cpu_device_or_not_at_all(overrides: dict[str, object]) -> None:
    settings = load_settings(overrides=overrides).settings
    assert service_options(settings).planning.host_memory_bytes is None


def test_host_memory_of_a_host_of_gpus_alone_is_what_there_is_less_headroom() -> None:
    settings = load_settings(overrides={"cpu.enabled": False}).settings
    told = service_options(settings).planning.host_memory_bytes
    assert told is not None
    assert 0 < told < psutil.virtual_memory().total
    less = load_settings(overrides={"cpu.enabled": False, "cpu.memory": "1GiB"}).settings
    told = service_options(less).planning.host_memory_bytes
    assert told is not None
    assert told < GIB
