"""Simulates a GPU host: NVML and CUDA as real C libraries over one shared file.

A host is a folder. `lib/libnvidia-ml.so.1` and `lib/libcuda.so.1` are loaded in place of the
driver's own libraries. Each finds the host's `state` next to itself, so a daemon, its engines, a
test that injects faults and an operator's `nvidia-smi`-like script all see the same GPUs. Memory
belongs to processes: once a process is gone, however it ended, its memory is free again, as with a
driver. Calls refuse what the driver refuses, with the driver's codes.
"""

from partitiond.simulated.gpus.description import (
    GpuDescription,
    HostDescription,
    shipped_descriptions,
)
from partitiond.simulated.gpus.host import KillPoint, SimulatedHost

__all__ = [
    "GpuDescription",
    "HostDescription",
    "KillPoint",
    "SimulatedHost",
    "shipped_descriptions",
]
