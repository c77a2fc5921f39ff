"""MPS shares follow the daemon's life, know its clients, and break all at once; use is told."""

from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError, StartFailedError
from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.partition import ShareUse, WholeDevice
from partitiond.core.replica.engine import EngineReport
from partitiond.core.units import GIB, Bytes
from partitiond.devices.partitions import HostPartitions
from partitiond.devices.partitions.journal import read_entries
from tests.devices.partitions.world import GPU, World, handle, launch, mig, mps, partitions, share


async def test_the_mps_daemon_lives_from_its_first_engine_to_its_last(
    world: World, here: HostPartitions, path: Path
) -> None:
    first = await here.prepare(launch("a-1", mps()))
    second = await here.prepare(launch("a-2", mps()))
    assert dict(first.extra_env) == {"A": "1", "PIPE": "/pipe/GPU-0", "SM": "30",
                                     "MEM": str(10 * GIB)}  # fmt: skip
    assert world.gpus[GPU].daemon
    assert list(here.own_pids()) == [1]
    await here.release(first)
    assert world.gpus[GPU].daemon
    await here.release(second)
    await here.release(second)
    assert not world.gpus[GPU].daemon
    assert read_entries(path) == ()


async def test_an_engine_that_is_no_client_of_mps_does_not_start(
    world: World, here: HostPartitions, caplog: pytest.LogCaptureFixture
) -> None:
    started = handle(await here.prepare(launch("a-1", mps())))
    world.living, world.gpus[GPU].clients = {100: "a-1", 101: "a-1", 7: "b-1"}, [7]
    with pytest.raises(StartFailedError, match="runs without its 30 % cap") as caught:
        await here.verify(started, EngineReport(0, "1", {}))
    assert "CUDA_MPS_" in caught.value.hint
    world.gpus[GPU].clients = [7, 101]
    await here.verify(started, EngineReport(0, "1", {}))
    await here.before_stop(started)
    assert world.terminated == [101], "ended by MPS before the process is"
    world.gpus[GPU].clients = [0]  # pids are hidden: MPS is taken at its word
    with caplog.at_level("INFO"):
        await here.verify(started, EngineReport(0, "1", {}))
    assert "PID namespace" in caplog.text


async def test_what_a_dead_mps_daemon_left_is_ended_too(
    world: World, here: HostPartitions, path: Path
) -> None:
    started = await here.prepare(launch("a-1", mps()))
    world.gpus[GPU].daemon, world.gpus[GPU].servers = False, 1
    (fault,) = await here.faults()
    assert "control daemon of GPU-0 is gone" in fault.reason
    await here.release(started)
    assert world.gpus[GPU].servers == 0
    await here.clear()
    assert read_entries(path) == ()
    world.gpus[GPU].servers = 1  # and by a daemon that lost its journal
    said = await partitions(world, path).settle([])
    assert any("MPS daemon" in sentence for sentence in said)
    assert world.gpus[GPU].servers == 0


async def test_a_fault_of_a_server_is_the_gpus_until_its_last_engine_is_gone(
    world: World, here: HostPartitions
) -> None:
    world.lost = [DeviceFault("GPU-1", "Xid 79")]  # told whatever runs there
    started = await here.prepare(launch("a-1", mps()))
    world.gpus[GPU].fault = "the server stopped at a client's fault"
    told = {fault.device_id: fault.reason for fault in await here.faults()}
    assert told.keys() == {GPU, "GPU-1"}
    assert "one fault domain" in told[GPU]
    await here.release(started)
    here._looked_at = float("-inf")
    assert list(await here.faults()) == world.lost


async def test_an_engine_of_another_isolation_group_is_not_started_under_the_same_mps_daemon(
    here: HostPartitions,
) -> None:
    first = [await here.prepare(launch(name, mps(group="a"))) for name in ("a-1", "a-2")]
    with pytest.raises(DeviceError, match="serves a-1 of the isolation group 'a'; b-1 is of 'b'"):
        await here.prepare(launch("b-1", mps(group="b")))
    for engine in first:
        await here.release(engine)
    await here.prepare(launch("b-1", mps(group="b")))


async def test_each_engine_is_told_with_all_its_processes_and_its_own_share(
    world: World, here: HostPartitions
) -> None:
    for name, wanted in (("a-1", share(10)), ("a-2", share(20)), ("b-1", share(5, "GPU-1"))):
        await here.prepare(launch(name, wanted))
    world.living = {1: "a-1", 2: "a-1", 3: "a-2", 4: "b-1"}
    world.gpus[GPU].use = {1: GIB, 2: 2 * GIB, 3: 30 * GIB, 9: 7 * GIB}
    world.gpus["GPU-1"].use = {4: 0}
    assert sorted(await here.shares(), key=lambda use: use.name) == [
        ShareUse("a-1", 10 * GIB, 3 * GIB),
        ShareUse("a-2", 20 * GIB, 30 * GIB),
        ShareUse("b-1", 5 * GIB, 0),  # nothing is a figure, too
    ]
    await here.release(launch("a-2", share(20)))
    assert {use.name for use in await here.shares()} == {"a-1", "b-1"}
    world.gpus[GPU].told = False
    assert {use.name for use in await here.shares()} == {"b-1"}, "what the driver does not tell"
    world.deaf = True
    assert await here.shares() == [], "a device that does not answer"


async def test_adopted_engines_under_mps_are_watched_and_not_those_without_neighbours(
    world: World, here: HostPartitions
) -> None:
    world.living, world.gpus[GPU].use = {1: "a-1"}, {1: 11 * GIB}
    for partition in (WholeDevice(GPU, Bytes(GIB)), mig()):
        await here.settle([handle(launch("a-1", partition))])
        assert await here.shares() == []
        await here.before_stop(handle(launch("a-1", partition)))
        await here.release(launch("a-1", partition))
    await here.settle([handle(launch("a-1", mps()))])
    assert await here.shares() == [ShareUse("a-1", 10 * GIB, 11 * GIB)]
