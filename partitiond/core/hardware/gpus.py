"""Holds the catalog of GPUs, for planning without one at hand.

Speeds are from the vendor's datasheets, dense (without sparsity). Memory is the total that the
driver prints with ECC on, which for GDDR cards is less than what is sold. MIG memory and SMs are
what drivers print for each size; they vary a little with driver and placement.
"""

from typing import Final

from partitiond.core.hardware.kinds import DeviceKind, HardwareSpec, MigProfile, SharingMode
from partitiond.core.units import GIB, MIB, Bytes

_SHARED: Final = (SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS)
_WITH_MIG: Final = (*_SHARED, SharingMode.MIG)

_SIZES: Final = (
    # compute slices, memory slices, most instances; names and memory follow
    ("1g", 1, 1, 7),
    ("1g+me", 1, 1, 1),
    ("1g double", 1, 2, 4),
    ("2g", 2, 2, 3),
    ("3g", 3, 4, 2),
    ("4g", 4, 4, 1),
    ("7g", 7, 8, 1),
)


def _mig(
    names: tuple[str, str, str, str, str, str],
    sms: tuple[int, int, int, int, int, int],
    mib: tuple[int, int, int, int, int, int],
) -> tuple[MigProfile, ...]:
    """Build the seven sizes from names, SMs and MiB of 1g, 1g double, 2g, 3g, 4g and 7g."""
    order = (0, 0, 1, 2, 3, 4, 5)
    return tuple(
        MigProfile(
            name=names[n] + ("+me" if size.endswith("+me") else ""),
            compute_slices=compute,
            memory_slices=memory,
            sm_count=sms[n],
            memory_bytes=Bytes(mib[n] * MIB),
            max_instances=most,
        )
        for (size, compute, memory, most), n in zip(_SIZES, order, strict=True)
    )


_A100_SMS: Final = (14, 14, 28, 42, 56, 98)
_H100_SMS: Final = (16, 26, 32, 60, 64, 132)
_A100_40_MIG: Final = _mig(
    ("1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"),
    _A100_SMS, (4864, 9856, 9856, 19968, 19968, 40192),
)  # fmt: skip
_A100_80_MIG: Final = _mig(
    ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"),
    _A100_SMS, (9728, 19968, 19968, 40192, 40192, 80384),
)  # fmt: skip
_H100_80_MIG: Final = _mig(
    ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"),
    _H100_SMS, (9984, 20096, 20096, 40448, 40448, 81152),
)  # fmt: skip
_H100_94_MIG: Final = _mig(
    ("1g.12gb", "1g.24gb", "2g.24gb", "3g.47gb", "4g.47gb", "7g.94gb"),
    _H100_SMS, (11008, 22144, 22144, 47488, 47488, 95360),
)  # fmt: skip
_H200_MIG: Final = _mig(
    ("1g.18gb", "1g.35gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb"),
    _H100_SMS, (16384, 33024, 33024, 71168, 71168, 143104),
)  # fmt: skip
# 1g and 2g of a B200 are as drivers print them. For the larger sizes no print-out is at hand: SMs
# follow from 1g's 18 by compute slices, memory from 22528 MiB by memory slices.
_B200_MIG: Final = _mig(
    ("1g.23gb", "1g.45gb", "2g.45gb", "3g.90gb", "4g.90gb", "7g.180gb"),
    (18, 30, 36, 54, 72, 148), (20992, 45312, 45312, 90112, 90112, 180224),
)  # fmt: skip


def _gpu(
    key: str,
    *,
    sold: int,
    mib: int,
    sms: int,
    gb_per_s: float,
    tflops: tuple[float, float, float],
    watts: float,
    source: str,
    aliases: tuple[str, ...] = (),
    mig: tuple[MigProfile, ...] = (),
    native_dtype: str = "bfloat16",
) -> HardwareSpec:
    """Build a GPU from GB as sold, MiB as the driver prints, TFLOP/s of 16, 8 and 32 bit."""
    return HardwareSpec(
        key=key,
        kind=DeviceKind.GPU,
        memory_bytes=Bytes(mib * MIB),
        sm_count=sms,
        bandwidth_bytes_per_s=gb_per_s * 1e9,
        flops_16bit=tflops[0] * 1e12,
        modes=_WITH_MIG if mig else _SHARED,
        source=source,
        nominal_bytes=Bytes(sold * GIB),
        flops_8bit=tflops[1] * 1e12,
        flops_32bit=tflops[2] * 1e12,
        native_dtype=native_dtype,
        tdp_watts=watts,
        aliases=aliases,
        mig_profiles=mig,
    )


