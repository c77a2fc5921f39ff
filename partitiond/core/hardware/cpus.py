"""Describes CPUs, by assumed figures if nothing was measured, else by the measured ones."""

from typing import Final

from partitiond.core.hardware.kinds import CpuFigures, DeviceKind, HardwareSpec, SharingMode
from partitiond.core.units import Bytes

CPU_FLOPS_PER_CORE: Final = 400e9
"""Dense bfloat16 FLOP/s of a server core with AVX-512: 128 per cycle at about 3 GHz. A core
without bfloat16 instructions is several times slower: measure it. Arithmetic, not measured."""

CPU_BANDWIDTH_PER_CORE: Final = 20e9
"""Bytes/s one server core can draw; sockets saturate beyond about ten cores. Assumed."""

CPU_BANDWIDTH_MAX: Final = 200e9
"""Bytes/s of one socket with eight channels of DDR4-3200: arithmetic, 8 x 25.6e9."""

BFLOAT16_GAIN: Final = 2.0
"""A bfloat16 dot product instruction does twice the work of a 32-bit fused multiply-add of the same
width; without one, engines convert to 32 bit and gain nothing. Assumed."""


def cpu_hardware(key: str, cores: int, memory_bytes: int) -> HardwareSpec:
    """Return assumed figures of a CPU with `cores` usable cores; nothing about it was measured."""
    return HardwareSpec(
        key=key,
        kind=DeviceKind.CPU,
        memory_bytes=Bytes(memory_bytes),
        sm_count=0,
        bandwidth_bytes_per_s=min(cores * CPU_BANDWIDTH_PER_CORE, CPU_BANDWIDTH_MAX),
        flops_16bit=cores * CPU_FLOPS_PER_CORE,
        modes=(SharingMode.CORES,),
        source="assumed per core: 400 GFLOP/s bfloat16, 20 GB/s up to 200 GB/s per socket",
        flops_32bit=cores * CPU_FLOPS_PER_CORE / BFLOAT16_GAIN,
        cores=cores,
    )


def measured_cpu(key: str, memory_bytes: int, figures: CpuFigures) -> HardwareSpec:
    """Return the specification of a CPU with measured figures."""
    gain = BFLOAT16_GAIN if figures.bfloat16 else 1.0
    return HardwareSpec(
        key=key,
        kind=DeviceKind.CPU,
        memory_bytes=Bytes(memory_bytes),
        sm_count=0,
        bandwidth_bytes_per_s=figures.all_bytes_per_s,
        flops_16bit=figures.all_flops_32bit * gain,
        modes=(SharingMode.CORES,),
        source=f"measured on this host: {figures.cores} cores, {figures.numa_nodes} NUMA node(s), "
        f"triad {figures.core_bytes_per_s / 1e9:.1f} GB/s on one "
        f"core, {figures.all_bytes_per_s / 1e9:.1f} on {figures.cores}; 32-bit matrix product "
        f"{figures.core_flops_32bit / 1e9:.0f} GFLOP/s per core"
        + (", bfloat16 counted twice as fast" if figures.bfloat16 else ", no bfloat16"),
        flops_32bit=figures.all_flops_32bit,
        cpu=figures,
        cores=figures.cores,
    )
