"""MIG on the simulated host follows its rules, and refuses with the right codes."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest

from partitiond.core.mig.geometry import starts_of
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.simulated.gpus.mig_calls import IDS, MODEL, PROFILES, create, create_whole, gpu_of
from tests.simulated.gpus.processes import holding


def mig_devices(gpu: Any) -> Iterator[Any]:
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index)
        except pynvml.NVMLError_NotFound:
            continue


def test_a_mig_device_has_the_index_it_is_found_by(mig: SimulatedHost) -> None:
    gpu = pynvml.nvmlDeviceGetHandleByUUID(mig.uuids()[1])
    for name, start in (("2g.20gb", 0), ("1g.10gb", 2), ("3g.40gb", 4)):
        create_whole(gpu, name, start)
    devices = list(mig_devices(gpu))
    assert [pynvml.nvmlDeviceGetIndex(device) for device in devices] == [0, 1, 2]
    assert pynvml.nvmlDeviceGetIndex(gpu) == 1


def test_profiles_are_those_of_the_catalog(nvml: SimulatedHost) -> None:
    found = {}
    for profile in range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
        try:
            info = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu_of(nvml), profile)
        except pynvml.NVMLError_NotSupported:
            continue
        old = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu_of(nvml), profile, version=1)
        assert (old.id, old.memorySizeMB) == (info.id, info.memorySizeMB)
        found[info.name.removeprefix("MIG ")] = info
    assert {name: info.id for name, info in found.items()} == IDS
    for name, info in found.items():
        assert info.multiprocessorCount == PROFILES[name].sm_count
        assert info.memorySizeMB << 20 == PROFILES[name].memory_bytes
        assert info.instanceCount == PROFILES[name].max_instances


def test_placements_are_told_with_mig_off_and_ignore_what_exists(nvml: SimulatedHost) -> None:
    for name, profile in PROFILES.items():
        assert placements(gpu_of(nvml), IDS[name]) == [
            (start, profile.memory_slices) for start in starts_of(profile)
        ]


def placements(gpu: Any, profile_id: int) -> list[tuple[int, int]]:
    count = ctypes.c_uint(0)
    ask = pynvml.nvmlDeviceGetGpuInstancePossiblePlacements
    ask(gpu, profile_id, None, ctypes.byref(count))
    room = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
    ask(gpu, profile_id, room, ctypes.byref(count))
    return [(place.start, place.size) for place in room]


def test_too_little_room_for_placements_is_said(nvml: SimulatedHost) -> None:
    count, room = ctypes.c_uint(2), (pynvml.c_nvmlGpuInstancePlacement_t * 2)()
    with pytest.raises(pynvml.NVMLError_InsufficientSize):
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(
            gpu_of(nvml), 19, room, ctypes.byref(count)
        )
    assert count.value == 7


def test_with_mig_off_nothing_is_created_or_listed(nvml: SimulatedHost) -> None:
    gpu = gpu_of(nvml)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        create(gpu, "1g.10gb", 0)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, 19)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetGpuInstanceById(gpu, 1)
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 0


def test_a_gpu_without_mig_says_so(tmp_path: Path) -> None:
    description = HostDescription("l4", (GpuDescription("l4-24gb"),))
    host = SimulatedHost.create(description, tmp_path / "host")
    with host.installed():
        pynvml.nvmlInit()
        with pytest.raises(pynvml.NVMLError_NotSupported):
            pynvml.nvmlDeviceGetMigMode(gpu_of(host))
        with pytest.raises(pynvml.NVMLError_NotSupported):
            pynvml.nvmlDeviceSetMigMode(gpu_of(host), 1)
        pynvml.nvmlShutdown()


def test_a_mig_device_from_making_to_destroying(mig: SimulatedHost) -> None:
    gpu = gpu_of(mig)
    instance = create(gpu, "3g.40gb", 4)
    assert list(mig_devices(gpu)) == []  # not without a compute instance
    compute = pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 2)
    (device,) = mig_devices(gpu)
    uuid = pynvml.nvmlDeviceGetUUID(device)
    assert uuid.startswith("MIG-")
    assert pynvml.nvmlDeviceIsMigDeviceHandle(device).value == 1
    assert pynvml.nvmlDeviceGetName(device) == "NVIDIA A100-SXM4-80GB MIG 3g.40gb"
    attributes = pynvml.nvmlDeviceGetAttributes_v2(device)
    assert (attributes.multiprocessorCount, attributes.memorySizeMB) == (42, 40192)
    assert pynvml.nvmlDeviceGetMemoryInfo(device).total == 40192 << 20
    info = pynvml.nvmlGpuInstanceGetInfo(instance)
    assert (info.placement.start, info.placement.size, info.profileId) == (4, 4, 9)
    assert pynvml.nvmlDeviceGetGpuInstanceId(device) == info.id
    by_uuid = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(by_uuid)
    assert pynvml.nvmlDeviceGetUUID(parent) == mig.uuids()[0]
    (seen,) = mig.geometry(mig.uuids()[0])
    assert (seen.uuid, seen.slice_start, seen.slice_count) == (uuid, 4, 4)
    with pytest.raises(pynvml.NVMLError_InUse):
        pynvml.nvmlGpuInstanceDestroy(instance)
    pynvml.nvmlComputeInstanceDestroy(compute)
    pynvml.nvmlGpuInstanceDestroy(instance)
    assert mig.geometry(mig.uuids()[0]) == ()
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetName(device)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlGpuInstanceDestroy(instance)


def test_ids_differ_between_gpus_for_the_same_place(mig: SimulatedHost) -> None:
    ids = [
        pynvml.nvmlGpuInstanceGetInfo(create(gpu_of(mig, index), "1g.10gb", 0)).id
        for index in range(2)
    ]
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("name", "start", "error"),
    [
        ("3g.40gb", 2, pynvml.NVML_ERROR_INVALID_ARGUMENT),  # never starts there
        ("1g.10gb", 7, pynvml.NVML_ERROR_INVALID_ARGUMENT),
        ("4g.40gb", 4, pynvml.NVML_ERROR_INVALID_ARGUMENT),
        ("2g.20gb", 4, pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES),  # taken
        ("7g.80gb", 0, pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES),
        ("1g.10gb+me", 0, pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES),  # one per GPU
    ],
)
def test_what_does_not_fit_is_refused(
    mig: SimulatedHost, name: str, start: int, error: int
) -> None:
    create(gpu_of(mig), "3g.40gb", 4)
    create(gpu_of(mig), "1g.10gb+me", 3)
    with pytest.raises(pynvml.NVMLError) as refused:
        create(gpu_of(mig), name, start)
    assert refused.value.value == error


def test_compute_instances_share_one_gpu_instance(mig: SimulatedHost) -> None:
    instance = create(gpu_of(mig), "3g.40gb", 0)
    one = pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0)
    assert pynvml.nvmlGpuInstanceGetComputeInstanceRemainingCapacity(instance, 0) == 2
    pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 1)
    with pytest.raises(pynvml.NVMLError_InsufficientResources):
        pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 3)
    sms = [
        pynvml.nvmlDeviceGetAttributes_v2(device).multiprocessorCount
        for device in mig_devices(gpu_of(mig))
    ]
    assert sms == [14, 28]
    info = pynvml.nvmlComputeInstanceGetInfo(one)
    assert (info.placement.start, info.placement.size) == (0, 1)
    shape = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, 0, 0)
    assert (shape.instanceCount, shape.name) == (3, "MIG 1c.3g.40gb")


def test_a_process_keeps_its_instance(mig: SimulatedHost) -> None:
    instance, compute = create_whole(gpu_of(mig), "2g.20gb", 0)
    uuid = mig.geometry(mig.uuids()[0])[0].uuid
    with holding(mig, uuid, 1 << 30) as process:
        with pytest.raises(pynvml.NVMLError_InUse):
            pynvml.nvmlComputeInstanceDestroy(compute)
        assert mig.geometry(mig.uuids()[0])[0].busy
        device = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        (listed,) = pynvml.nvmlDeviceGetComputeRunningProcesses(device)
        assert listed.pid == process.pid
        assert listed.gpuInstanceId == pynvml.nvmlDeviceGetGpuInstanceId(device)
        assert [p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu_of(mig))] == [
            process.pid
        ]
        assert pynvml.nvmlDeviceGetMemoryInfo(device).used > 1 << 30
    pynvml.nvmlComputeInstanceDestroy(compute)
    pynvml.nvmlGpuInstanceDestroy(instance)


def test_without_root_nothing_is_changed_and_little_told(mig: SimulatedHost) -> None:
    gpu = gpu_of(mig)
    create_whole(gpu, "2g.20gb", 0)
    mig.privileged(False)
    refused: list[Callable[[], object]] = [
        lambda: create(gpu, "1g.10gb", 4),
        lambda: pynvml.nvmlDeviceSetMigMode(gpu, 0),
        lambda: placements(gpu, 19),
        lambda: pynvml.nvmlDeviceGetGpuInstanceById(gpu, 1),
        lambda: pynvml.nvmlDeviceGetMemoryInfo(gpu),
        lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(gpu),
    ]
    for call in refused:
        with pytest.raises(pynvml.NVMLError_NoPermission):
            call()
    (device,) = mig_devices(gpu)
    assert pynvml.nvmlDeviceGetMemoryInfo(device).total
    assert pynvml.nvmlDeviceGetAttributes_v2(device).gpuInstanceSliceCount == 2


def test_root_is_granted_to_one_process(
    mig: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    mig.privileged(False)
    monkeypatch.setenv("PARTITIOND_SIMULATED_PRIVILEGED", "1")
    assert create(gpu_of(mig), "1g.10gb", 0)


def test_the_mode_changes_only_when_nobody_is_there(nvml: SimulatedHost) -> None:
    gpu = gpu_of(nvml)
    nvml.add_process(nvml.uuids()[0], os.getpid(), 1 << 30)
    assert pynvml.nvmlDeviceSetMigMode(gpu, 1) == pynvml.NVML_ERROR_IN_USE
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [0, 1]
    nvml.remove_process(nvml.uuids()[0], os.getpid())
    assert pynvml.nvmlDeviceSetMigMode(gpu, 1) == pynvml.NVML_SUCCESS
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
    create(gpu, "1g.10gb", 0)
    assert pynvml.nvmlDeviceSetMigMode(gpu, 0) == pynvml.NVML_ERROR_IN_USE


_LOOK = """
import sys, pynvml
from pathlib import Path
from partitiond.simulated.gpus import SimulatedHost
with SimulatedHost.open(Path(sys.argv[1])).installed():
    pynvml.nvmlInit()
    print("started", flush=True)
    sys.stdin.readline()
    pynvml.nvmlDeviceGetHandleByIndex(0)
    print("looks", flush=True)
    sys.stdin.readline()
