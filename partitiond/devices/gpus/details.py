"""Collects everything that a driver tells about one GPU, for display."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import pynvml

from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.health import XidEvent
from partitiond.devices.gpus.discovery import GpuSnapshot
from partitiond.devices.nvml import topology
from partitiond.devices.nvml.session import or_none, session

_ARCHITECTURES: Final = {
    pynvml.NVML_DEVICE_ARCH_KEPLER: "kepler",
    pynvml.NVML_DEVICE_ARCH_MAXWELL: "maxwell",
    pynvml.NVML_DEVICE_ARCH_PASCAL: "pascal",
    pynvml.NVML_DEVICE_ARCH_VOLTA: "volta",
    pynvml.NVML_DEVICE_ARCH_TURING: "turing",
    pynvml.NVML_DEVICE_ARCH_AMPERE: "ampere",
    pynvml.NVML_DEVICE_ARCH_ADA: "ada",
    pynvml.NVML_DEVICE_ARCH_HOPPER: "hopper",
    pynvml.NVML_DEVICE_ARCH_BLACKWELL: "blackwell",
}


def details_of(seen: GpuSnapshot, xids: Sequence[XidEvent] = ()) -> DeviceDetails:
    """Return details of a GPU that was just read; if it does not answer, only what was known.

    Args:
        xids: the driver's messages about the GPU.
    """
    known = DeviceDetails(
        device=seen.device,
        readings=seen.readings,
        xids=tuple(xids),
        compute_mode=seen.compute_mode.value,
        mig_mode=_on_off(seen.mig, 0),
        mig_pending=_on_off(seen.mig, 1),
        ours_bytes=seen.split.ours_bytes,
        hidden_bytes=seen.split.hidden_bytes,
    )
    try:
        with session():
            handle = or_none(pynvml.nvmlDeviceGetHandleByUUID, seen.device.id)
            return known if handle is None else _asked(known, handle)
    except pynvml.NVMLError:  # the driver is gone by now: what was read is still worth showing
        return known


def _asked(known: DeviceDetails, handle: Any) -> DeviceDetails:
    capability = or_none(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    persistence = or_none(pynvml.nvmlDeviceGetPersistenceMode, handle)
    return dataclasses.replace(
        known,
        architecture=_ARCHITECTURES.get(or_none(pynvml.nvmlDeviceGetArchitecture, handle) or 0, ""),
        compute_capability="" if capability is None else f"{capability[0]}.{capability[1]}",
        pci_bus_id=topology.pci_bus_id(handle),
        persistence=None if persistence is None else bool(persistence),
        power_watts=_thousandth(or_none(pynvml.nvmlDeviceGetPowerUsage, handle)),
        power_limit_watts=_thousandth(or_none(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
        energy_joules=_thousandth(or_none(pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)),
    )


def _on_off(mode: tuple[bool, bool] | None, which: int) -> str:
    if mode is None:
        return ""
    return "on" if mode[which] else "off"


def _thousandth(value: int | None) -> float | None:
    """Convert NVML's units: it counts power in mW and energy in mJ."""
    return None if value is None else value / 1000
