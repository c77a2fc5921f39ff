"""The binding calls the right NVML library."""

from pathlib import Path

import pynvml
import pytest

from partitiond.core.errors import DeviceError
from partitiond.devices.gpus.discovery import discover_gpus
from partitiond.devices.nvml import library_in_use, use_library
from partitiond.simulated.gpus.host import SimulatedHost


@pytest.fixture
def hosts(tmp_path: Path) -> tuple[SimulatedHost, SimulatedHost]:
    return (
        SimulatedHost.create("a100-80gb-x8", tmp_path / "a"),
        SimulatedHost.create("h100-80gb-x4", tmp_path / "b"),
    )


def test_each_host_is_asked_through_its_own_library(
    hosts: tuple[SimulatedHost, SimulatedHost],
) -> None:
    for host in (*hosts, *hosts):
        with library_in_use(host.nvml_path):
            assert tuple(gpu.id for gpu in discover_gpus([0])) == host.uuids()


def test_the_library_before_is_back_after_the_block(
    hosts: tuple[SimulatedHost, SimulatedHost],
) -> None:
    outer, inner = hosts
    with library_in_use(outer.nvml_path):
        with library_in_use(inner.nvml_path):
            assert len(discover_gpus([0])) == 4
        assert len(discover_gpus([0])) == 8


def test_the_system_is_not_taken_for_the_simulated_host(
    hosts: tuple[SimulatedHost, SimulatedHost],
) -> None:
    with library_in_use(hosts[0].nvml_path):
        simulated = {gpu.id for gpu in discover_gpus([0])}
    assert simulated.isdisjoint({gpu.id for gpu in discover_gpus([0])})


def test_a_library_that_cannot_be_loaded_leaves_the_one_in_use(
    hosts: tuple[SimulatedHost, SimulatedHost], tmp_path: Path
) -> None:
    with library_in_use(hosts[0].nvml_path):
        with pytest.raises(DeviceError, match="cannot be loaded") as caught:
            use_library(tmp_path / "none.so")
        assert caught.value.hint
        assert len(discover_gpus([0])) == 8


def test_functions_of_an_earlier_library_are_not_called(
    hosts: tuple[SimulatedHost, SimulatedHost],
) -> None:
    with library_in_use(hosts[0].nvml_path):
        discover_gpus([0])
        assert pynvml._nvmlGetFunctionPointer_cache
    assert not pynvml._nvmlGetFunctionPointer_cache
