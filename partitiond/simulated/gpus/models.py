"""Defines what a driver tells about each GPU model beyond the hardware catalog.

Sources: NVIDIA's datasheets and the CUDA and MIG user guides; PCI ids as in the public PCI id
database; reserved memory as `nvidia-smi -q` prints it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import MigProfile
from partitiond.core.mig.geometry import starts_of
from partitiond.core.units import MIB


@dataclasses.dataclass(frozen=True, slots=True)
class GpuModel:
    """A GPU model.

    Attributes:
        name: name as the driver prints it.
        capability: CUDA compute capability.
        architecture: NVML's number.
        pci_device_id: PCI ids of device and vendor.
        reserved_mib: memory that the driver keeps.
        context_mib: memory of one CUDA context.
        gpm: whether the GPU has GPU performance metrics.
        engines: copy, decoder, JPEG and optical-flow engines per MIG profile, in the catalog's
            order.
    """

    name: str
    capability: tuple[int, int]
    architecture: int
    pci_device_id: int
    reserved_mib: int = 600
    context_mib: int = 448
    gpm: bool = False
    engines: tuple[tuple[int, int, int, int], ...] = ()


_A100_ENGINES: Final = (
    (1, 0, 0, 0), (1, 1, 1, 1), (1, 1, 0, 0), (2, 1, 0, 0), (3, 2, 0, 0), (4, 2, 0, 0),
    (7, 5, 1, 1),
)  # fmt: skip
_H100_ENGINES: Final = (
    (1, 1, 1, 0), (1, 1, 1, 1), (1, 1, 1, 0), (2, 2, 2, 0), (3, 3, 3, 0), (4, 4, 4, 0),
    (8, 7, 7, 1),
)  # fmt: skip


def _a100(name: str, pci: int) -> GpuModel:
    return GpuModel(name, (8, 0), 7, pci, engines=_A100_ENGINES)


def _hopper(name: str, pci: int) -> GpuModel:
    return GpuModel(name, (9, 0), 9, pci, context_mib=528, gpm=True, engines=_H100_ENGINES)


MODELS: Final[Mapping[str, GpuModel]] = {
    "a100-40gb": _a100("NVIDIA A100-SXM4-40GB", 0x20B010DE),
    "a100-pcie-40gb": _a100("NVIDIA A100-PCIE-40GB", 0x20F110DE),
    "a100-80gb": _a100("NVIDIA A100-SXM4-80GB", 0x20B210DE),
    "a100-pcie-80gb": _a100("NVIDIA A100 80GB PCIe", 0x20B510DE),
    "h100-80gb": _hopper("NVIDIA H100 80GB HBM3", 0x233010DE),
    "h100-pcie-80gb": _hopper("NVIDIA H100 PCIe", 0x233110DE),
    "h100-nvl-94gb": _hopper("NVIDIA H100 NVL", 0x232110DE),
    "h200-141gb": _hopper("NVIDIA H200", 0x233510DE),
    "b200-180gb": GpuModel(
        "NVIDIA B200", (10, 0), 10, 0x290110DE, context_mib=560, gpm=True,
        engines=_H100_ENGINES,
    ),
    "l4-24gb": GpuModel("NVIDIA L4", (8, 9), 8, 0x27B810DE, reserved_mib=384),
    "l40s-48gb": GpuModel("NVIDIA L40S", (8, 9), 8, 0x26B910DE, reserved_mib=512),
    "l40-48gb": GpuModel("NVIDIA L40", (8, 9), 8, 0x26B510DE, reserved_mib=512),
    "l20-48gb": GpuModel("NVIDIA L20", (8, 9), 8, 0x26BA10DE, reserved_mib=512),
    "rtx-6000-ada-generation-48gb": GpuModel(
        "NVIDIA RTX 6000 Ada Generation", (8, 9), 8, 0x26B110DE, reserved_mib=512
    ),
    "geforce-rtx-4090-24gb": GpuModel(
        "NVIDIA GeForce RTX 4090", (8, 9), 8, 0x268410DE, reserved_mib=384
    ),
    "geforce-rtx-5090-32gb": GpuModel(
        "NVIDIA GeForce RTX 5090", (12, 0), 10, 0x2B8510DE, reserved_mib=512
    ),
    "rtx-a6000-48gb": GpuModel("NVIDIA RTX A6000", (8, 6), 7, 0x223010DE, reserved_mib=512),
    "a30-24gb": GpuModel("NVIDIA A30", (8, 0), 7, 0x20B710DE, reserved_mib=512),
    "a10-24gb": GpuModel("NVIDIA A10", (8, 6), 7, 0x223610DE, reserved_mib=400),
    "t4-16gb": GpuModel("Tesla T4", (7, 5), 6, 0x1EB810DE, reserved_mib=320),
}  # fmt: skip
"""GPU models by catalog key; every GPU of the catalog is here."""


def mig_profile_fields(hardware: str) -> list[dict[str, int | str]]:
    """Return the records of a model's MIG profiles, by the names of the shared state's fields."""
    model = MODELS[hardware]
    profiles = HARDWARE[hardware].mig_profiles
    return [
        {
            "used": 1,
            "name": profile.name,
            "compute_slices": profile.compute_slices,
            "memory_slices": profile.memory_slices,
            "sm_count": profile.sm_count,
            "max_instances": profile.max_instances,
            "memory_mib": profile.memory_bytes // MIB,
            "starts": sum(1 << start for start in starts_of(profile)),
            "media": int(profile.name.endswith("+me")),
            **_numbers(profile),
            **dict(zip(("copy_engines", "decoders", "jpegs", "ofas"), engines, strict=True)),
        }
        for profile, engines in zip(profiles, model.engines, strict=bool(profiles))
    ]


_NUMBERS: Final[Mapping[tuple[int, int], tuple[int, int]]] = {
    # NVML's enumerator and the id that drivers give, by compute and memory slices
    (1, 1): (0, 19),
    (1, 2): (9, 15),
    (2, 2): (1, 14),
    (3, 4): (2, 9),
    (4, 4): (3, 5),
    (7, 8): (4, 0),
}


def _numbers(profile: MigProfile) -> dict[str, int]:
    enumerator, driver_id = (
        (7, 20)
        if profile.name.endswith("+me")
        else _NUMBERS[profile.compute_slices, profile.memory_slices]
    )
    return {"profile": enumerator, "id": driver_id}
