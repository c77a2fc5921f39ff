"""Reads the memory of a GPU: total, used, and reserved by the driver."""

import dataclasses
import re
from typing import Any

import pynvml

from partitiond.core.units import GIB
from partitiond.devices.nvml.session import gpu, offered

_NO_RIGHT = frozenset({pynvml.NVML_ERROR_NO_PERMISSION})


@dataclasses.dataclass(frozen=True, slots=True)
class GpuMemory:
    """Memory of a GPU in bytes.

    Attributes:
        used_bytes: used by any process, without what the driver reserves.
    """

    total_bytes: int
    used_bytes: int
    reserved_bytes: int


def memory_of(handle: Any, name: str) -> GpuMemory:
    """Return the memory of a GPU. Drivers before 510 do not report what they reserve.

    With MIG on, querying the whole GPU takes a right. Without that right the total is taken from
    the name; the memory of the instances is then what counts.

    Raises:
        NVMLError: the driver refuses.
    """
    info = offered(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2, also=_NO_RIGHT)
    if info is not None:
        reserved, total = int(info.reserved), int(info.total)
        return GpuMemory(total, max(0, total - int(info.free) - reserved), reserved)
    info = offered(pynvml.nvmlDeviceGetMemoryInfo, handle, also=_NO_RIGHT)
    if info is not None:
        total = int(info.total)
        return GpuMemory(total, max(0, total - int(info.free)), 0)
    size = re.search(r"(\d{1,5})\s?GB\b", name)
    if size is None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
    return GpuMemory(int(size[1]) * GIB, 0, 0)


def used_bytes(uuid: str) -> int:
    """Return the memory in use on a GPU now, in bytes, without what the driver reserves.

    Raises:
        DeviceError: the driver refuses, or there is no such GPU.
    """
    with gpu(uuid, f"tell the memory of {uuid}") as handle:
        return memory_of(handle, "").used_bytes
