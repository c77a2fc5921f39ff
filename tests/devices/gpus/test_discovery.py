"""GPUs are discovered as devices, on simulated hosts through the real binding."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.mig.changes import MigChanges
from partitiond.core.mig.geometry import place_of
from partitiond.core.units import GIB
from partitiond.devices.gpus import mig
from partitiond.devices.gpus.discovery import GpuDiscovery
from partitiond.devices.nvml.session import gpu
from partitiond.devices.partitions.gpus import NvmlGpus
from partitiond.simulated.gpus import SimulatedHost
from partitiond.simulated.gpus.description import GpuDescription
from tests.gpu_fixtures import MakeHost

CORES = range(4)
WHOLE, MEMORY, MPS, MIG = (
    SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS, SharingMode.MIG,
)  # fmt: skip
MIG_ON = GpuDescription("a100-80gb", mig=True, mig_instances=("3g.40gb@4", "2g.20gb@0"))
TWO = GpuDescription("a100-80gb", count=2)


@pytest.fixture
def process() -> Iterator[int]:
    """The pid of a process that lives."""
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as running:
        yield running.pid
        running.kill()


def found(discovery: GpuDiscovery | None = None) -> list[Device]:
    return [seen.device for seen in (discovery or GpuDiscovery()).discover(CORES)]


def test_gpus_are_what_the_catalog_knows(make_host: MakeHost) -> None:
    host = make_host(name="mixed")
    devices = found()
    assert tuple(device.id for device in devices) == host.uuids()
    for device in devices:
        assert device.sm_count == HARDWARE[device.hardware].sm_count
        assert device.driver
        assert (device.health, device.cordoned) == (DeviceHealth.FINE, False)
        assert device.free_bytes == device.memory_bytes - device.reserved_bytes


def test_memory_of_others_is_not_free_and_that_of_our_engines_is(
    make_host: MakeHost, process: int
) -> None:
    host = make_host()
    (uuid,) = host.uuids()
    host.add_process(uuid, process, 30 * GIB)
    (device,) = found(GpuDiscovery(host_pids=True, mig_changes="instances"))
    (foreign,) = device.foreign
    assert foreign.pid == process
    assert foreign.used_bytes >= 30 * GIB
    assert foreign.name.startswith("python")
    assert device.free_bytes == device.memory_bytes - device.reserved_bytes - foreign.used_bytes
    (seen,) = GpuDiscovery(own_pids=lambda: {process}).discover(CORES)
    assert seen.device.foreign == ()
    assert seen.device.free_bytes == seen.device.memory_bytes - seen.device.reserved_bytes
    assert seen.split.ours_bytes >= 30 * GIB
    for host_pids in (True, False):  # only outside of containers all processes are told
        use = NvmlGpus(host_pids=host_pids).use(uuid)
        assert (use.all_told, len(use.processes)) == (host_pids, int(host_pids))
        assert use.used_bytes >= 30 * GIB


def test_in_a_container_hidden_memory_stays_foreign_when_our_engines_come(
    make_host: MakeHost, process: int
) -> None:
    """The driver's pids mean nothing there: neither theirs nor ours can be recognised."""
    host = make_host()
    (uuid,) = host.uuids()
    hidden = 2**22 + 1
    host.add_process(uuid, hidden, 5 * GIB)
    own: set[int] = set()
    gpus = GpuDiscovery(own_pids=lambda: own, host_pids=False)
    (alone,) = found(gpus)
    assert alone.foreign == ()
    assert alone.free_bytes <= alone.memory_bytes - alone.reserved_bytes - 5 * GIB
    own.add(process)
    host.add_process(uuid, hidden + 1, 20 * GIB)  # our engine, by a pid nobody here knows
    assert found(gpus)[0].free_bytes == alone.free_bytes


def test_slices_are_offered_where_mig_is_on_and_fixed_where_they_may_not_change(
    make_host: MakeHost, tmp_path: Path
) -> None:
    every = HARDWARE["a100-80gb"].modes
    make_host()
    changes: MigChanges | None
    for changes, modes in (
        (None, every),
        ("never", (WHOLE, MEMORY, MPS)),
        ("instances", (WHOLE, MEMORY, MPS)),
    ):
        (device,) = found(GpuDiscovery(mig_changes=changes))
        assert (device.modes, device.mig_fixed) == (modes, False), changes
    host = make_host(MIG_ON)
    nowhere = tmp_path / "none.sock"
    for changes, privileged, fixed in (
        ("never", True, True),
        ("instances", True, False),
        ("instances", False, True),
    ):
        host.privileged(privileged)
        (device,) = found(GpuDiscovery(mig_changes=changes, mig_helper=nowhere))
        assert (device.modes, device.mig_fixed) == ((MIG,), fixed), changes
        # A plain user sees them, too.
        assert {m.uuid for m in device.mig_instances} == {m.uuid for m in host.geometry(device.id)}
        assert device.hardware == "a100-80gb"


def test_a_helper_that_can_be_reached_may_change_what_this_user_may_not(
    make_host: MakeHost, tmp_path: Path
) -> None:
    host = make_host(MIG_ON, GpuDescription("l4-24gb"))
    host.privileged(False)
    helper, (cut, other) = tmp_path / "h.sock", host.uuids()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(helper))
        with gpu(cut, "ask") as handle:
            assert mig.may_change_instances(handle, helper)
    with gpu(other, "ask") as handle:  # one without MIG
        assert mig.mig_mode(handle) is None
        assert not mig.may_change_instances(handle, None)


