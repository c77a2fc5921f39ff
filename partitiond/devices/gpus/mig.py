"""Reads for discovery a GPU's MIG mode and instances, and whether they may be changed."""

import dataclasses
import logging
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

import pynvml

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import MigInstance, MigProfile, short_device
from partitiond.core.mig.geometry import Place, covered_slices, place_of
from partitiond.core.mig.names import PLANNED_ATTRIBUTES, read_name
from partitiond.devices.mig.client import MigHelper
from partitiond.devices.mig.reading import read_state
from partitiond.devices.nvml.session import NOT_OFFERED, offered, or_none

log = logging.getLogger(__name__)


CONFIG_RIGHT: Final = Path("/proc/driver/nvidia/capabilities/mig/config")
"""A process that can read this file may manage GPU instances."""


@dataclasses.dataclass(frozen=True, slots=True)
class MigReading:
    """The MIG instances and profiles of a GPU.

    Attributes:
        readable: whether the driver told them; if not, nothing can be planned on the GPU.
        profiles: MIG profiles that the driver lists and plans use; empty if they are the catalog's.
    """

    readable: bool
    instances: tuple[MigInstance, ...] = ()
    profiles: tuple[MigProfile, ...] = ()


def mig_mode(handle: Any) -> tuple[bool, bool] | None:
    """Whether MIG is on now, and after the next reset; None if the GPU has no MIG.

    Raises:
        NVMLError: the driver refuses.
    """
    found = offered(pynvml.nvmlDeviceGetMigMode, handle)
    if found is None:
        return None
    current, pending = (mode == pynvml.NVML_DEVICE_MIG_ENABLE for mode in found)
    return current, pending


def read_mig(
    uuid: str, hardware: str, helper: Path | None, is_foreign: Callable[[int], bool]
) -> MigReading:
    """Return a GPU's instances and profiles; the helper tells places that this user may not read.

    Args:
        hardware: catalog key.
        helper: socket of the privileged MIG helper.
        is_foreign: whether a process counts as foreign.
    """
    asked = MigHelper(helper) if helper is not None and _reachable(helper) else None
    try:
        state = read_state(uuid, asked.read_placed if asked is not None else None)
    except DeviceError as error:
        log.warning("the MIG geometry of %s cannot be read: %s", short_device(uuid), error)
        return MigReading(readable=False)
    instances = tuple(
        MigInstance(
            *found.place,
            memory_bytes=found.memory_bytes,
            uuid=found.uuid,
            busy=any(is_foreign(pid) for pid in found.pids),
        )
        for found in state.instances
    )
    return MigReading(True, instances, _planned(state.profiles, hardware))


def _planned(profiles: Sequence[MigProfile], hardware: str) -> tuple[MigProfile, ...]:
    """Return the MIG profiles that plans use; none if the catalog has the same."""
    names = ((profile, read_name(profile.name)) for profile in profiles)
    used = tuple(p for p, name in names if name and name.attributes in PLANNED_ATTRIBUTES)
    known = HARDWARE[hardware].mig_profiles if hardware in HARDWARE else ()
    sizes = {(p.name, p.memory_bytes, p.sm_count) for p in used}
    return () if sizes == {(p.name, p.memory_bytes, p.sm_count) for p in known} else used


def occupied_slices(
    instances: Sequence[MigInstance], own: Collection[Place] | None = None
) -> tuple[int, ...]:
    """Return memory slices under instances that are not ours: usable, but never destroyed.

    Args:
        own: places of our instances; if None, only instances in use by foreign processes count.
    """
    theirs = [i for i in instances if i.busy or (own is not None and place_of(i) not in own)]
    return tuple(sorted(covered_slices(tuple(place_of(i) for i in theirs))))


def may_change_instances(handle: Any, helper: Path | None) -> bool:
    """Whether GPU instances can be made here: by this user, or by the privileged helper.

    The driver tells the possible places of an instance only to users that may make one.
    """
    if helper is not None and _reachable(helper):
        return True
    for number in range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
        info = or_none(pynvml.nvmlDeviceGetGpuInstanceProfileInfo, handle, number, 2)
        if info is None:
            continue
        count = pynvml.c_uint(0)
        try:
            pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(
                handle, info.id, None, pynvml.byref(count)
            )
        except pynvml.NVMLError as error:
            if error.value in NOT_OFFERED:  # old drivers: check the right itself
                return os.access(CONFIG_RIGHT, os.R_OK)
            # The driver reports a too small buffer only after it has checked the right.
            return bool(error.value == pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
        return True
    return False


def _reachable(socket: Path) -> bool:
    return socket.is_socket() and os.access(socket, os.W_OK)
