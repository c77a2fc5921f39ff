"""Translates NVML's errors, with hints about MIG."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Final

import pynvml

from partitiond.core.errors import DeviceError
from partitiond.devices.nvml.session import translate

_HINTS: Final[Mapping[int, str]] = {
    pynvml.NVML_ERROR_NO_PERMISSION: "Start the MIG helper (partitiond-mig.socket), allow this "
    "user to read /proc/driver/nvidia/capabilities/mig/config, or make the instances as root and "
    "set gpu.mig_changes to never.",
    pynvml.NVML_ERROR_IN_USE: "A process uses it, or compute instances are in it: end them, then "
    "try again (`nvidia-smi mig -lgi`).",
    pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES: "Its memory slices are not free: look with "
    "`nvidia-smi mig -lgi`.",
    pynvml.NVML_ERROR_NOT_SUPPORTED: "MIG is off there, or the GPU does not offer this size: look "
    "with `nvidia-smi mig -lgi`.",
    pynvml.NVML_ERROR_RESET_REQUIRED: "Reset the idle GPU with `nvidia-smi --gpu-reset -i UUID`, "
    "or reboot.",
    pynvml.NVML_ERROR_NOT_FOUND: "It is gone: somebody else changed the GPU meanwhile.",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "Update the NVIDIA driver (470 or newer).",
}

NO_PERMISSION: Final = int(pynvml.NVML_ERROR_NO_PERMISSION)


@contextlib.contextmanager
def asking(what: str) -> Iterator[None]:
    """Translate NVML errors raised inside; the error's code is the fact "nvml_code"."""
    try:
        yield
    except pynvml.NVMLError as error:
        found = translate(error, what)
        found.hint = _HINTS.get(int(error.value), found.hint)
        raise found from error


def not_permitted(error: DeviceError) -> bool:
    """Whether the driver refused because this user has no permission."""
    return error.facts.get("nvml_code") == NO_PERMISSION
