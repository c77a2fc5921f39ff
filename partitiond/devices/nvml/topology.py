"""Reads a GPU's topology: its PCI address, the cores near it, and its links to other GPUs."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pynvml

from partitiond.core.hardware.details import DeviceLink
from partitiond.devices.nvml.session import text_of, told

_PATHS: Final = {
    pynvml.NVML_TOPOLOGY_INTERNAL: "board",
    pynvml.NVML_TOPOLOGY_SINGLE: "switch",
    pynvml.NVML_TOPOLOGY_MULTIPLE: "switches",
    pynvml.NVML_TOPOLOGY_HOSTBRIDGE: "host bridge",
    pynvml.NVML_TOPOLOGY_NODE: "node",
    pynvml.NVML_TOPOLOGY_SYSTEM: "system",
}
_WORD_BITS: Final = 64


def pci_bus_id(handle: Any) -> str:
    """Return the address as "00000000:07:00.0", lower case; empty if the driver does not tell."""
    info = told(pynvml.nvmlDeviceGetPciInfo_v3, handle)
    return "" if info is None else text_of(info.busId).lower()


def near_cores(handle: Any, cores: Sequence[int]) -> tuple[int, ...]:
    """Return the cores that are near the GPU; all cores if none is near, or if unknown.

    In a container, possibly no core is near: then far cores are better than none.
    """
    words = -(-max(os.cpu_count() or 1, *(core + 1 for core in cores), 1) // _WORD_BITS)
    mask = told(pynvml.nvmlDeviceGetCpuAffinity, handle, words)
    if mask is None:
        return tuple(cores)
    near = tuple(core for core in cores if mask[core // _WORD_BITS] >> core % _WORD_BITS & 1)
    return near or tuple(cores)


def numa_node(handle: Any, root: Path = Path("/")) -> int:
    """Return the GPU's NUMA node; -1 if the kernel knows none."""
    address = pci_bus_id(handle)
    # The kernel writes the domain with four digits: 0000:07:00.0.
    short = address[-12:] if len(address) > len("0000:00:00.0") else address
    try:
        text = (root / f"sys/bus/pci/devices/{short}/numa_node").read_text(encoding="ascii")
        return int(text)
    except (OSError, ValueError):
        return -1


def pcie_of(handle: Any) -> str:
    """Return present and best PCIe link: "gen3 x8 of gen4 x16"; empty if the driver tells none."""
    values = [
        told(call, handle)
        for call in (
            pynvml.nvmlDeviceGetCurrPcieLinkGeneration,
            pynvml.nvmlDeviceGetCurrPcieLinkWidth,
            pynvml.nvmlDeviceGetMaxPcieLinkGeneration,
            pynvml.nvmlDeviceGetMaxPcieLinkWidth,
        )
    ]
    now = _link(values[0], values[1])
    most = _link(values[2], values[3])
    return f"{now} of {most}" if now and most and now != most else now or most


def _link(generation: int | None, width: int | None) -> str:
    return f"gen{generation} x{width}" if generation and width else ""


def nvlinks_of(handle: Any) -> tuple[dict[str, int], int, bool]:
    """Return active NVLinks by remote PCI address, their total, and whether any is to a switch."""
    peers: dict[str, int] = {}
    up, switch = 0, False
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        state = told(pynvml.nvmlDeviceGetNvLinkState, handle, link)
        if state is None and link == 0:
            break  # a GPU without NVLink already refuses the first
        if not state:
            continue
        up += 1
        kind = told(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link)
        switch = switch or kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH
        remote = told(pynvml.nvmlDeviceGetNvLinkRemotePciInfo, handle, link)
        if remote is not None:
            address = text_of(remote.busId).lower()
            peers[address] = peers.get(address, 0) + 1
    return peers, up, switch


def links_to(
    handle: Any, others: Mapping[str, Any], nvlinks: Mapping[str, int]
) -> tuple[DeviceLink, ...]:
    """Return how a GPU reaches the other GPUs.

    Args:
        others: handles by device id.
        nvlinks: number of NVLinks by PCI address, from `nvlinks_of`.
    """
    return tuple(
        DeviceLink(device_id, nvlinks.get(pci_bus_id(other), 0), _path(handle, other))
        for device_id, other in others.items()
    )


def _path(handle: Any, other: Any) -> str:
    level = told(pynvml.nvmlDeviceGetTopologyCommonAncestor, handle, other)
    return "" if level is None else _PATHS.get(int(level), "")
