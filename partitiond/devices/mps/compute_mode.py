"""Checks which sharing a GPU's compute mode allows: how many processes may use the GPU."""

from typing import Final

from partitiond.core.hardware.kinds import SharingMode

DEFAULT: Final = 0
EXCLUSIVE_THREAD: Final = 1
PROHIBITED: Final = 2
EXCLUSIVE_PROCESS: Final = 3
"""`nvmlComputeMode_t`. EXCLUSIVE_THREAD is gone since CUDA 8 and means EXCLUSIVE_PROCESS."""


def compute_mode_refusal(mode: int, sharing: SharingMode) -> str:
    """Return why a GPU in this compute mode cannot be shared that way; empty if it can.

    EXCLUSIVE_PROCESS admits one process. Under MPS this process is the server, so MPS shares work
    (NVIDIA advises this mode for them), but memory shares side by side do not. An engine of several
    processes with contexts of their own would not start on a whole device, either; vLLM has one
    such process per GPU.
    """
    if mode == PROHIBITED:
        return (
            "its compute mode is PROHIBITED: no CUDA program may run on it; "
            "set it with nvidia-smi -c DEFAULT"
        )
    if mode in (EXCLUSIVE_PROCESS, EXCLUSIVE_THREAD) and sharing is SharingMode.MEMORY:
        return (
            "its compute mode is EXCLUSIVE_PROCESS: one process at a time, so memory shares "
            "cannot run side by side; plan MPS shares, or set it with nvidia-smi -c DEFAULT"
        )
    return ""
