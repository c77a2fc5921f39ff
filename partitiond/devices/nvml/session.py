"""Opens NVML sessions, translates NVML errors, and reads figures that a driver may not offer."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

import pynvml

from partitiond.core.errors import DeviceError

T = TypeVar("T")

NO_DRIVER: Final = frozenset(
    {
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_GPU_NOT_FOUND,
    }
)
"""There is no driver, kernel module or GPU, so there is nothing to find."""

NOT_OFFERED: Final = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_DATA,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_DEPRECATED,
    }
)
"""This GPU or driver does not offer the figure; another source replaces it."""

LOST: Final = frozenset(
    {
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_UNKNOWN,
        pynvml.NVML_ERROR_IRQ_ISSUE,
        pynvml.NVML_ERROR_INSUFFICIENT_POWER,
        pynvml.NVML_ERROR_CORRUPTED_INFOROM,
    }
)
"""One GPU does not answer as it should; the other GPUs may be healthy."""

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


def translate(error: Any, what: str) -> DeviceError:
    """Return a DeviceError for an NVML error, with a hint; NVML's code is in the facts."""
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


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Start NVML and end it with the block. NVML counts sessions, so they may overlap.

    Raises:
        NVMLError: NVML does not start; use `session` inside `asking`.
    """
    pynvml.nvmlInit()
    try:
        yield
    finally:
        with contextlib.suppress(pynvml.NVMLError):  # nothing depends on its result
            pynvml.nvmlShutdown()


@contextlib.contextmanager
def gpu(uuid: str, what: str) -> Iterator[Any]:
    """Yield the handle of a GPU in a session of its own.

    Args:
        uuid: UUID of a GPU, or of a MIG device if the driver knows it by UUID.
        what: what is asked, for the error message: "tell the memory of GPU-...".

    Raises:
        DeviceError: the driver refuses, here or inside the block, or there is no such GPU.
    """
    with asking(what), session():
        yield pynvml.nvmlDeviceGetHandleByUUID(uuid)


def offered(
    call: Callable[..., T], *arguments: Any, also: frozenset[int] = frozenset()
) -> T | None:
    """Return the call's result, or None if this GPU or driver does not offer it.

    Args:
        also: more NVML codes that mean "not offered" here, as NO_PERMISSION for displayed figures.

    Raises:
        NVMLError: the call failed for any other reason.
    """
    try:
        return call(*arguments)
    except pynvml.NVMLError as error:
        if error.value in NOT_OFFERED or error.value in also:
            return None
        raise


def or_none(call: Callable[..., T], *arguments: Any) -> T | None:
    """Return the call's result; None if NVML refuses for any reason.

    For figures that are displayed or judged one by one: a failing figure must not hide the others.
    """
    try:
        return call(*arguments)
    except pynvml.NVMLError:
        return None


def text_of(value: Any) -> str:
    """Return a string; old bindings return bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
