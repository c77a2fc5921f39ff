"""Finds the driver's index of a GPU, for engines that cannot be given its UUID."""

from typing import Final

import pynvml

from partitiond.devices.nvml import gpu
from partitiond.platform.deadline_calls import DeadlineCalls

LOOKS: Final = DeadlineCalls()


def gpu_index(uuid: str) -> int:
    """Return the index of a GPU in the driver's order, which is CUDA's with
    CUDA_DEVICE_ORDER=PCI_BUS_ID.

    Raises:
        DeviceError: the driver is missing, knows no such GPU, or does not answer in time.
    """

    def index() -> int:
        with gpu(uuid, f"tell the index of {uuid}") as handle:
            return int(pynvml.nvmlDeviceGetIndex(handle))

    return LOOKS.ask(uuid, index)
