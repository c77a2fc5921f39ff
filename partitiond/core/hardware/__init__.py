"""Defines devices, which can be cut into partitions and run engines, as data."""

from partitiond.core.hardware.cpus import (
    CPU_BANDWIDTH_MAX,
    CPU_BANDWIDTH_PER_CORE,
    CPU_FLOPS_PER_CORE,
    cpu_hardware,
    measured_cpu,
)
from partitiond.core.hardware.details import DeviceDetails, DeviceLink
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import (
    CpuFigures,
    Device,
    DeviceKind,
    ForeignProcess,
    HardwareSpec,
    MigInstance,
    MigProfile,
    SharingMode,
    headroom_bytes,
    short_device,
    silent_device,
)
from partitiond.core.hardware.lookup import find_hardware, hardware_for_key, mig_profile

__all__ = [
    "CPU_BANDWIDTH_MAX",
    "CPU_BANDWIDTH_PER_CORE",
    "CPU_FLOPS_PER_CORE",
    "HARDWARE",
    "CpuFigures",
    "Device",
    "DeviceDetails",
    "DeviceKind",
    "DeviceLink",
    "ForeignProcess",
    "HardwareSpec",
    "MigInstance",
    "MigProfile",
    "SharingMode",
    "cpu_hardware",
    "find_hardware",
    "hardware_for_key",
    "headroom_bytes",
    "measured_cpu",
    "mig_profile",
    "short_device",
    "silent_device",
]
