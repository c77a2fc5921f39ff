"""Makes MIG calls for tests, by MIG profile names."""

import ctypes
from typing import Any

import pynvml

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.simulated.gpus import SimulatedHost

MODEL = "a100-80gb"
IDS = {"1g.10gb": 19, "1g.10gb+me": 20, "1g.20gb": 15, "2g.20gb": 14, "3g.40gb": 9, "4g.40gb": 5,
       "7g.80gb": 0}  # fmt: skip
PROFILES = {profile.name: profile for profile in HARDWARE[MODEL].mig_profiles}


def gpu_of(host: SimulatedHost, index: int = 0) -> Any:
    return pynvml.nvmlDeviceGetHandleByUUID(host.uuids()[index])


def create(gpu: Any, name: str, start: int) -> Any:
    size = PROFILES[name].memory_slices
    place = pynvml.c_nvmlGpuInstancePlacement_t(start, size)
    return pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(gpu, IDS[name], ctypes.byref(place))
