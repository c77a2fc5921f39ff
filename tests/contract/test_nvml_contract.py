"""NVML behaves as our code relies on, simulated and on a real GPU."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.units import GIB, MIB
from partitiond.devices.gpus.discovery import GpuDiscovery
from partitiond.devices.host import HostDevices
from partitiond.devices.nvml import XidWatch, used_bytes
from partitiond.serde import from_json, to_json
from partitiond.simulated.gpus.host import SimulatedHost
from tests.contract.cuda_program import cuda_program

ALLOCATED = 512 * MIB


@dataclass(frozen=True)
class Here:
    """GPUs to look at, and the CUDA library of their host (None for the system's)."""

    gpus: tuple[Device, ...]
    cuda: Path | None


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.gpu)])
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Here]:
    with ExitStack() as stack:
        cuda = None
        if request.param == "simulated":
            host = SimulatedHost.create("a100-80gb-x8", tmp_path / "host")
            stack.enter_context(host.installed())
            cuda = host.cuda_path
        gpus = tuple(seen.device for seen in GpuDiscovery().discover([0]))
        if not gpus:
            pytest.skip("needs an NVIDIA GPU")
        yield Here(gpus, cuda)


@pytest.fixture
def gpu(here: Here) -> Device:
    """One that takes compute work as a whole."""
    for device in here.gpus:
        if SharingMode.MIG not in device.modes[:1] and not device.cordoned:
            return device
    pytest.skip("needs a GPU with MIG off")


def seen(uuid: str, own_pids: Callable[[], Sequence[int]] = tuple) -> Device:
    devices = HostDevices(cpu=False, own_pids=own_pids).discover()
    return next(device for device in devices if device.id == uuid)


def test_gpus_describe_themselves(here: Here) -> None:
    devices = HostDevices(cpu=False)
    for device in here.gpus:
        assert device.id.startswith("GPU-")
        assert device.driver
        assert device.name
        assert 0 <= device.reserved_bytes < device.memory_bytes // 8
        assert 0 <= device.free_bytes <= device.memory_bytes - device.reserved_bytes
        assert device.modes
        assert device.cores == tuple(sorted(set(device.cores)))
        assert from_json(Device, to_json(device)) == device
        told = devices.inspect(device.id)
        assert told.device.id == device.id
        assert told.compute_capability
        assert told.pci_bus_id.count(":") == 2
        assert told.readings.temperature_c is None or 0 < told.readings.temperature_c < 120
        limit = told.power_limit_watts or 2000
        assert told.power_watts is None or 0 <= told.power_watts < 1.5 * limit
        again = devices.inspect(device.id).energy_joules
        assert told.energy_joules is None or (again or 0) >= told.energy_joules
        assert from_json(DeviceDetails, to_json(told)) == told


async def test_a_process_takes_from_what_is_free_where_it_is_not_ours_and_gives_it_back(
    here: Here, gpu: Device
) -> None:
    before, used = seen(gpu.id), used_bytes(gpu.id)
    async with cuda_program(gpu.id, here.cuda) as program:
        assert await program.code() == await program.code(f"allocate {ALLOCATED}") == 0
        pid = program.pid
        during, ours = seen(gpu.id), seen(gpu.id, lambda: (pid,))
        risen = used_bytes(gpu.id) - used
        assert risen >= ALLOCATED
        # A context costs some hundred MiB beside what is allocated.
        assert risen < ALLOCATED + 2 * GIB
        assert before.free_bytes - during.free_bytes >= ALLOCATED
        named = {process.pid: process for process in during.foreign}
        if pid in named:  # in a container the driver may name nobody
            assert named[pid].used_bytes == 0 or named[pid].used_bytes >= ALLOCATED
            assert named[pid].name
        assert pid not in {process.pid for process in ours.foreign}
        assert before.free_bytes - ours.free_bytes < ALLOCATED
    assert used_bytes(gpu.id) < used + ALLOCATED


def test_events_are_listened_to_and_a_gpu_that_is_not_there_is_refused(here: Here) -> None:
    with pytest.raises(DeviceError) as caught:
        used_bytes("GPU-00000000-dead-beef-0000-000000000000")
    assert caught.value.hint
    watch = XidWatch(wait_ms=100)
    watch.start()
    assert watch.listening.wait(60)
    assert watch.xids(here.gpus[0].id) == ()
    watch.close()
    assert not watch.listening.is_set()
