"""Reads the MIG state of a GPU.

The driver tells the places of instances only to a privileged user. It tells every user which MIG
devices there are, with size, memory, UUID and processes; this is enough to use a geometry as it is.
So if neither the driver nor the helper tells the places, this module makes them up: an arrangement
that fits, the same one every time as long as the instances are the same.
"""

import collections
import ctypes
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pynvml

from partitiond.core.hardware.kinds import MigProfile
from partitiond.core.mig.changes import MigLayout, PresentInstance
from partitiond.core.mig.geometry import Geometry, Place, geometry_from, geometry_of
from partitiond.core.mig.names import canonical, read_name
from partitiond.core.numbers.grouping import by_key
from partitiond.core.units import MIB, ZERO_BYTES, Bytes
from partitiond.devices.mig.profiles import UNKNOWN_NUMBER, Offered, sizes_of, total_bytes
from partitiond.devices.mig.refusals import asking
from partitiond.devices.nvml.hardware_names import hardware_key
from partitiond.devices.nvml.processes import processes_on
from partitiond.devices.nvml.session import gpu, offered, text_of

_GONE: Final = frozenset({pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_INVALID_ARGUMENT})
COMPUTE_ENUMS: Final = range(0x10)
"""Numbers by which NVML is asked for profiles of compute instances; it knows 9."""


@dataclasses.dataclass(frozen=True, slots=True)
class Placed:
    """A GPU instance as a privileged user sees it.

    Attributes:
        gi_id: the driver's number of the GPU instance.
        compute_instances: number of compute instances in it.
        whole: whether it holds one compute instance with all of its compute slices.
    """

    gi_id: int
    place: Place
    compute_instances: int
    whole: bool


@dataclasses.dataclass(frozen=True, slots=True)
class _MigDevice:
    """A compute instance as any user sees it."""

    gi_id: int
    profile: str
    whole: bool
    uuid: str
    memory_bytes: Bytes
    pids: tuple[int, ...]


Ask = Callable[[str], Sequence[Placed]]
"""Asks a privileged process for the instances of a GPU, by its UUID. Raises DeviceError."""


def read_state(uuid: str, ask: Ask | None = None) -> MigLayout:
    """Return the MIG state of one GPU.

    Args:
        uuid: UUID of the GPU.
        ask: asked for the places if this user may not read them; None to make them up.

    Raises:
        DeviceError: the driver refuses, or there is no such GPU.
    """
    what = f"tell the MIG geometry of {uuid}"
    with asking(what), gpu(uuid, what) as handle:
        mode = offered(pynvml.nvmlDeviceGetMigMode, handle)
        if mode is None:
            return MigLayout(capable=False, enabled=False, pending=False)
        enabled, pending = (bool(m == pynvml.NVML_DEVICE_MIG_ENABLE) for m in mode)
        sizes = sizes_of(handle)
        profiles = tuple(size.profile for size in sizes)
        if not enabled:
            # If a driver lists no profiles while MIG is off, use the catalog's.
            profiles = profiles or _geometry(handle, profiles).profiles
            return MigLayout(True, enabled, pending, profiles)
        devices = list(_mig_devices(handle, profiles))
        geometry = _geometry(handle, profiles)
        placed = _placed_or_none(handle, sizes)
    told = placed is not None or ask is not None
    if placed is None:
        placed = list(ask(uuid)) if ask is not None else _made_up(geometry, devices)
    return MigLayout(True, enabled, pending, profiles, tuple(_merge(placed, devices)), placed=told)


def read_placed(uuid: str) -> tuple[Placed, ...]:
    """Return the placed instances of a GPU. Raises DeviceError, also if this user may not ask."""
    what = f"list the GPU instances of {uuid}"
    with asking(what), gpu(uuid, what) as handle:
        return tuple(placed_instances(handle, sizes_of(handle)))


def placed_instances(handle: Any, sizes: Sequence[Offered]) -> Iterator[Placed]:
    """Yield all GPU instances, by profile. Raises NVMLError."""
    seen: set[int] = set()
    for size in sizes:
        for instance in gpu_instances(handle, size):
            info = pynvml.nvmlGpuInstanceGetInfo(instance)
            if int(info.id) in seen:
                continue
            seen.add(int(info.id))
            computes = [slices for _, slices in compute_instances(instance)]
            yield Placed(
                gi_id=int(info.id),
                place=(size.profile.name, int(info.placement.start), int(info.placement.size)),
                compute_instances=len(computes),
                whole=computes == [size.profile.compute_slices],
            )


def gpu_instances(handle: Any, size: Offered) -> list[Any]:
    """Return handles of the GPU instances of one profile. Raises NVMLError."""
    room = (pynvml.c_nvmlGpuInstance_t * max(1, size.most))()
    count = ctypes.c_uint(len(room))
    pynvml.nvmlDeviceGetGpuInstances(handle, size.profile_id, room, ctypes.byref(count))
    return [room[at] for at in range(min(count.value, len(room)))]


def compute_sizes(instance: Any) -> list[Any]:
    """Return NVML's records of compute instance profiles in a GPU instance. Raises NVMLError."""
    ask = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo
    shared = pynvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
    listed = [
        offered(ask, instance, number, shared, 2, also=UNKNOWN_NUMBER) for number in COMPUTE_ENUMS
    ]
    return [info for info in listed if info is not None]


