"""Describes CPUs by assumed figures: nothing about a CPU is measured but the models on it."""

from typing import Final

from partitiond.core.hardware.kinds import DeviceKind, HardwareSpec, SharingMode
from partitiond.core.units import Bytes

AVX512_FLOPS: Final = 200e9
"""Dense 32-bit FLOP/s of a server core with AVX-512: 64 per cycle at about 3 GHz. Arithmetic, not
measured."""

AVX2_FLOPS: Final = 100e9
"""The same with vectors half as wide; 70 to 90 were measured on cores of an EPYC."""

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
    """Return assumed figures of a CPU with `cores` usable cores; nothing about it was measured.

    Cores that compute bfloat16 in hardware are assumed to have AVX-512, and others AVX2.
    """
    native = native_dtype == "bfloat16"
    core_flops = AVX512_FLOPS if native else AVX2_FLOPS
    core_flops_16bit = core_flops * (BFLOAT16_GAIN if native else EMULATED_SHARE)
    return HardwareSpec(
        key=key,
        kind=DeviceKind.CPU,
        memory_bytes=Bytes(memory_bytes),
        sm_count=0,
        bandwidth_bytes_per_s=min(cores * CPU_BANDWIDTH_PER_CORE, CPU_BANDWIDTH_MAX),
        flops_16bit=cores * core_flops_16bit,
        modes=(SharingMode.CORES,),
        source=f"assumed per core: {core_flops / 1e9:.0f} GFLOP/s in 32 bit and "
        f"{core_flops_16bit / 1e9:.0f} in bfloat16, 20 GB/s up to 200 GB/s per socket",
        flops_32bit=cores * core_flops,
        native_dtype=native_dtype,
        cores=cores,
    )
