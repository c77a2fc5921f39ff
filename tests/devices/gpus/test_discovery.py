"""GPUs are discovered as devices, on simulated hosts through the real binding."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.units import GIB
from partitiond.devices.gpus.discovery import GpuDiscovery
from partitiond.devices.partitions.gpus import NvmlGpus
from partitiond.simulated.gpus.description import GpuDescription
from tests.devices.gpus.conftest import MakeHost

CORES = range(4)
WHOLE, MEMORY, MPS, MIG = (
    SharingMode.WHOLE,
    SharingMode.MEMORY,
    SharingMode.MPS,
    SharingMode.MIG,
)
MIG_ON = GpuDescription("a100-80gb", mig=True, mig_instances=("3g.40gb@4", "2g.20gb@0"))


@pytest.fixture
def process() -> Iterator[int]:
    """The pid of a process that lives."""
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as running:
        yield running.pid
        running.kill()


def test_gpus_are_what_the_catalog_knows(make_host: MakeHost) -> None:
    host = make_host(name="mixed")
    found = [seen.device for seen in GpuDiscovery().discover(CORES)]
    assert tuple(device.id for device in found) == host.uuids()
    for device in found:
        spec = HARDWARE[device.hardware]
        assert device.sm_count == spec.sm_count
        assert device.driver
        assert device.health is DeviceHealth.FINE
        assert not device.cordoned
        assert device.free_bytes == device.memory_bytes - device.reserved_bytes


def test_a_foreign_process_is_seen_and_its_memory_is_not_free(
    make_host: MakeHost, process: int
) -> None:
    host = make_host()
    (uuid,) = host.uuids()
    host.add_process(uuid, process, 5 * GIB)
    (device,) = [s.device for s in GpuDiscovery(host_pids=True).discover(CORES)]
    (foreign,) = device.foreign
    assert foreign.pid == process
    assert foreign.used_bytes >= 5 * GIB
    assert foreign.name.startswith("python")
    assert device.free_bytes == device.memory_bytes - device.reserved_bytes - foreign.used_bytes


def test_our_own_engines_take_nothing_away(make_host: MakeHost, process: int) -> None:
    host = make_host()
    (uuid,) = host.uuids()
    host.add_process(uuid, process, 30 * GIB)
    (seen,) = GpuDiscovery(own_pids=lambda: {process}).discover(CORES)
    assert seen.device.foreign == ()
    assert seen.device.free_bytes == seen.device.memory_bytes - seen.device.reserved_bytes
    assert seen.split.ours_bytes >= 30 * GIB


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
    alone = gpus.discover(CORES)[0].device
    assert alone.foreign == ()
    assert alone.free_bytes <= alone.memory_bytes - alone.reserved_bytes - 5 * GIB
    own.add(process)
    host.add_process(uuid, hidden + 1, 20 * GIB)  # our engine, by a pid nobody here knows
    assert gpus.discover(CORES)[0].device.free_bytes == alone.free_bytes


@pytest.mark.parametrize(
    ("changes", "modes", "fixed"),
    [
        (None, HARDWARE["a100-80gb"].modes, False),
        ("never", (WHOLE, MEMORY, MPS), False),
        ("instances", (WHOLE, MEMORY, MPS), False),
        ("mode", HARDWARE["a100-80gb"].modes, False),
    ],
)
def test_with_mig_off_slices_are_offered_where_the_mode_may_change(
    make_host: MakeHost, changes: str | None, modes: tuple[SharingMode, ...], fixed: bool
) -> None:
    make_host()
    (seen,) = GpuDiscovery(mig_changes=changes).discover(CORES)  # type: ignore[arg-type]
    assert (seen.device.modes, seen.device.mig_fixed) == (modes, fixed)


@pytest.mark.parametrize(
    ("changes", "privileged", "fixed"),
    [
        ("never", True, True),
        ("instances", True, False),
        ("instances", False, True),
        ("mode", False, True),
    ],
)
def test_a_geometry_is_fixed_where_it_may_not_be_changed(
    make_host: MakeHost, changes: str, privileged: bool, fixed: bool
) -> None:
    host = make_host(MIG_ON)
    host.privileged(privileged)
    (seen,) = GpuDiscovery(mig_changes=changes).discover(CORES)  # type: ignore[arg-type]
    assert seen.device.mig_fixed is fixed
    assert seen.device.modes == (MIG,)
    assert {m.mig_profile for m in seen.device.mig_instances} == {"3g.40gb", "2g.20gb"}


def test_the_mode_stays_while_somebody_uses_the_gpu(make_host: MakeHost, process: int) -> None:
    host = make_host()
    host.add_process(host.uuids()[0], process, GIB)
    (seen,) = GpuDiscovery(mig_changes="mode", host_pids=True).discover(CORES)
    assert MIG not in seen.device.modes


def test_instances_are_as_the_host_has_them(make_host: MakeHost) -> None:
    host = make_host(name="a100-80gb-mig")
    for seen in GpuDiscovery(mig_changes="instances").discover(CORES):
        has = host.geometry(seen.device.id)
        found = seen.device.mig_instances
        assert [(m.mig_profile, m.slice_start, m.slice_count, m.uuid) for m in found] == [
            (m.mig_profile, m.slice_start, m.slice_count, m.uuid) for m in has
        ]
        assert seen.device.occupied_slices == ()


def test_slices_under_others_processes_are_occupied(make_host: MakeHost, process: int) -> None:
    host = make_host(MIG_ON)
    (uuid,) = host.uuids()
    theirs = host.geometry(uuid)[1]
    host.add_process(theirs.uuid, process, GIB)
    foreign = GpuDiscovery(host_pids=True).discover(CORES)[0].device
    assert [m.uuid for m in foreign.mig_instances if m.busy] == [theirs.uuid]
    assert foreign.occupied_slices == (4, 5, 6, 7)
    ours = GpuDiscovery(own_pids=lambda: {process}).discover(CORES)[0].device
    assert ours.occupied_slices == ()


def test_compute_modes_decide_how_a_gpu_may_be_shared(make_host: MakeHost) -> None:
    host = make_host()
    (uuid,) = host.uuids()
    host.set_health(uuid, compute_mode=pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS)
    gpus = GpuDiscovery(mig_changes="instances")
    assert gpus.discover(CORES)[0].device.modes == (WHOLE, MPS)
    host.set_health(uuid, compute_mode=pynvml.NVML_COMPUTEMODE_PROHIBITED)
    device = gpus.discover(CORES)[0].device
    assert device.cordoned
    assert "nvidia-smi -c" in device.cordon_reason


def test_a_failed_gpu_is_cordoned_with_the_reason(make_host: MakeHost) -> None:
    host = make_host(GpuDescription("a100-80gb", count=2))
    bad, good = host.uuids()
    host.set_health(bad, remapped_failure=1)
    first, second = (s.device for s in GpuDiscovery().discover(CORES))
    assert (first.health, first.cordoned) == (DeviceHealth.FAILED, True)
    assert "remapped" in first.cordon_reason
    assert (second.id, second.health, second.cordoned) == (good, DeviceHealth.FINE, False)


def test_a_degraded_gpu_stays_in_use(make_host: MakeHost) -> None:
    host = make_host()
    host.set_health(host.uuids()[0], throttle=pynvml.nvmlClocksThrottleReasonHwThermalSlowdown)
    (seen,) = GpuDiscovery().discover(CORES)
    assert (seen.device.health, seen.device.cordoned) == (DeviceHealth.DEGRADED, False)
    assert "too hot" in seen.device.health_reason


def test_a_gpu_that_falls_off_the_bus_is_kept_cordoned_and_comes_back(make_host: MakeHost) -> None:
    host = make_host(GpuDescription("h100-80gb", count=3))
    lost = host.uuids()[1]
    gpus = GpuDiscovery()
    gpus.discover(CORES)
    host.lose(lost)
    found = {s.device.id: s.device for s in gpus.discover(CORES)}
    assert found.keys() == set(host.uuids())
    assert [uuid for uuid, device in found.items() if device.cordoned] == [lost]
    assert "does not answer" in found[lost].cordon_reason
    host.restore(lost)
    assert not any(s.device.cordoned for s in gpus.discover(CORES))


def test_a_gpu_that_was_lost_before_is_left_out_and_the_others_are_used(
    make_host: MakeHost,
) -> None:
    host = make_host(GpuDescription("h100-80gb", count=2))
    lost, well = host.uuids()
    host.lose(lost)
    assert [s.device.id for s in GpuDiscovery().discover(CORES)] == [well]


def test_when_no_gpu_answers_that_is_an_error(make_host: MakeHost) -> None:
    host = make_host()
    host.lose(host.uuids()[0])
    with pytest.raises(DeviceError, match="any GPU") as caught:
        GpuDiscovery().discover(CORES)
    assert caught.value.hint


OPTIONAL = (
    "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses*", "nvmlDeviceGetMPSComputeRunningProcesses*",
    "nvmlDeviceGetMigMode", "nvmlDeviceGetComputeMode", "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetRemappedRows", "nvmlDeviceGetRetiredPages*",
    "nvmlDeviceGetCurrentClocks*", "nvmlDeviceGetTemperature*", "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetCpuAffinity*", "nvmlDeviceGetAttributes*",
)  # fmt: skip


def test_an_old_driver_without_a_function_still_gives_devices(make_host: MakeHost) -> None:
    host = make_host()
    for function in OPTIONAL:
        for code in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND):
            host.fail(function, code, times=-1)
            (seen,) = GpuDiscovery(mig_changes="instances").discover(CORES)
            host.heal()
            assert seen.device.id == host.uuids()[0], function
            assert not seen.device.cordoned, function
            assert seen.device.modes, function


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_UNKNOWN])
def test_one_gpu_that_refuses_does_not_hide_the_others(make_host: MakeHost, code: int) -> None:
    host = make_host(GpuDescription("a100-80gb", count=2))
    first, second = host.uuids()
    host.fail("nvmlDeviceGetName", code, uuid=first, times=-1)
    assert [s.device.id for s in GpuDiscovery().discover(CORES)] == [second]


def test_a_plain_user_of_a_mig_gpu_sees_its_instances(make_host: MakeHost) -> None:
    host = make_host(MIG_ON)
    host.privileged(False)
    (seen,) = GpuDiscovery(mig_changes="instances").discover(CORES)
    assert {m.uuid for m in seen.device.mig_instances} == {
        m.uuid for m in host.geometry(seen.device.id)
    }
    assert seen.device.hardware == "a100-80gb"


def test_cores_are_those_near_the_gpu(make_host: MakeHost) -> None:
    make_host(name="a100-80gb-x8")
    everything = tuple(range(os.cpu_count() or 1))
    for seen in GpuDiscovery().discover(everything):
        assert seen.device.cores
        assert set(seen.device.cores) <= set(everything)


def test_far_cores_are_better_than_none(make_host: MakeHost) -> None:
    make_host(name="a100-80gb-x8")
    for seen in GpuDiscovery().discover([1000, 1001]):
        assert seen.device.cores == (1000, 1001)


def test_a_helper_that_is_not_there_is_not_asked(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(MIG_ON)
    host.privileged(False)
    gpus = GpuDiscovery(mig_changes="instances", mig_helper=tmp_path / "none.sock")
    assert gpus.discover(CORES)[0].device.mig_fixed


@pytest.mark.parametrize("host_pids", [True, False])
def test_only_outside_of_containers_all_processes_are_told(
    make_host: MakeHost, host_pids: bool
) -> None:
    host = make_host()
    host.add_process(host.uuids()[0], os.getpid(), GIB)
    use = NvmlGpus(host_pids=host_pids).use(host.uuids()[0])
    assert use.all_told is host_pids
    assert len(use.processes) == int(host_pids)
    assert use.used_bytes >= GIB