def compute_instances(instance: Any) -> list[tuple[Any, int]]:
    """Return compute instances in a GPU instance, each with its slices. Raises NVMLError."""
    found: dict[int, tuple[Any, int]] = {}
    for info in compute_sizes(instance):
        room = (pynvml.c_nvmlComputeInstance_t * max(1, int(info.instanceCount)))()
        count = ctypes.c_uint(len(room))
        pynvml.nvmlGpuInstanceGetComputeInstances(instance, int(info.id), room, ctypes.byref(count))
        for at in range(min(count.value, len(room))):
            number = int(pynvml.nvmlComputeInstanceGetInfo(room[at]).id)
            found[number] = (room[at], int(info.sliceCount))
    return list(found.values())


def _placed_or_none(handle: Any, sizes: Sequence[Offered]) -> list[Placed] | None:
    try:
        return list(placed_instances(handle, sizes))
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_NO_PERMISSION:
            return None
        raise


def _mig_devices(handle: Any, profiles: Sequence[MigProfile]) -> Iterator[_MigDevice]:
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            found = _mig_device(device, profiles)
        except pynvml.NVMLError as error:
            # Numbers may have gaps, and a device may disappear during the query.
            if error.value in _GONE:
                continue
            raise
        yield found


def _mig_device(device: Any, profiles: Sequence[MigProfile]) -> _MigDevice:
    attributes = pynvml.nvmlDeviceGetAttributes_v2(device)
    slices = int(attributes.gpuInstanceSliceCount)
    return _MigDevice(
        gi_id=int(pynvml.nvmlDeviceGetGpuInstanceId(device)),
        profile=_profile_name(device, attributes, profiles),
        whole=int(attributes.computeInstanceSliceCount) == slices,
        uuid=text_of(pynvml.nvmlDeviceGetUUID(device)),
        memory_bytes=_memory_bytes(device, attributes),
        pids=_pids(device),
    )


def _profile_name(device: Any, attributes: Any, profiles: Sequence[MigProfile]) -> str:
    """Return the profile in a name ("NVIDIA A100-SXM4-80GB MIG 2g.20gb"), or the likeliest one."""
    told = text_of(offered(pynvml.nvmlDeviceGetName, device) or "")
    named = read_name(told.rpartition(" ")[2])
    if named is not None and "MIG" in told:
        return canonical(dataclasses.replace(named, compute=0).text)
    media = bool(attributes.sharedJpegCount or attributes.sharedOfaCount)
    likely = [p for p in profiles if p.compute_slices == int(attributes.gpuInstanceSliceCount)]
    likely.sort(
        key=lambda p: (
            abs(p.memory_bytes - int(attributes.memorySizeMB) * MIB),
            (p.name.endswith("+me") != (media and p.compute_slices == 1)),
        )
    )
    return likely[0].name if likely else ""


def _memory_bytes(device: Any, attributes: Any) -> Bytes:
    """Return an instance's own memory; it varies with driver and placement."""
    info = offered(pynvml.nvmlDeviceGetMemoryInfo, device)
    return Bytes(int(info.total) if info is not None else int(attributes.memorySizeMB) * MIB)


def _pids(device: Any) -> tuple[int, ...]:
    """Return pids on a device; none if the driver does not tell them to this user."""
    return tuple(sorted({process.pid for process in processes_on(device)}))


def _merge(placed: Sequence[Placed], devices: Sequence[_MigDevice]) -> list[PresentInstance]:
    """Combine placed instances with the data of their MIG devices."""
    inside = by_key((device.gi_id, device) for device in devices)
    found = []
    for instance in placed:
        mine = inside[instance.gi_id]
        pids = tuple(sorted({pid for device in mine for pid in device.pids}))
        found.append(
            PresentInstance(
                place=instance.place,
                compute_instances=instance.compute_instances,
                whole=instance.whole,
                busy=bool(pids),
                gi_id=instance.gi_id,
                uuid=mine[0].uuid if instance.whole and len(mine) == 1 else "",
                memory_bytes=mine[0].memory_bytes if mine else ZERO_BYTES,
                pids=pids,
            )
        )
    return sorted(found, key=lambda i: i.place[1])


def _geometry(handle: Any, profiles: tuple[MigProfile, ...]) -> Geometry:
    """Return the geometry for made-up places: the catalog's for a known GPU, as in discovery."""
    name = text_of(pynvml.nvmlDeviceGetName(handle))
    total = total_bytes(handle, [profile.memory_bytes for profile in profiles])
    return geometry_of(hardware_key(name, total)) or geometry_from(profiles)


def _made_up(geometry: Geometry, devices: Sequence[_MigDevice]) -> list[Placed]:
    """Make up places that fit, if the true ones are unknown: the same for the same instances."""
    inside = by_key((device.gi_id, device) for device in devices)
    left = geometry.places(collections.Counter(mine[0].profile for mine in inside.values())) or []
    found = []
    for gi_id, mine in sorted(inside.items()):
        place = next((p for p in left if p[0] == mine[0].profile), None)
        if place is None:  # an unknown profile cannot be used
            continue
        left.remove(place)
        found.append(Placed(gi_id, place, len(mine), len(mine) == 1 and mine[0].whole))
    return found
