"""NVIDIA GPUs as devices, through NVML (`nvidia-ml-py`).

A host without NVIDIA's driver has no GPUs, which is no error. Every other refusal becomes a
`DeviceError` by one table.
"""

import contextlib
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pynvml

from partitiond.core.errors import DeviceError
from partitiond.core.hardware import HARDWARE, Device, DeviceKind, SharingMode
from partitiond.core.units import GIB, Bytes
from partitiond.devices.cpu import core_nodes

_NO_DRIVER: Final = frozenset(
    {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_GPU_NOT_FOUND,
    }
)
"""Without driver, module or GPU there is nothing to find."""

_NOT_OFFERED: Final = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_DATA,
    }
)
"""This GPU or driver does not offer the figure; another source takes its place."""

_HINTS: Final[Mapping[int, str]] = {
    pynvml.NVML_ERROR_NO_PERMISSION: "Run as a user that may read /dev/nvidia*, or as root.",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "Reboot: driver and library differ in version.",
    pynvml.NVML_ERROR_GPU_IS_LOST: "Reboot the host; check its log for Xid errors.",
    pynvml.NVML_ERROR_RESET_REQUIRED: "Reset the GPU with nvidia-smi --gpu-reset.",
    pynvml.NVML_ERROR_INSUFFICIENT_POWER: "Check the GPU's power cables.",
    pynvml.NVML_ERROR_IRQ_ISSUE: "Check the kernel's log for interrupt problems of the GPU.",
    pynvml.NVML_ERROR_CORRUPTED_INFOROM: "The GPU's info ROM is corrupt: ask the vendor.",
    pynvml.NVML_ERROR_TIMEOUT: "The driver did not answer: check with nvidia-smi, then try again.",
    pynvml.NVML_ERROR_OPERATING_SYSTEM: "The kernel blocked the GPU: check device permissions.",
    pynvml.NVML_ERROR_MEMORY: "The host has too little memory for the driver's answer.",
    pynvml.NVML_ERROR_IN_USE: "Another program holds the GPU: end it, then try again.",
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: "Update the NVIDIA driver.",
    pynvml.NVML_ERROR_NOT_READY: "The GPU is starting: try again.",
    pynvml.NVML_ERROR_INVALID_STATE: "Check the GPU with nvidia-smi.",
}
_DEFAULT_HINT: Final = "Check the GPU with nvidia-smi; set gpu.enabled to false to go without."

_MODELS: Final[tuple[tuple[str, str], ...]] = (
    # Names differ by form factor ("A100-SXM4-80GB", "H100 PCIe"); memory settles the rest.
    (r"\bA100\b", "a100"),
    (r"\bH100\b", "h100"),
    (r"\bH200\b", "h200"),
    (r"\bL40S\b", "l40s"),
    (r"\bL4\b", "l4"),
    (r"\bB200\b", "b200"),
    (r"\bA10\b", "a10"),
    (r"\bT4\b", "t4"),
)
_FORMS: Final = ("pcie", "nvl")
"""Forms that the catalog keeps apart from the SXM one, as they are written in its keys."""


def translate(error: Any, what: str) -> DeviceError:
    """An NVML error as ours, with what to do next; NVML's own words and code are facts."""
    code = int(error.value)
    return DeviceError(
        f"NVML refused to {what}: {error}.",
        hint=_HINTS.get(code, _DEFAULT_HINT),
        facts={"nvml_code": code, "asked": what},
    )


@contextlib.contextmanager
def asking(what: str) -> Iterator[None]:
    """Translate NVML errors raised inside."""
    try:
        yield
    except pynvml.NVMLError as error:
        raise translate(error, what) from error


