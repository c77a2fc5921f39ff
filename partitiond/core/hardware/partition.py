"""Defines partitions: the piece of a device that one replica gets. The kinds are siblings.

A partition here is a *size with a place*: `CpuCores` names its cores, `MigSlice` its start.
`mode` tells the kinds apart when a partition is read back from JSON.
"""

import dataclasses
from typing import Final, Literal

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.units import Bytes

SM_PERCENTS: Final = (10, 15, 20, 25, 30, 40, 50, 60, 80, 100)
"""MPS shares that plans may choose from if none was measured: fine-grained where small models have
their knee, coarse above."""


@dataclasses.dataclass(frozen=True, slots=True)
class WholeDevice:
    """The device alone."""

    device_id: str
    memory_bytes: Bytes
    mode: Literal[SharingMode.WHOLE] = SharingMode.WHOLE


@dataclasses.dataclass(frozen=True, slots=True)
class MemoryShare:
    """A budget of device memory; compute is time-sliced by the driver. Not a wall."""

    device_id: str
    memory_bytes: Bytes
    mode: Literal[SharingMode.MEMORY] = SharingMode.MEMORY


@dataclasses.dataclass(frozen=True, slots=True)
class MpsShare:
    """A memory budget plus a cap on the share of SMs, in percent, under one MPS daemon.

    Attributes:
        isolation_group: of its model. An MPS daemon serves the engines of one system user, so all
            shares of a GPU are of one group.
    """

    device_id: str
    memory_bytes: Bytes
    sm_percent: int
    mode: Literal[SharingMode.MPS] = SharingMode.MPS
    isolation_group: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class MigSlice:
    """A hardware-isolated GPU instance.

    Attributes:
        mig_profile: as the driver names it, "2g.20gb".
        slice_start: first memory slice.
        slice_count: memory slices covered.
    """

    device_id: str
    memory_bytes: Bytes
    mig_profile: str
    slice_start: int
    slice_count: int
    mode: Literal[SharingMode.MIG] = SharingMode.MIG


@dataclasses.dataclass(frozen=True, slots=True)
class CpuCores:
    """Cores of the host's CPU, by index, and a budget of host memory."""

    device_id: str
    memory_bytes: Bytes
    cores: tuple[int, ...]
    mode: Literal[SharingMode.CORES] = SharingMode.CORES


Partition = WholeDevice | MemoryShare | MpsShare | MigSlice | CpuCores


def way_of(partition: Partition) -> tuple[SharingMode, str]:
    """Return how its device is shared: the mode, and the isolation group under MPS, else empty."""
    return partition.mode, partition.isolation_group if isinstance(partition, MpsShare) else ""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class PartitionSize:
    """A partition without a place: what a profile was measured on and a candidate asks for.

    Attributes:
        mode: sharing mode.
        cores: CPU cores: the partition itself on a CPU device, the engine's host cores on a GPU.
        sm_percent: share of the SMs in percent; 100 where compute is not divided; 0 on a CPU.
        mig_profile: the MIG profile's name, or empty.
    """

    mode: SharingMode
    cores: int
    sm_percent: int = 0
    mig_profile: str = ""

    @property
    def key(self) -> str:
        """Short text: "cores-2", "mps-30", "memory", "whole", "mig-2g.20gb"."""
        match self.mode:
            case SharingMode.CORES:
                return f"cores-{self.cores}"
            case SharingMode.MPS:
                return f"mps-{self.sm_percent}"
            case SharingMode.MIG:
                return f"mig-{self.mig_profile}"
            case _:
                return self.mode.value


@dataclasses.dataclass(frozen=True, slots=True)
class ShareUse:
    """The memory that an engine in a share of a device's memory holds now.

    Attributes:
        name: of the engine.
        budget_bytes: what the share promises the engine.
        held_bytes: what the engine's processes hold of the device.
    """

    name: str
    budget_bytes: int
    held_bytes: int
