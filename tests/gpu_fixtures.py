"""Provides simulated GPU hosts for tests of everything that asks NVML.

Their libraries are compiled once for all tests: the build is kept by the content of its sources.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pynvml
import pytest

from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost

MakeHost = Callable[..., SimulatedHost]


@pytest.fixture
def make_host(tmp_path: Path) -> Iterator[MakeHost]:
    """Makes a host, a shipped one by name or one of these GPUs, and installs its NVML."""
    with ExitStack() as stack:

        def make(*gpus: GpuDescription, name: str = "") -> SimulatedHost:
            wanted = name or HostDescription("test", gpus or (GpuDescription("a100-80gb"),))
            folder = tmp_path / f"host-{len(list(tmp_path.iterdir()))}"
            host = SimulatedHost.create(wanted, folder)
            stack.enter_context(host.installed())
            return host

        yield make


def is_started() -> bool:
    """Whether anyone in this process has NVML's library in use started and not ended."""
    try:
        pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError_Uninitialized:
        return False
    return True
