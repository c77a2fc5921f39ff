"""Devices: what can be cut into partitions and run engines, as data."""

import dataclasses
import enum
from typing import Final

from partitiond.core.units import GIB, MIB, ZERO_BYTES, Bytes


class DeviceKind(enum.StrEnum):
    """NVIDIA GPU, or the host's CPU."""

    GPU = "gpu"
    CPU = "cpu"


class SharingMode(enum.StrEnum):
    """How replicas share one device; one mode per device at a time."""

    WHOLE = "whole"
    MEMORY = "memory"
    """Memory shares; compute is time-sliced by the driver."""
    MPS = "mps"
    MIG = "mig"
    CORES = "cores"


@dataclasses.dataclass(frozen=True, slots=True)
class HardwareSpec:
    """A kind of device, for planning without one.

    Attributes:
        key: catalog name, as "a100-80gb".
        memory_bytes: nominal device memory.
        sm_count: streaming multiprocessors (0 on a CPU).
        bandwidth_bytes_per_s: memory bandwidth.
        flops_16bit: dense 16-bit floating-point operations per second.
        modes: sharing modes it allows.
        source: where the numbers come from.
    """

    key: str
    kind: DeviceKind
    memory_bytes: Bytes
    sm_count: int
    bandwidth_bytes_per_s: float
    flops_16bit: float
    modes: tuple[SharingMode, ...]
    source: str


_GPU_SHARED: Final = (SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS)
_GPU_MIG: Final = (*_GPU_SHARED, SharingMode.MIG)

HARDWARE: Final[dict[str, HardwareSpec]] = {
    spec.key: spec
    for spec in (
        HardwareSpec(
            "a100-40gb", DeviceKind.GPU, Bytes(40 * GIB), 108, 1555e9, 312e12, _GPU_MIG,
            "NVIDIA A100 datasheet (SXM4 40GB)",
        ),
        HardwareSpec(
            "a100-80gb", DeviceKind.GPU, Bytes(80 * GIB), 108, 2039e9, 312e12, _GPU_MIG,
            "NVIDIA A100 datasheet (SXM4 80GB)",
        ),
        HardwareSpec(
            "h100-80gb", DeviceKind.GPU, Bytes(80 * GIB), 132, 3350e9, 989e12, _GPU_MIG,
            "NVIDIA H100 datasheet (SXM5)",
        ),
        HardwareSpec(
            "h200-141gb", DeviceKind.GPU, Bytes(140 * GIB), 132, 4800e9, 989e12, _GPU_MIG,
            "NVIDIA H200 datasheet (SXM)",
        ),
        HardwareSpec(
            "l4-24gb", DeviceKind.GPU, Bytes(22 * GIB), 58, 300e9, 121e12, _GPU_SHARED,
            "NVIDIA L4 datasheet",
        ),
        HardwareSpec(
            "l40s-48gb", DeviceKind.GPU, Bytes(44 * GIB), 142, 864e9, 362e12, _GPU_SHARED,
            "NVIDIA L40S datasheet",
        ),
    )
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Device:
    """One device of one host, as observed or as described in a fleet file.

    Attributes:
        id: stable and unique: GPU UUID, "cpu", or the fleet file's "a100-80gb-3".
        kind: gpu or cpu.
        hardware: catalog key ("a100-80gb"), or for a CPU a key made of its model and cores;
            profiles are valid for one hardware key.
        name: what the vendor calls it.
        host: host name.
        memory_bytes: total memory.
        free_bytes: memory free of foreign processes when observed.
        cores: host cores usable for engines of this device, by index, sorted.
        sm_count: 0 on a CPU.
        modes: sharing modes allowed here.
        reserved_bytes: memory the driver or the operating system keeps.
        price_per_hour: in the currency of the user's file; 1.0 where none is given.
        driver: driver version, or kernel version on a CPU.
    """

    id: str
    kind: DeviceKind
    hardware: str
    name: str
    host: str
    memory_bytes: Bytes
    free_bytes: Bytes
    cores: tuple[int, ...]
    sm_count: int = 0
    modes: tuple[SharingMode, ...] = (SharingMode.WHOLE,)
    reserved_bytes: Bytes = ZERO_BYTES
    price_per_hour: float = 1.0
    driver: str = ""


def headroom_bytes(total_bytes: int) -> int:
    """Memory left free on purpose on a device: max(512 MiB, 3 %)."""
    return max(512 * MIB, -(-total_bytes * 3 // 100))
