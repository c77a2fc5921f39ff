"""Calls the CUDA driver's C interface for device memory.

Thin on purpose: the module measures what an engine would see (free and total memory under a memory
limit, on a MIG slice, as an MPS client), and holds memory in simulated engines and GPU checks. It
does not need PyTorch.
"""

import contextlib
import ctypes
import dataclasses
import uuid
from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import DeviceError

OUT_OF_MEMORY: Final = 2
"""CUDA_ERROR_OUT_OF_MEMORY."""
NO_DEVICE: Final = 100
"""CUDA_ERROR_NO_DEVICE: no device that CUDA_VISIBLE_DEVICES names exists."""
_SM_COUNT: Final = 16
_NAME_BYTES: Final = 128
_HINTS: Final = {
    1: "An argument is wrong: please report this.",
    2: "Give it more memory, or stop what else runs on the device.",
    3: "CUDA was started in the parent process: start it in a new one.",
    46: "Another process holds the GPU alone: check its compute mode with nvidia-smi.",
    100: "Check CUDA_VISIBLE_DEVICES; a GPU in MIG mode is named by its MIG device's UUID.",
    700: "A kernel of this process, or of another one under the same MPS server, failed.",
    719: "A kernel of this process, or of another one under the same MPS server, failed.",
    802: "Start nvidia-fabricmanager: the GPUs of this host are joined by NVSwitches.",
    803: "Reboot: the driver and its libraries differ in version.",
    805: "Start the MPS control daemon, or unset CUDA_MPS_PIPE_DIRECTORY.",
    806: "The MPS server is gone: start the process anew.",
    807: "The MPS server waits for its clients to end after a fault.",
    808: "The MPS server has as many clients as it takes: stop some.",
    810: "The MPS control daemon ended this client.",
}
_DEFAULT_HINT: Final = "Check the GPU with nvidia-smi and the kernel's log for Xid errors."


class CudaError(DeviceError):
    """CUDA refused a call.

    Attributes:
        cuda_code: CUresult.
        name: name of the code, such as "CUDA_ERROR_OUT_OF_MEMORY".
    """

    def __init__(self, cuda_code: int, name: str, what: str) -> None:
        super().__init__(
            f"CUDA refused to {what}: {name} ({cuda_code}).",
            hint=_HINTS.get(cuda_code, _DEFAULT_HINT),
            facts={"cuda_code": cuda_code, "cuda_name": name, "asked": what},
        )
        self.cuda_code = cuda_code
        self.name = name


@dataclasses.dataclass(frozen=True, slots=True)
class CudaDevice:
    """A device as this process sees it.

    Attributes:
        index: index among the visible devices.
        uuid: "GPU-..." or, for a MIG device, "MIG-...".
        total_bytes: as CUDA shows it: less than NVML's total; under an MPS limit, the limit.
        sm_count: as CUDA shows it: fewer under an MPS share.
    """

    index: int
    name: str
    uuid: str
    total_bytes: int
    sm_count: int


