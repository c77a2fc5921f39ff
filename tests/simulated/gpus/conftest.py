"""Provides a simulated host per test, under the real binding if a test asks for it."""

from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost

TWO_A100 = HostDescription("two-a100", (GpuDescription("a100-80gb", count=2),))


@pytest.fixture
def host(tmp_path: Path) -> SimulatedHost:
    return SimulatedHost.create(TWO_A100, tmp_path / "host")


@pytest.fixture
def nvml(host: SimulatedHost) -> Iterator[SimulatedHost]:
    """The host, with NVML started on it."""
    with host.installed():
        pynvml.nvmlInit()
        yield host
        pynvml.nvmlShutdown()


@pytest.fixture
def mig(nvml: SimulatedHost) -> SimulatedHost:
    """MIG on, no instances."""
    for uuid in nvml.uuids():
        nvml.set_mig_mode(uuid, enabled=True)
    return nvml
