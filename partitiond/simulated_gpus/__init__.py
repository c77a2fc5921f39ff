"""A GPU host that is not there: NVML and CUDA as real C libraries over one shared file.

A host is a folder. `lib/libnvidia-ml.so.1` and `lib/libcuda.so.1` are loaded in the place of the
driver's own libraries; each finds the host's `state` beside itself, so that a daemon, its engines,
a test that breaks things and an operator's `nvidia-smi`-like script all see the same GPUs. What
holds memory is a process: once it is gone, however it ended, its memory is free again, as with a
driver. Calls refuse what the driver refuses, with its codes.
"""

from partitiond.simulated_gpus.description import (
    GpuDescription,
    HostDescription,
    shipped_descriptions,
)
from partitiond.simulated_gpus.host import Die, SimulatedHost

__all__ = ["Die", "GpuDescription", "HostDescription", "SimulatedHost", "shipped_descriptions"]
