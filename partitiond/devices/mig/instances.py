"""Does one step on a GPU. Doing a step that is done already changes nothing."""

import ctypes
from typing import Any

import pynvml

from partitiond.core.errors import DeviceError
from partitiond.core.mig.changes import (
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyComputeInstance,
    DestroyGpuInstance,
    Step,
    place_text,
    step_text,
)
from partitiond.core.mig.geometry import Place
from partitiond.devices.mig.profiles import Offered, sizes_of
from partitiond.devices.mig.reading import compute_instances, compute_sizes, gpu_instances
from partitiond.devices.mig.refusals import asking
from partitiond.devices.nvml.session import gpu


def perform(uuid: str, step: Step) -> None:
    """Do one step.

    Raises:
        DeviceError: the driver refuses; its code is the fact "nvml_code".
    """
    what = f"{step_text(step)} on {uuid}"
    with asking(what), gpu(uuid, what) as handle:
        match step:
            case CreateGpuInstance(place=place):
                _create_gpu_instance(handle, place)
            case DestroyGpuInstance(place=place):
                for instance in _at(handle, place):
                    pynvml.nvmlGpuInstanceDestroy(instance)
            case CreateComputeInstance(place=place):
                _create_compute_instance(handle, uuid, place)
            case DestroyComputeInstance(place=place):
                for instance in _at(handle, place):
                    for compute, _ in compute_instances(instance):
                        pynvml.nvmlComputeInstanceDestroy(compute)


def _create_gpu_instance(handle: Any, place: Place) -> None:
    if _at(handle, place):
        return
    size = _size(handle, place)
    where = pynvml.c_nvmlGpuInstancePlacement_t(place[1], place[2])
    pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(handle, size.profile_id, ctypes.byref(where))


def _create_compute_instance(handle: Any, uuid: str, place: Place) -> None:
    found = _at(handle, place)
    if not found:
        raise DeviceError(
            f"there is no GPU instance {place_text(place)} on {uuid}.",
            hint="Somebody destroyed it meanwhile: look with `nvidia-smi mig -lgi`.",
        )
    if compute_instances(found[0]):
        return
    slices = _size(handle, place).profile.compute_slices
    whole = [info for info in compute_sizes(found[0]) if int(info.sliceCount) == slices]
    if not whole:
        raise DeviceError(
            f"the driver offers no compute instance of {slices} slices in {place_text(place)}.",
            hint="Check the GPU with `nvidia-smi mig -lcip`.",
        )
    pynvml.nvmlGpuInstanceCreateComputeInstance(found[0], int(whole[0].id))


def _size(handle: Any, place: Place) -> Offered:
    """Return the MIG profile of a place. Raises DeviceError if the GPU does not offer it."""
    sizes = sizes_of(handle)
    for size in sizes:
        if size.profile.name == place[0]:
            return size
    offered = ", ".join(size.profile.name for size in sizes)
    raise DeviceError(
        f"the GPU offers no MIG profile {place[0]}.",
        hint=f"It offers {offered}." if offered else "It offers none.",
        facts={"mig_profile": place[0]},
    )


def _at(handle: Any, place: Place) -> list[Any]:
    """Return the GPU instance at exactly this place, if there is one."""
    found = []
    for size in sizes_of(handle):
        if size.profile.name != place[0]:
            continue
        for instance in gpu_instances(handle, size):
            placement = pynvml.nvmlGpuInstanceGetInfo(instance).placement
            if (int(placement.start), int(placement.size)) == place[1:]:
                found.append(instance)
    return found