def test_a_geometry_that_cannot_be_read_is_no_reason_to_lose_the_gpu(make_host: MakeHost) -> None:
    host = make_host(MIG_ON)
    host.fail("nvmlDeviceGetMaxMigDeviceCount", pynvml.NVML_ERROR_UNKNOWN, times=-1)
    read = mig.read_mig(host.uuids()[0], "a100-80gb", None, lambda _: True)
    assert (read.readable, read.instances) == (False, ())


def test_instances_are_as_the_host_has_them_and_those_under_others_are_occupied(
    make_host: MakeHost, process: int
) -> None:
    host = make_host(name="a100-80gb-mig")
    for device in found(GpuDiscovery(mig_changes="instances")):
        seen = [(*place_of(m), m.uuid) for m in device.mig_instances]
        assert seen == [(*place_of(m), m.uuid) for m in host.geometry(device.id)]
        assert device.occupied_slices == ()
    theirs = host.geometry(host.uuids()[0])[3]
    host.add_process(theirs.uuid, process, GIB)
    foreign = found(GpuDiscovery(host_pids=True))[0]
    assert [m.uuid for m in foreign.mig_instances if m.busy] == [theirs.uuid]
    assert foreign.occupied_slices == (4, 5, 6, 7)
    assert found(GpuDiscovery(own_pids=lambda: {process}))[0].occupied_slices == ()


def test_compute_modes_decide_how_a_gpu_may_be_shared(make_host: MakeHost) -> None:
    host = make_host()
    (uuid,) = host.uuids()
    host.set_health(uuid, compute_mode=pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS)
    gpus = GpuDiscovery(mig_changes="instances")
    assert found(gpus)[0].modes == (WHOLE, MPS)
    host.set_health(uuid, compute_mode=pynvml.NVML_COMPUTEMODE_PROHIBITED)
    (device,) = found(gpus)
    assert device.cordoned
    assert "nvidia-smi -c" in device.cordon_reason


def test_a_failed_gpu_is_cordoned_with_the_reason_and_a_degraded_one_stays_in_use(
    make_host: MakeHost,
) -> None:
    host = make_host(TWO)
    bad, hot = host.uuids()
    host.set_health(bad, remapped_failure=1)
    host.set_health(hot, throttle=pynvml.nvmlClocksThrottleReasonHwThermalSlowdown)
    first, second = found()
    assert (first.health, first.cordoned) == (DeviceHealth.FAILED, True)
    assert "remapped" in first.cordon_reason
    assert (second.id, second.health, second.cordoned) == (hot, DeviceHealth.DEGRADED, False)
    assert "too hot" in second.health_reason


def test_a_gpu_that_falls_off_the_bus_is_kept_cordoned_and_comes_back(make_host: MakeHost) -> None:
    """One that was never seen is left out; that none answers is an error."""
    host = make_host(TWO)
    lost, well = host.uuids()
    gpus = GpuDiscovery()
    found(gpus)
    host.lose(lost)
    cordoned = {device.id: device.cordon_reason for device in found(gpus) if device.cordoned}
    assert cordoned.keys() == {lost}
    assert "does not answer" in cordoned[lost]
    assert [device.id for device in found()] == [well]
    host.lose(well)
    with pytest.raises(DeviceError, match="any GPU") as caught:
        found()
    assert caught.value.hint
    host.restore(lost)
    host.restore(well)
    assert not any(device.cordoned for device in found(gpus))


OPTIONAL = (
    "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses*", "nvmlDeviceGetMPSComputeRunningProcesses*",
    "nvmlDeviceGetMigMode", "nvmlDeviceGetComputeMode", "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetRemappedRows", "nvmlDeviceGetRetiredPages*",
    "nvmlDeviceGetCurrentClocks*", "nvmlDeviceGetTemperature*", "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetCpuAffinity*", "nvmlDeviceGetAttributes*",
)  # fmt: skip


def failing(host: SimulatedHost, function: str, code: int, uuid: str) -> list[Device]:
    host.fail(function, code, uuid=uuid, times=-1)
    devices = found(GpuDiscovery(mig_changes="instances"))
    host.heal()
    return devices


def test_an_old_driver_without_a_function_still_gives_devices(make_host: MakeHost) -> None:
    """And a GPU that refuses what is needed does not hide the others."""
    host = make_host(TWO)
    first, second = host.uuids()
    for function in OPTIONAL:
        for code in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND):
            device, _ = failing(host, function, code, first)
            assert device.id == first, function
            assert not device.cordoned, function
            assert device.modes, function
    for code in (pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_UNKNOWN):
        assert [device.id for device in failing(host, "nvmlDeviceGetName", code, first)] == [second]


def test_cores_are_those_near_the_gpu_and_far_ones_are_better_than_none(
    make_host: MakeHost,
) -> None:
    make_host(name="a100-80gb-x8")
    everything = tuple(range(os.cpu_count() or 1))
    for seen in GpuDiscovery().discover(everything):
        assert seen.device.cores
        assert set(seen.device.cores) <= set(everything)
    for seen in GpuDiscovery().discover([1000, 1001]):
        assert seen.device.cores == (1000, 1001)
