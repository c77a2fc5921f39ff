"""The binding calls the right NVML library."""

from pathlib import Path

import pynvml
import pytest

from partitiond.core.errors import DeviceError
from partitiond.devices.gpus.discovery import GpuDiscovery
from partitiond.devices.nvml import library_in_use, use_library
from partitiond.simulated.gpus.host import SimulatedHost


def seen() -> tuple[str, ...]:
    return tuple(seen.device.id for seen in GpuDiscovery().discover([0]))


def test_each_host_is_asked_through_its_own_library_and_the_one_before_is_back_after_it(
    tmp_path: Path,
) -> None:
    one = SimulatedHost.create("a100-80gb-x8", tmp_path / "a")
    other = SimulatedHost.create("h100-80gb-x4", tmp_path / "b")
    for _ in range(2):
        with library_in_use(one.nvml_path):
            assert seen() == one.uuids()
            with library_in_use(other.nvml_path):
                assert seen() == other.uuids()
            assert seen() == one.uuids()
            with pytest.raises(DeviceError, match="cannot be loaded") as caught:
                use_library(tmp_path / "none.so")
            assert caught.value.hint
            assert seen() == one.uuids(), "the one in use stays"
            assert pynvml._nvmlGetFunctionPointer_cache
        assert not pynvml._nvmlGetFunctionPointer_cache, "none of its functions is called again"
        assert set(seen()).isdisjoint(one.uuids()), "the system is not taken for it"
