"""The memory that engines hold of their shares is read from drivers."""

import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.partition import (
    MigSlice,
    MpsShare,
    Partition,
    ShareUse,
    WholeDevice,
)
from partitiond.core.units import GIB, Bytes
from partitiond.devices.partitions import HostPartitions
from tests.devices.partitions.world import World, handle, launch, mps, share


async def test_each_engine_is_told_with_all_its_processes_and_its_own_share(
    world: World, here: HostPartitions
) -> None:
    for name, wanted in (("a-1", share(10)), ("a-2", share(20)), ("b-1", share(5, "GPU-1"))):
        await here.prepare(launch(name, wanted))
    world.living = {1: "a-1", 2: "a-1", 3: "a-2", 4: "b-1"}
    world.gpus["GPU-0"].use = {1: GIB, 2: 2 * GIB, 3: 30 * GIB, 9: 7 * GIB}
    world.gpus["GPU-1"].use = {4: GIB}
    assert sorted(await here.shares(), key=lambda use: use.name) == [
        ShareUse("a-1", 10 * GIB, 3 * GIB),
        ShareUse("a-2", 20 * GIB, 30 * GIB),
        ShareUse("b-1", 5 * GIB, GIB),
    ]
    world.gpus["GPU-1"].use = {4: 0}
    assert ShareUse("b-1", 5 * GIB, 0) in await here.shares(), "nothing is a figure, too"
    await here.release(launch("a-2", share(20)))
    assert {use.name for use in await here.shares()} == {"a-1", "b-1"}


async def test_shares_under_mps_are_told_and_adopted_engines_too(
    world: World, here: HostPartitions
) -> None:
    adopted = launch("a-1", MpsShare("GPU-0", Bytes(10 * GIB), 30))
    world.living, world.gpus["GPU-0"].use = {1: "a-1"}, {1: 11 * GIB}
    await here.settle([handle(adopted)])
    assert await here.shares() == [ShareUse("a-1", 10 * GIB, 11 * GIB)]


async def test_an_engine_of_another_isolation_group_is_not_started_under_the_same_mps_daemon(
    here: HostPartitions,
) -> None:
    await here.prepare(launch("a-1", mps(group="a")))
    await here.prepare(launch("a-2", mps(group="a")))
    with pytest.raises(DeviceError, match="serves a-1 of the isolation group 'a'; b-1 is of 'b'"):
        await here.prepare(launch("b-1", mps(group="b")))
    await here.release(launch("a-1", mps(group="a")))
    await here.release(launch("a-2", mps(group="a")))
    await here.prepare(launch("b-1", mps(group="b")))


@pytest.mark.parametrize(
    "partition",
    [WholeDevice("GPU-0", Bytes(GIB)), MigSlice("GPU-0", Bytes(GIB), "1g.10gb", 0, 1)],
)
async def test_who_has_no_neighbour_or_a_wall_is_not_watched(
    world: World, here: HostPartitions, partition: Partition
) -> None:
    await here.prepare(launch("a-1", partition))
    world.living, world.gpus["GPU-0"].use = {1: "a-1"}, {1: 70 * GIB}
    assert await here.shares() == []


async def test_what_the_driver_does_not_tell_is_left_out(
    world: World, here: HostPartitions
) -> None:
    await here.prepare(launch("a-1", share(10)))
    world.living, world.gpus["GPU-0"].use = {1: "a-1"}, {1: 30 * GIB}
    world.gpus["GPU-0"].told = False
    assert await here.shares() == []
    world.gpus["GPU-0"].told, world.deaf = True, True
    assert await here.shares() == [], "a device that does not answer"
