"""MPS shares follow the daemon's life, know its clients, and break all at once."""

from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError, StartFailedError
from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.partition import Partition
from partitiond.core.replica.engine import EngineReport
from partitiond.core.units import GIB
from partitiond.devices.partitions import HostPartitions
from partitiond.devices.partitions.journal import read_entries
from tests.devices.partitions.world import (
    GPU,
    World,
    handle,
    launch,
    mps,
    partitions,
    share,
)


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
    world: World, here: HostPartitions
) -> None:
    started = handle(await here.prepare(launch("a-1", mps())))
    world.living, world.gpus[GPU].clients = {100: "a-1", 101: "a-1", 7: "b-1"}, [7]
    with pytest.raises(StartFailedError, match="runs without its 30 % cap") as caught:
        await here.verify(started, EngineReport(0, "1", {}))
    assert "CUDA_MPS_" in caught.value.hint
    world.gpus[GPU].clients = [7, 101]
    await here.verify(started, EngineReport(0, "1", {}))


async def test_where_pids_are_hidden_mps_is_taken_at_its_word_and_that_is_logged(
    world: World, here: HostPartitions, caplog: pytest.LogCaptureFixture
) -> None:
    started = handle(await here.prepare(launch("a-1", mps())))
    world.living, world.gpus[GPU].clients = {100: "a-1"}, [0]
    with caplog.at_level("INFO"):
        await here.verify(started, EngineReport(0, "1", {}))
    assert "PID namespace" in caplog.text


async def test_a_device_that_does_not_answer_after_the_start_is_a_failed_start(
    world: World, here: HostPartitions
) -> None:
    started = handle(await here.prepare(launch("a-1", share())))
    world.deaf = True
    with pytest.raises(StartFailedError, match="cannot be told"):
        await here.verify(started, EngineReport(0, "1", {}))


async def test_what_a_dead_mps_daemon_left_is_ended_too(
    world: World, here: HostPartitions, path: Path
) -> None:
    started = await here.prepare(launch("a-1", mps()))
    world.gpus[GPU].daemon, world.gpus[GPU].servers = False, 1
    await here.release(started)
    assert world.gpus[GPU].servers == 0
    assert read_entries(path) == ()
    world.gpus[GPU].servers = 1  # and by a daemon that lost its journal
    said = await partitions(world, path).settle([])
    assert any("MPS daemon" in sentence for sentence in said)
    assert world.gpus[GPU].servers == 0


async def test_clients_are_ended_by_mps_before_the_process_is(
    world: World, here: HostPartitions
) -> None:
    started = handle(await here.prepare(launch("a-1", mps())))
    world.living, world.gpus[GPU].clients = {100: "a-1", 101: "a-1", 7: "b-1"}, [101, 7]
    await here.before_stop(started)
    assert world.terminated == [101]


async def test_a_fault_of_a_server_is_the_gpus_until_its_last_engine_is_gone(
    world: World, here: HostPartitions
) -> None:
    started = await here.prepare(launch("a-1", mps()))
    world.gpus[GPU].fault = "the server stopped at a client's fault"
    (fault,) = await here.faults()
    assert (fault.device_id, "one fault domain" in fault.reason) == (GPU, True)
    await here.release(started)
    here._looked_at = float("-inf")
    assert list(await here.faults()) == []


async def test_a_daemon_that_was_killed_is_a_fault(world: World, here: HostPartitions) -> None:
    await here.prepare(launch("a-1", mps()))
    world.gpus[GPU].daemon = False
    (fault,) = await here.faults()
    assert "control daemon of GPU-0 is gone" in fault.reason


async def test_a_lost_gpu_is_told_whatever_ran_there(world: World, path: Path) -> None:
    world.lost = [DeviceFault("GPU-1", "Xid 79")]
    assert list(await partitions(world, path).faults()) == world.lost


@pytest.mark.parametrize(
    ("mode", "partition", "refused"),
    [(2, mps(), "PROHIBITED"), (3, share(), "EXCLUSIVE_PROCESS"), (3, mps(), "")],
)
async def test_a_compute_mode_that_forbids_it_is_named(
    world: World, here: HostPartitions, mode: int, partition: Partition, refused: str
) -> None:
    world.modes[GPU] = mode
    if not refused:
        await here.prepare(launch("a-1", partition))
        return
    with pytest.raises(DeviceError, match=refused):
        await here.prepare(launch("a-1", partition))
    assert not world.gpus[GPU].daemon
