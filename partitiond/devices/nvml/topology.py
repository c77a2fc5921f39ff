"""Reads where a GPU sits: its PCI address, and the cores near it."""

import os
from collections.abc import Sequence
from typing import Any, Final

import pynvml

from partitiond.devices.nvml.session import or_none, text_of

_WORD_BITS: Final = 64


def pci_bus_id(handle: Any) -> str:
    """Return the address as "00000000:07:00.0", lower case; empty if the driver does not tell."""
    info = or_none(pynvml.nvmlDeviceGetPciInfo_v3, handle)
    return "" if info is None else text_of(info.busId).lower()


def near_cores(handle: Any, cores: Sequence[int]) -> tuple[int, ...]:
    """Return the cores that are near the GPU; all cores if none is near, or if unknown.

    In a container, possibly no core is near: then far cores are better than none.
    """
    words = -(-max(os.cpu_count() or 1, *(core + 1 for core in cores), 1) // _WORD_BITS)
    mask = or_none(pynvml.nvmlDeviceGetCpuAffinity, handle, words)
    if mask is None:
        return tuple(cores)
    near = tuple(core for core in cores if mask[core // _WORD_BITS] >> core % _WORD_BITS & 1)
    return near or tuple(cores)
