"""Partitions of a device exclude each other as its driver has it."""

import pytest

from partitiond.core.hardware.partition import (
    CpuCores,
    MemoryShare,
    MigSlice,
    MpsShare,
    Partition,
    WholeDevice,
)
from partitiond.core.hardware.room import fits, overlap
from partitiond.core.units import Bytes

ONE = Bytes(1)


def mig(name: str, start: int, count: int, on: str = "g0") -> MigSlice:
    """An instance."""
    return MigSlice(on, ONE, name, start, count)


SHARE = MemoryShare("g0", ONE)
MPS, OTHERS = MpsShare("g0", ONE, 50), MpsShare("g0", ONE, 50, isolation_group="lab")
MEDIA = mig("1g.10gb+me", 0, 1)


@pytest.mark.parametrize(
    ("one", "other", "exclude"),
    [
        (mig("2g.20gb", 0, 2), mig("2g.20gb", 2, 2), False),
        (mig("2g.20gb", 0, 2), mig("1g.10gb", 1, 1), True),
        (mig("2g.20gb", 0, 2), mig("1g.10gb", 1, 1, on="g1"), False),
        # The media engines of a GPU are those of one instance.
        (MEDIA, mig("1g.20gb+me", 6, 2), True),
        (MEDIA, mig("1g.10gb", 6, 1), False),
        (MEDIA, mig("1g.10gb+me", 6, 1, on="g1"), False),
        (SHARE, SHARE, False),
        (SHARE, MPS, True),
        (MPS, OTHERS, True),
        (WholeDevice("g0", ONE), WholeDevice("g0", ONE), True),
        (CpuCores("cpu", ONE, (0, 1)), CpuCores("cpu", ONE, (2,)), False),
    ],
)
def test_what_the_driver_does_not_make_side_by_side_is_not_there_side_by_side(
    one: Partition, other: Partition, exclude: bool
) -> None:
    assert overlap(one, other) is overlap(other, one) is exclude
    assert fits(one, [other], 2) is not exclude


def test_an_instance_has_memory_of_its_own() -> None:
    assert fits(mig("2g.20gb", 0, 2), [mig("1g.10gb", 2, 1)], 1)
    assert not fits(SHARE, [SHARE], 1)