"""


def test_who_looks_at_a_gpu_keeps_it_from_being_reset(tmp_path: Path) -> None:
    """A monitoring program is enough, as on a real A100."""
    description = HostDescription("watched", (GpuDescription(MODEL),))
    host = SimulatedHost.create(description, tmp_path / "host")
    command = [sys.executable, "-c", _LOOK, str(host.folder)]
    with (
        host.installed(),
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other,
    ):
        assert other.stdin is not None
        assert other.stdout is not None
        pynvml.nvmlInit()
        gpu = gpu_of(host)
        assert other.stdout.readline() == "started\n"
        assert pynvml.nvmlDeviceSetMigMode(gpu, 1) == pynvml.NVML_SUCCESS
        print(file=other.stdin, flush=True)
        assert other.stdout.readline() == "looks\n"
        assert pynvml.nvmlDeviceSetMigMode(gpu, 0) == pynvml.NVML_ERROR_IN_USE
        other.kill()
        other.wait()
        assert pynvml.nvmlDeviceSetMigMode(gpu, 0) == pynvml.NVML_SUCCESS
        pynvml.nvmlShutdown()


def test_where_the_gpu_cannot_be_reset_the_mode_waits_for_a_reboot(tmp_path: Path) -> None:
    gpus = (GpuDescription(MODEL, reset_possible=False),)
    host = SimulatedHost.create(HostDescription("virtual", gpus), tmp_path / "host")
    with host.installed():
        pynvml.nvmlInit()
        gpu = gpu_of(host)
        assert pynvml.nvmlDeviceSetMigMode(gpu, 1) == pynvml.NVML_ERROR_RESET_REQUIRED
        assert pynvml.nvmlDeviceGetMigMode(gpu) == [0, 1]
        host.reboot()
        assert pynvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
        pynvml.nvmlShutdown()