class Cuda:
    """Loads the driver's library and starts CUDA in this process.

    Args:
        path: path of a libcuda.so.1; None for the system's.

    Raises:
        DeviceError: the library cannot be loaded.
        CudaError: CUDA does not start, for example without a visible device.
    """

    def __init__(self, path: Path | None = None) -> None:
        name = "libcuda.so.1" if path is None else str(path)
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise DeviceError(
                f"{name} cannot be loaded: {error}.",
                hint="Install NVIDIA's driver; in a container, use the NVIDIA runtime.",
                facts={"path": name},
            ) from error
        self._ask("start", "cuInit", ctypes.c_uint(0))

    @property
    def version(self) -> int:
        """CUDA version that the driver offers, 13010 for 13.1."""
        version = ctypes.c_int()
        self._ask("tell its version", "cuDriverGetVersion", ctypes.byref(version))
        return version.value

    def devices(self) -> tuple[CudaDevice, ...]:
        """Return the visible devices. Raises CudaError."""
        count = ctypes.c_int()
        self._ask("count devices", "cuDeviceGetCount", ctypes.byref(count))
        return tuple(self._describe(index) for index in range(count.value))

    def retain(self, index: int) -> "Context":
        """Open the device's primary context, or share the open one. Raises CudaError."""
        device = self._device(index)
        context = ctypes.c_void_p()
        self._ask(
            f"open a context on device {index}",
            "cuDevicePrimaryCtxRetain",
            ctypes.byref(context),
            device,
        )
        return Context(self, device, context)

    def _device(self, index: int) -> ctypes.c_int:
        device = ctypes.c_int()
        self._ask(f"find device {index}", "cuDeviceGet", ctypes.byref(device), ctypes.c_int(index))
        return device

    def _describe(self, index: int) -> CudaDevice:
        device, what = self._device(index), f"describe device {index}"
        name = ctypes.create_string_buffer(_NAME_BYTES)
        total, sms = ctypes.c_size_t(), ctypes.c_int()
        self._ask(what, "cuDeviceGetName", name, ctypes.c_int(_NAME_BYTES), device)
        self._ask(what, "cuDeviceTotalMem_v2", ctypes.byref(total), device)
        self._ask(what, "cuDeviceGetAttribute", ctypes.byref(sms), ctypes.c_int(_SM_COUNT), device)
        mig = " MIG " in name.value.decode(errors="replace")
        return CudaDevice(
            index,
            name.value.decode(errors="replace"),
            f"{'MIG' if mig else 'GPU'}-{self._uuid(device, what)}",
            total.value,
            sms.value,
        )

    def _uuid(self, device: ctypes.c_int, what: str) -> uuid.UUID:
        """Return the UUID; only the call's second version (CUDA 11.4) tells a MIG device's own."""
        raw = (ctypes.c_ubyte * 16)()
        newest = hasattr(self._library, "cuDeviceGetUuid_v2")
        call = "cuDeviceGetUuid_v2" if newest else "cuDeviceGetUuid"
        self._ask(what, call, ctypes.byref(raw), device)
        return uuid.UUID(bytes=bytes(raw))

    def _ask(self, what: str, function: str, *arguments: Any) -> None:
        code = int(getattr(self._library, function)(*arguments))
        if code:
            raise CudaError(code, self._name(code), what)

    def _name(self, code: int) -> str:
        text = ctypes.c_char_p()
        self._library.cuGetErrorName(ctypes.c_int(code), ctypes.byref(text))
        return text.value.decode() if text.value else "an unknown error"


class Context:
    """An open primary context; a context manager, returned by `Cuda.retain`."""

    def __init__(self, cuda: Cuda, device: ctypes.c_int, handle: ctypes.c_void_p) -> None:
        self._cuda = cuda
        self._device = device
        self._handle: ctypes.c_void_p | None = handle

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes as this process sees them. Raises CudaError."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._ask("tell its memory", "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def allocate(self, size_bytes: int) -> int:
        """Allocate memory and return its address.

        Raises:
            CudaError: with OUT_OF_MEMORY if there is not enough memory.
        """
        address = ctypes.c_uint64()
        what = f"take {size_bytes} bytes"
        self._ask(what, "cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        return address.value

    def free(self, address: int) -> None:
        """Free memory. Raises CudaError."""
        self._ask("free memory", "cuMemFree_v2", ctypes.c_uint64(address))

    def synchronize(self) -> None:
        """Wait for the device; raises the CudaError of an earlier failure on it."""
        self._ask("synchronize", "cuCtxSynchronize")

    def close(self) -> None:
        """Release the context and all its memory. Idempotent, and never raises: a broken context
        disappears with its process."""
        if self._handle is not None:
            self._handle = None
            with contextlib.suppress(CudaError):
                self._cuda._ask("release a context", "cuDevicePrimaryCtxRelease_v2", self._device)

    def __enter__(self) -> "Context":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, what: str, function: str, *arguments: Any) -> None:
        """Set the context first: calls apply to the thread's current one, and threads change."""
        self._cuda._ask(what, "cuCtxSetCurrent", self._handle)
        self._cuda._ask(what, function, *arguments)
