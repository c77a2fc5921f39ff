"""Lists the MIG profiles (sizes of GPU instances) that a GPU's driver offers."""

import ctypes
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pynvml

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import MigProfile
from partitiond.core.mig.geometry import starts_of
from partitiond.core.mig.names import canonical, memory_slices_of
from partitiond.core.units import MIB, Bytes
from partitiond.devices.nvml.hardware_names import hardware_key
from partitiond.devices.nvml.session import NOT_OFFERED, offered, text_of

PROFILE_ENUMS: Final = range(0x20)
"""Numbers by which NVML is asked for profiles; it knows 18, and newer drivers may know more."""

UNKNOWN_NUMBER: Final = frozenset({int(pynvml.NVML_ERROR_INVALID_ARGUMENT)})
"""Errors for a number that this GPU or driver does not know."""


@dataclasses.dataclass(frozen=True, slots=True)
class Offered:
    """A MIG profile that a GPU offers.

    Attributes:
        profile_id: number of the profile in all other NVML calls.
        most: largest number of its instances: the length of buffers for lists of them.
    """

    profile: MigProfile
    profile_id: int
    most: int


def sizes_of(handle: Any) -> tuple[Offered, ...]:
    """Return all MIG profiles of a GPU, largest first; empty if the GPU has no MIG.

    If this user may not read placements, the rules of 8-slice GPUs replace them.

    Raises:
        NVMLError: the driver refuses for another reason.
    """
    ask = pynvml.nvmlDeviceGetGpuInstanceProfileInfo
    listed = [offered(ask, handle, number, 2, also=UNKNOWN_NUMBER) for number in PROFILE_ENUMS]
    known = [info for info in listed if info is not None]
    total = total_bytes(handle, [int(info.memorySizeMB) * MIB for info in known])
    found = [_offered(handle, info, total) for info in known]
    found.sort(key=lambda o: (-o.profile.compute_slices, -o.profile.memory_slices, o.profile.name))
    return tuple(found)


def total_bytes(handle: Any, sizes: Sequence[int]) -> int:
    """Return a GPU's memory; from the catalog if MIG is on and this user may not read it.

    Args:
        sizes: sizes of the GPU's MIG profiles in bytes; the largest is nearly all of the memory.

    Raises:
        NVMLError: the driver refuses for another reason.
    """
    refused = frozenset({int(pynvml.NVML_ERROR_NO_PERMISSION)})
    info = offered(pynvml.nvmlDeviceGetMemoryInfo, handle, also=refused)
    if info is not None:
        return int(info.total)
    largest = max(sizes, default=0)
    spec = HARDWARE.get(hardware_key(text_of(pynvml.nvmlDeviceGetName(handle)), largest))
    return largest if spec is None else spec.memory_bytes


def _offered(handle: Any, info: Any, total: int) -> Offered:
    memory_mib = int(info.memorySizeMB)
    placements = list(_placements(handle, int(info.id)))
    profile = MigProfile(
        name=canonical(text_of(info.name)),
        compute_slices=int(info.sliceCount),
        memory_slices=placements[0][1] if placements else memory_slices_of(memory_mib, total),
        sm_count=int(info.multiprocessorCount),
        memory_bytes=Bytes(memory_mib * MIB),
        max_instances=int(info.instanceCount),
    )
    starts = tuple(sorted(start for start, _ in placements)) or starts_of(profile)
    return Offered(dataclasses.replace(profile, starts=starts), int(info.id), profile.max_instances)


def _placements(handle: Any, profile_id: int) -> Iterator[tuple[int, int]]:
    """Yield starts and sizes; none if this user may not ask, or the driver does not tell."""
    count = ctypes.c_uint(0)
    ask = pynvml.nvmlDeviceGetGpuInstancePossiblePlacements
    try:
        ask(handle, profile_id, None, ctypes.byref(count))
        room = (pynvml.c_nvmlGpuInstancePlacement_t * max(1, count.value))()
        ask(handle, profile_id, room, ctypes.byref(count))
    except pynvml.NVMLError as error:
        if error.value in {pynvml.NVML_ERROR_NO_PERMISSION, *NOT_OFFERED, *UNKNOWN_NUMBER}:
            return
        raise
    for at in range(min(count.value, len(room))):
        yield int(room[at].start), int(room[at].size)
