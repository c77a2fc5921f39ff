"""Asks NVIDIA's driver about GPUs through NVML (`nvidia-ml-py`).

A host without NVIDIA's driver has no GPUs, which is no error. Every other refusal becomes a
`DeviceError` by one table. A value that the driver does not offer is None and is ignored, so all
drivers from 450 on work with the values they offer.
"""

from partitiond.devices.nvml.events import XidWatch
from partitiond.devices.nvml.hardware_names import hardware_key
from partitiond.devices.nvml.library import library_in_use, use_library
from partitiond.devices.nvml.memory import GpuMemory, memory_of, used_bytes
from partitiond.devices.nvml.session import asking, gpu, offered, or_none, session, translate

__all__ = [
    "GpuMemory",
    "XidWatch",
    "asking",
    "gpu",
    "hardware_key",
    "library_in_use",
    "memory_of",
    "offered",
    "or_none",
    "session",
    "translate",
    "use_library",
    "used_bytes",
]
