"""Lists the processes on a GPU, and tells whether their pids are known here."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pynvml

from partitiond.core.hardware.device_memory import GpuProcess
from partitiond.devices.nvml.session import NOT_OFFERED

OWN_PROCESSES: Final = "processes of our own"
"""The subject of looks at them."""
NO_INSTANCE: Final = 0xFFFFFFFF
"""Replaces the id of a GPU instance if the process is in none."""

_HOST_PID_NAMESPACE: Final = "pid:[4026531836]"
"""The kernel's fixed number of the initial namespace (PROC_PID_INIT_INO in proc_ns.h)."""

_LISTS: Final[tuple[Callable[[Any], Sequence[Any]], ...]] = (
    pynvml.nvmlDeviceGetComputeRunningProcesses_v3,
    pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3,
    pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3,
)


def processes_on(handle: Any) -> tuple[GpuProcess, ...]:
    """Return processes with compute, graphics or MPS contexts, by pid, each process once.

    Of a MIG GPU, the processes of all instances are returned if this user may see them.

    Raises:
        NVMLError: the driver refuses for a reason other than not offering a list.
    """
    found: dict[tuple[int, int | None], GpuProcess] = {}
    for call in _LISTS:
        for entry in _listed(handle, call):
            process = _process(entry)
            key = (process.pid, process.gpu_instance)
            known = found.get(key)
            if known is None or (process.used_bytes or 0) > (known.used_bytes or 0):
                found[key] = process
    return tuple(found[key] for key in sorted(found, key=lambda k: (k[0], k[1] or 0)))


def _listed(handle: Any, call: Callable[[Any], Sequence[Any]]) -> Sequence[Any]:
    try:
        return _again_if_grown(call, handle)
    except pynvml.NVMLError as error:
        # Without the right, it is a MIG GPU on which this user may only query the instances.
        if error.value in {pynvml.NVML_ERROR_NO_PERMISSION, *NOT_OFFERED}:
            return ()
        raise


def _again_if_grown(call: Callable[[Any], Sequence[Any]], handle: Any) -> Sequence[Any]:
    """Call again if the list outgrew the binding's buffer between the binding's two calls."""
    try:
        return call(handle)
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_INSUFFICIENT_SIZE:
            raise
        return call(handle)


def _process(entry: Any) -> GpuProcess:
    used, instance = entry.usedGpuMemory, int(entry.gpuInstanceId)
    return GpuProcess(
        pid=int(entry.pid),
        used_bytes=None if used is None else int(used),
        gpu_instance=None if instance == NO_INSTANCE else instance,
    )


def sees_host_pids(root: Path = Path("/")) -> bool:
    """Whether the driver's pids are valid in this process: not inside a container."""
    try:
        return str((root / "proc/self/ns/pid").readlink()) == _HOST_PID_NAMESPACE
    except OSError:
        return True  # unknown: assume that the pids are valid


def is_visible(pid: int) -> bool:
    """Whether a process with that pid is visible here."""
    return Path(f"/proc/{pid}").exists()


def name_of(pid: int) -> str:
    """Return the command's name; empty if it cannot be read."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return ""
