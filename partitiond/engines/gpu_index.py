"""The driver's index of a GPU, for engines that cannot be given its UUID."""

import contextlib

import pynvml

from partitiond.devices.nvml import asking


def gpu_index(uuid: str) -> int:
    """Index of a GPU in the driver's order, which is CUDA's with CUDA_DEVICE_ORDER=PCI_BUS_ID.

    Raises:
        DeviceError: the driver is not there or knows no such GPU.
    """
    with asking(f"tell the index of {uuid}"):
        pynvml.nvmlInit()
        try:
            return int(pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(uuid)))
        finally:
            with contextlib.suppress(pynvml.NVMLError):  # nothing depends on how it ends
                pynvml.nvmlShutdown()
