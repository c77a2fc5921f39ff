"""Describes CPUs, by assumed figures if nothing was measured, else by the measured ones."""

from typing import Final

from partitiond.core.hardware.kinds import CpuFigures, DeviceKind, HardwareSpec, SharingMode
from partitiond.core.units import Bytes

CPU_FLOPS_PER_CORE: Final = 400e9
"""Dense bfloat16 FLOP/s of a server core with AVX-512: 128 per cycle at about 3 GHz. Arithmetic,
not measured."""

CPU_BANDWIDTH_PER_CORE: Final = 20e9
"""Bytes/s one server core can draw; sockets saturate beyond about ten cores. Assumed."""

CPU_BANDWIDTH_MAX: Final = 200e9
"""Bytes/s of one socket with eight channels of DDR4-3200: arithmetic, 8 x 25.6e9."""

BFLOAT16_GAIN: Final = 2.0
"""A bfloat16 dot product instruction does twice the work of a 32-bit fused multiply-add of the same
width. Assumed."""

EMULATED_SHARE: Final = 0.15
"""Speed of bfloat16 beside 32 bit on a core without such an instruction, which converts number by
number. Chosen: `torch.nn.functional.linear` of 576 x 1,536 weights and 16 to 256 rows reached 12
GFLOP/s on a core with AVX2 whose 32-bit product reaches 90; with AVX-512 and no bfloat16 twice."""


def cpu_hardware(
    key: str, cores: int, memory_bytes: int, native_dtype: str = "bfloat16"
) -> HardwareSpec:
    """Return assumed figures of a CPU with `cores` usable cores; nothing about it was measured."""
    flops_32bit = cores * CPU_FLOPS_PER_CORE / BFLOAT16_GAIN
    return HardwareSpec(
        key=key,
        kind=DeviceKind.CPU,
        memory_bytes=Bytes(memory_bytes),
        sm_count=0,
        bandwidth_bytes_per_s=min(cores * CPU_BANDWIDTH_PER_CORE, CPU_BANDWIDTH_MAX),
        flops_16bit=flops_32bit * _gain(native_dtype),
        modes=(SharingMode.CORES,),
        source="assumed per core: 400 GFLOP/s bfloat16, 20 GB/s up to 200 GB/s per socket",
        flops_32bit=flops_32bit,
        native_dtype=native_dtype,
        cores=cores,
    )


def _gain(native_dtype: str) -> float:
    """Return the speed of bfloat16 beside 32 bit."""
    return BFLOAT16_GAIN if native_dtype == "bfloat16" else EMULATED_SHARE


def measured_cpu(key: str, memory_bytes: int, figures: CpuFigures) -> HardwareSpec:
    """Return the specification of a CPU with measured figures."""
    native = "bfloat16" if figures.bfloat16 else "float32"
    return HardwareSpec(
        key=key,
        kind=DeviceKind.CPU,
        memory_bytes=Bytes(memory_bytes),
        sm_count=0,
        bandwidth_bytes_per_s=figures.all_bytes_per_s,
        flops_16bit=figures.all_flops_32bit * _gain(native),
        modes=(SharingMode.CORES,),
        source=f"measured on this host: {figures.cores} cores, {figures.numa_nodes} NUMA node(s), "
        f"triad {figures.core_bytes_per_s / 1e9:.1f} GB/s on one "
        f"core, {figures.all_bytes_per_s / 1e9:.1f} on {figures.cores}; 32-bit matrix product "
        f"{figures.core_flops_32bit / 1e9:.0f} GFLOP/s per core"
        f", bfloat16 counted {_gain(native):g} times as fast",
        flops_32bit=figures.all_flops_32bit,
        native_dtype=native,
        cpu=figures,
        cores=figures.cores,
    )
