"""The catalog's key of a GPU follows from the driver's name for it."""

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.units import MIB
from partitiond.devices.nvml import hardware_key


def test_names_and_memory_give_the_hardware_key() -> None:
    for name, mib, key in (
        ("NVIDIA A100-SXM4-40GB", 40960, "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", 81920, "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", 81920, "a100-pcie-80gb"),
        ("NVIDIA A100-PCIE-40GB", 40960, "a100-pcie-40gb"),
        ("NVIDIA H100 80GB HBM3", 81559, "h100-80gb"),
        ("NVIDIA H200", 143771, "h200-141gb"),
        ("NVIDIA L4", 23034, "l4-24gb"),
        ("NVIDIA L40S", 46068, "l40s-48gb"),
        ("NVIDIA H100 NVL", 95830, "h100-nvl-94gb"),
        ("Tesla T4", 15360, "t4-16gb"),
        ("NVIDIA RTX 6000 Ada Generation", 49140, "rtx-6000-ada-generation-48gb"),  # without ECC
        ("NVIDIA RTX A6000", 49140, "rtx-a6000-48gb"),
        ("NVIDIA L40", 46068, "l40-48gb"),
        ("NVIDIA L20", 46068, "l20-48gb"),
        ("NVIDIA GeForce RTX 5090", 32607, "geforce-rtx-5090-32gb"),
        ("NVIDIA GeForce RTX 4090 D", 24564, "geforce-rtx-4090-d-24gb"),  # has fewer SMs
        ("NVIDIA GeForce RTX 4090", 24564, "geforce-rtx-4090-24gb"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 16376, "geforce-rtx-4090-laptop-gpu-16gb"),
        ("NVIDIA A40", 46068, "a40-48gb"),
        ("NVIDIA A40", 49140, "a40-48gb"),
        ("NVIDIA A1000", 8192, "a1000-8gb"),  # does not pass for a known one
    ):
        assert hardware_key(name, mib * MIB) == key


def test_every_gpu_of_the_catalog_can_be_recognised() -> None:
    for key, spec in HARDWARE.items():
        model = key.rpartition("-")[0].upper().replace("PCIE", "PCIe").replace("-", " ")
        assert hardware_key(f"NVIDIA {model}", spec.memory_bytes) == key
