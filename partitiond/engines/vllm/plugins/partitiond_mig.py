"""Lets vLLM engines in a MIG slice find the GPU that the slice belongs to (a vLLM plugin).

vLLM turns an entry of CUDA_VISIBLE_DEVICES into the driver's index of a GPU. It asks NVML for the
index of the device with that UUID, which for a MIG device is its number inside its GPU. vLLM then
looks up a GPU by that number, and finds another GPU or none. This plugin gives the index of the GPU
that the MIG device belongs to (`device_control_id_to_physical_device_id` of vLLM's
`vllm/platforms/cuda.py`), and the MIG device's own memory in place of its GPU's, which a plain user
may not ask for while MIG is on.

The plugin runs in the engine's Python, where nothing of partitiond is installed: it needs only
vLLM. It is registered twice (entry_points.txt beside it): as a platform plugin, which vLLM loads
before anything asks for a device, and as a general plugin, in case that order changes. It does
nothing for engines on whole GPUs, and nothing the second time.
"""

import importlib
import logging
import os
from typing import Any

MIG = "MIG-"
MARK = "_partitiond_mig"

log = logging.getLogger("vllm.partitiond_mig")


def register() -> None:
    """Mend vLLM's CUDA platform if this engine runs in a MIG slice.

    As a platform plugin it names no platform (None): vLLM goes on to choose its own.
    """
    if not any(name.startswith(MIG) for name in visible()):
        return
    try:
        cuda = importlib.import_module("vllm.platforms.cuda")
    except ImportError as error:  # a build without CUDA has nothing to mend
        log.debug("no CUDA platform: %s", error)
        return
    platform = getattr(cuda, "NvmlCudaPlatform", None)
    if platform is None or MARK in vars(platform):
        return
    if "device_control_id_to_physical_device_id" not in vars(platform):
        log.warning("this vLLM finds GPUs in another way: the MIG slice may not be found")
        return
    mend(platform, cuda.pynvml)
    setattr(platform, MARK, True)
    log.info("MIG slices are looked up by the GPU they are of")


def visible() -> list[str]:
    """Return entries of CUDA_VISIBLE_DEVICES."""
    return [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]


def mend(platform: Any, nvml: Any) -> None:
    """Put the mended methods into the platform's class."""
    index_before = vars(platform)["device_control_id_to_physical_device_id"].__func__
    memory_before = vars(platform)["get_device_total_memory"].__func__

    def device_control_id_to_physical_device_id(cls: Any, device_id: str) -> int:
        if not device_id.strip().startswith(MIG):
            return int(index_before(cls, device_id))
        return parent_index(nvml, device_id.strip())

    def get_device_total_memory(cls: Any, device_id: int = 0) -> int:
        names = visible()
        if device_id >= len(names) or not names[device_id].startswith(MIG):
            return int(memory_before(cls, device_id))
        return memory_bytes(nvml, names[device_id])

    platform.device_control_id_to_physical_device_id = classmethod(
        device_control_id_to_physical_device_id
    )
    platform.get_device_total_memory = classmethod(get_device_total_memory)
    # vLLM keeps earlier answers, which may be those of another GPU.
    kept = getattr(vars(platform).get("get_device_capability"), "__func__", None)
    getattr(kept, "cache_clear", lambda: None)()


def parent_index(nvml: Any, mig_uuid: str) -> int:
    """Return the driver's index of the GPU that a MIG device belongs to."""
    nvml.nvmlInit()
    try:
        device = nvml.nvmlDeviceGetHandleByUUID(mig_uuid)
        parent = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device)
        return int(nvml.nvmlDeviceGetIndex(parent))
    finally:
        nvml.nvmlShutdown()


def memory_bytes(nvml: Any, mig_uuid: str) -> int:
    """Return the memory of a MIG device, in bytes."""
    nvml.nvmlInit()
    try:
        return int(nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(mig_uuid)).total)
    finally:
        nvml.nvmlShutdown()