def discover_gpus(cores: Sequence[int]) -> tuple[Device, ...]:
    """All GPUs of this host, by NVML's order; empty without NVIDIA's driver.

    Args:
        cores: host cores usable for engines of these GPUs.

    Raises:
        DeviceError: the driver is there and refuses.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value in _NO_DRIVER:
            return ()
        raise translate(error, "start") from error
    try:
        with asking("count the GPUs"):
            count = pynvml.nvmlDeviceGetCount()
            driver = _text(pynvml.nvmlSystemGetDriverVersion())
        return tuple(_device(index, driver, tuple(cores)) for index in range(count))
    finally:
        with contextlib.suppress(pynvml.NVMLError):  # nothing depends on how it ends
            pynvml.nvmlShutdown()


def used_bytes(uuid: str) -> int:
    """Memory of a GPU that anyone uses now, in bytes; what the driver reserves is left out.

    Raises:
        DeviceError: the driver refuses, or there is no such GPU.
    """
    with asking(f"tell the memory of {uuid}"):
        pynvml.nvmlInit()
        try:
            total, free, reserved = _memory(pynvml.nvmlDeviceGetHandleByUUID(uuid))
        finally:
            pynvml.nvmlShutdown()
    return total - free - reserved


def hardware_key(name: str, memory_bytes: int) -> str:
    """The catalog's key for a GPU, or one made of its name and memory where it knows none.

    NVML's total lies up to a tenth off the nominal size in either direction.
    """
    for pattern, model in _MODELS:
        if re.search(pattern, name):
            near = [
                key
                for key, spec in HARDWARE.items()
                if key.startswith(f"{model}-")
                and abs(spec.memory_bytes - memory_bytes) <= 0.1 * spec.memory_bytes
            ]
            if near:
                return min(near, key=lambda key: _form(key) != _form(name.lower()))
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("nvidia ")).strip("-")
    size = f"{round(memory_bytes / GIB)}gb"
    return slug if slug.endswith(size) else f"{slug}-{size}"


def _form(text: str) -> str:
    """The form factor that a name or a key states; empty for SXM and for none."""
    return next((form for form in _FORMS if re.search(rf"\b{form}\b", text)), "")


def _device(index: int, driver: str, cores: tuple[int, ...]) -> Device:
    with asking(f"describe GPU {index}"):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        name = _text(pynvml.nvmlDeviceGetName(handle))
        uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
        total, free, reserved = _memory(handle)
        mig = _mig_enabled(handle)
        key = hardware_key(name, total)
        sm_count = _sm_count(handle, key)
    return Device(
        id=uuid,
        kind=DeviceKind.GPU,
        hardware=key,
        name=name,
        host=platform.node(),
        memory_bytes=Bytes(total),
        free_bytes=Bytes(free),
        cores=cores,
        sm_count=sm_count,
        modes=_modes(key, mig),
        reserved_bytes=Bytes(reserved),
        driver=driver,
        core_nodes=core_nodes(cores),
    )


def _memory(handle: Any) -> tuple[int, int, int]:
    """Total, free and driver-reserved bytes; old drivers do not tell the last one apart."""
    try:
        info = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError as error:
        if error.value not in _NOT_OFFERED | {pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH}:
            raise
        info = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return int(info.total), int(info.free), 0
    return int(info.total), int(info.free), int(info.reserved)


def _mig_enabled(handle: Any) -> bool:
    try:
        current, _pending = pynvml.nvmlDeviceGetMigMode(handle)
    except pynvml.NVMLError as error:
        if error.value in _NOT_OFFERED:
            return False
        raise
    return bool(current == pynvml.NVML_DEVICE_MIG_ENABLE)


def _sm_count(handle: Any, key: str) -> int:
    """From the catalog; for an unknown GPU from the driver's attributes (MIG-capable ones)."""
    if key in HARDWARE:
        return HARDWARE[key].sm_count
    try:
        return int(pynvml.nvmlDeviceGetAttributes_v2(handle).multiprocessorCount)
    except pynvml.NVMLError as error:
        if error.value in _NOT_OFFERED | {pynvml.NVML_ERROR_INVALID_ARGUMENT}:
            return 0
        raise


def _modes(key: str, mig: bool) -> tuple[SharingMode, ...]:
    """With MIG on, a GPU runs nothing but its slices."""
    if mig:
        return (SharingMode.MIG,)
    if key in HARDWARE:
        return HARDWARE[key].modes
    return (SharingMode.WHOLE, SharingMode.MEMORY, SharingMode.MPS)


def _text(value: Any) -> str:
    """Old bindings give bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
