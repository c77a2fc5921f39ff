"""The driver's index of a GPU, for engines that cannot be given its UUID."""

import pynvml

from partitiond.devices.nvml import gpu


def gpu_index(uuid: str) -> int:
    """Index of a GPU in the driver's order, which is CUDA's with CUDA_DEVICE_ORDER=PCI_BUS_ID.

    Raises:
        DeviceError: the driver is not there or knows no such GPU.
    """
    with gpu(uuid, f"tell the index of {uuid}") as handle:
        return int(pynvml.nvmlDeviceGetIndex(handle))