_GPUS: Final = (
    _gpu("a100-40gb", sold=40, mib=40960, sms=108, gb_per_s=1555, tflops=(312, 0, 19.5), watts=400,
         source="NVIDIA A100 datasheet (SXM4 40GB)",
         aliases=("a100", "a100-40", "a100-sxm-40gb"), mig=_A100_40_MIG),
    _gpu("a100-pcie-40gb", sold=40, mib=40960, sms=108, gb_per_s=1555, tflops=(312, 0, 19.5),
         watts=250, source="NVIDIA A100 40GB PCIe product brief", mig=_A100_40_MIG),
    _gpu("a100-80gb", sold=80, mib=81920, sms=108, gb_per_s=2039, tflops=(312, 0, 19.5), watts=400,
         source="NVIDIA A100 datasheet (SXM4 80GB)",
         aliases=("a100-80", "a100-sxm-80gb"), mig=_A100_80_MIG),
    _gpu("a100-pcie-80gb", sold=80, mib=81920, sms=108, gb_per_s=1935, tflops=(312, 0, 19.5),
         watts=300, source="NVIDIA A100 datasheet (PCIe 80GB)", mig=_A100_80_MIG),
    _gpu("h100-80gb", sold=80, mib=81559, sms=132, gb_per_s=3350, tflops=(989, 1979, 67), watts=700,
         source="NVIDIA H100 datasheet (SXM5)",
         aliases=("h100", "h100-80", "h100-sxm-80gb"), mig=_H100_80_MIG),
    # SMs of its MIG profiles follow from 16 by compute slices, memory is SXM's: none is at hand.
    _gpu("h100-pcie-80gb", sold=80, mib=81559, sms=114, gb_per_s=2000, tflops=(756, 1513, 51),
         watts=350, source="NVIDIA H100 datasheet (PCIe)", aliases=("h100-pcie",),
         mig=_mig(
             ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"),
             (16, 16, 32, 48, 64, 114), (9984, 20096, 20096, 40448, 40448, 81152),
         )),
    _gpu("h100-nvl-94gb", sold=94, mib=95830, sms=132, gb_per_s=3900, tflops=(835, 1671, 60),
         watts=400, source="NVIDIA H100 datasheet (NVL)", aliases=("h100-nvl",), mig=_H100_94_MIG),
    _gpu("h200-141gb", sold=141, mib=143771, sms=132, gb_per_s=4800, tflops=(989, 1979, 67),
         watts=700, source="NVIDIA H200 datasheet (SXM)", aliases=("h200",), mig=_H200_MIG),
    # Of the eight memory stacks 15/16 are enabled: a GPU sold in round figures as 192 GB and 8 TB/s
    # shows 180 GB, and drivers print a bus of 7680 bits at 3996 MHz, twice per clock.
    _gpu("b200-180gb", sold=180, mib=183359, sms=148, gb_per_s=7672, tflops=(2250, 4500, 75),
         watts=1000,
         source="NVIDIA HGX B200 datasheet, per GPU; bandwidth by the driver's bus width and clock "
         "(7680 bits, 3996 MHz), which the datasheet rounds to 8 TB/s",
         aliases=("b200",), mig=_B200_MIG),
    _gpu("l4-24gb", sold=24, mib=23034, sms=58, gb_per_s=300, tflops=(121, 242, 30.3), watts=72,
         source="NVIDIA L4 datasheet", aliases=("l4",)),
    _gpu("l40s-48gb", sold=48, mib=46068, sms=142, gb_per_s=864, tflops=(362, 733, 91.6), watts=350,
         source="NVIDIA L40S datasheet", aliases=("l40s",)),
    # Keys of the six that follow are those that drivers' names give.
    _gpu("l40-48gb", sold=48, mib=46068, sms=142, gb_per_s=864, tflops=(181, 362, 90.5), watts=300,
         source="NVIDIA L40 datasheet", aliases=("l40",)),
    _gpu("l20-48gb", sold=48, mib=46068, sms=92, gb_per_s=864, tflops=(119.5, 239, 59.8), watts=275,
         source="NVIDIA L20 product brief", aliases=("l20",)),
    _gpu("rtx-6000-ada-generation-48gb", sold=48, mib=46068, sms=142, gb_per_s=960,
         tflops=(364, 728, 91.1), watts=300, source="NVIDIA RTX 6000 Ada Generation datasheet",
         aliases=("rtx6000ada", "rtx-6000-ada-48gb")),
    # GeForce multiplies at half rate where sums are kept in 32 bits, as engines keep them; it has
    # no ECC that takes memory.
    _gpu("geforce-rtx-4090-24gb", sold=24, mib=24564, sms=128, gb_per_s=1008,
         tflops=(165, 330, 82.6), watts=450,
         source="NVIDIA Ada GPU architecture whitepaper, appendix A (RTX 4090)",
         aliases=("rtx4090", "4090", "rtx-4090-24gb")),
    _gpu("geforce-rtx-5090-32gb", sold=32, mib=32607, sms=170, gb_per_s=1792,
         tflops=(209.5, 419, 104.8), watts=575,
         source="NVIDIA RTX Blackwell GPU architecture whitepaper (RTX 5090)",
         aliases=("rtx5090", "5090", "rtx-5090-32gb")),
    _gpu("rtx-a6000-48gb", sold=48, mib=46068, sms=84, gb_per_s=768, tflops=(154.8, 0, 38.7),
         watts=300, source="NVIDIA RTX A6000 datasheet",
         aliases=("a6000", "rtx-a6000", "a6000-48gb")),
    # It has four MIG slices of its own; they are not counted, so it is planned whole or shared.
    _gpu("a30-24gb", sold=24, mib=24576, sms=56, gb_per_s=933, tflops=(165, 0, 10.3), watts=165,
         source="NVIDIA A30 datasheet", aliases=("a30",)),
    _gpu("a10-24gb", sold=24, mib=23028, sms=72, gb_per_s=600, tflops=(125, 0, 31.2), watts=150,
         source="NVIDIA A10 datasheet", aliases=("a10",)),
    _gpu("t4-16gb", sold=16, mib=15360, sms=40, gb_per_s=320, tflops=(65, 0, 8.1), watts=70,
         source="NVIDIA T4 datasheet", aliases=("t4",), native_dtype="float16"),
)  # fmt: skip

HARDWARE: Final[dict[str, HardwareSpec]] = {spec.key: spec for spec in _GPUS}
"""Kinds of GPU by key."""
