"""Decides which partitions of a device exclude each other, and whether one more has room."""

from collections.abc import Sequence

from partitiond.core.hardware.partition import CpuCores, MigSlice, MpsShare, Partition, way_of


def overlap(one: Partition, other: Partition) -> bool:
    """Return whether two partitions of one device exclude each other, apart from sums over the
    device.

    A device has one sharing mode at a time, so different modes always exclude each other. So do
    shares under MPS of different isolation groups: a GPU has one MPS daemon, of one group. A GPU's
    media engines are those of one instance ("+me").
    """
    if one.device_id != other.device_id:
        return False
    match one, other:
        case CpuCores(), CpuCores():
            return not set(one.cores).isdisjoint(other.cores)
        case MigSlice(), MigSlice():
            media = all(p.mig_profile.endswith("+me") for p in (one, other))
            return media or (
                one.slice_start < other.slice_start + other.slice_count
                and other.slice_start < one.slice_start + one.slice_count
            )
        case _:
            return way_of(one) != way_of(other) or one.mode.value == "whole"


def fits(partition: Partition, occupants: Sequence[Partition], free_bytes: int) -> bool:
    """Return whether a partition has room beside the occupants of its device.

    The memory of an instance under MIG is its own.

    Args:
        partition: the partition to place.
        occupants: partitions held now, of any device.
        free_bytes: memory that all engines of the device may take together.
    """
    beside = [other for other in occupants if other.device_id == partition.device_id]
    if any(overlap(partition, other) for other in beside):
        return False
    if isinstance(partition, MigSlice):
        return True
    everyone = [partition, *beside]
    sm_percent = sum(p.sm_percent for p in everyone if isinstance(p, MpsShare))
    return sum(p.memory_bytes for p in everyone) <= free_bytes and sm_percent <= 100
