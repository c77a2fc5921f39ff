"""The simulated NVML shows its contents and its events through the real binding."""

import ctypes
from pathlib import Path

import pynvml
import pytest

from partitiond.simulated.gpus import SimulatedHost, shipped_descriptions

GIB = 1 << 30


def handle(host: SimulatedHost, index: int = 0) -> object:
    return pynvml.nvmlDeviceGetHandleByUUID(host.uuids()[index])


@pytest.mark.parametrize("name", sorted(shipped_descriptions()))
def test_every_shipped_host_is_there(name: str, tmp_path: Path) -> None:
    host = SimulatedHost.create(name, tmp_path / "host")
    with host.installed():
        pynvml.nvmlInit()
        assert pynvml.nvmlDeviceGetCount() == shipped_descriptions()[name].count
        found = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(len(host.uuids()))]
        assert tuple(pynvml.nvmlDeviceGetUUID(gpu) for gpu in found) == host.uuids()
        assert len({pynvml.nvmlDeviceGetPciInfo(gpu).busId for gpu in found}) == len(found)
        pynvml.nvmlShutdown()


def test_memory_adds_up_in_both_of_its_versions(nvml: SimulatedHost) -> None:
    gpu = handle(nvml)
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu, version=pynvml.nvmlMemory_v2)
    assert memory.total == 80 * GIB
    assert memory.total == memory.free + memory.used + memory.reserved
    first = pynvml.nvmlDeviceGetMemoryInfo(gpu)
    assert (first.free, first.used) == (memory.free, memory.reserved)
    assert pynvml.nvmlErrorString(19) == "In use by another client"


def test_calls_fail_as_asked(nvml: SimulatedHost) -> None:
    gpu, other = handle(nvml), handle(nvml, 1)
    nvml.fail("nvmlDeviceGetName", pynvml.NVML_ERROR_UNKNOWN, uuid=nvml.uuids()[0], after=1)
    assert pynvml.nvmlDeviceGetName(gpu)
    assert pynvml.nvmlDeviceGetName(other)
    with pytest.raises(pynvml.NVMLError_Unknown):
        pynvml.nvmlDeviceGetName(gpu)
    assert pynvml.nvmlDeviceGetName(gpu)
    nvml.fail("nvmlDeviceGet*", pynvml.NVML_ERROR_TIMEOUT, times=-1)
    for _ in range(3):
        with pytest.raises(pynvml.NVMLError_Timeout):
            pynvml.nvmlDeviceGetIndex(gpu)
    nvml.heal()
    assert pynvml.nvmlDeviceGetIndex(gpu) == 0


def test_what_the_driver_refuses_is_refused(nvml: SimulatedHost) -> None:
    """What its users ask of it is tested with them (`tests/devices`)."""
    gpu = handle(nvml)
    made_up = ctypes.cast(ctypes.c_void_p(4711), pynvml.c_nvmlDevice_t)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetName(made_up)
    with pytest.raises(pynvml.NVMLError) as refused:
        pynvml.nvmlDeviceGetMemoryInfo(gpu, version=0x03000028)
    assert refused.value.value == pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH
    pynvml.nvmlShutdown()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
    pynvml.nvmlInit()
