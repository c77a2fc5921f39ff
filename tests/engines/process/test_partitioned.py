"""Partitions of engines are made before, checked when ready, and given back after."""

import asyncio
from collections.abc import Sequence

import pytest

from partitiond.core.errors import DeviceError, EngineError, StartFailedError
from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.partition import MpsShare, ShareUse
from partitiond.core.replica.engine import (
    EngineExit,
    EngineHandle,
    EngineLaunch,
    EngineReport,
)
from partitiond.core.units import GIB, Bytes
from partitiond.engines.process.partitioned import PartitionedRunner
from tests.controller.fakes import FakeRunner
from tests.devices.partitions.world import launch

SHARE = MpsShare("GPU-0", Bytes(GIB), 30)


class Diary:
    """Partitions that write down what is asked of them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refuses: dict[str, Exception] = {}

    def _note(self, what: str, name: str) -> None:
        self.asked.append(f"{what} {name}")
        if what in self.refuses:
            raise self.refuses[what]

    async def shares(self) -> Sequence[ShareUse]:
        return ()

    async def prepare(self, launch: EngineLaunch) -> EngineLaunch:
        self._note("prepare", launch.replica_id)
        return launch

    async def verify(self, handle: EngineHandle, report: EngineReport) -> None:
        self._note("verify", handle.launch.replica_id)

    async def asleep(self, handle: EngineHandle, level: int) -> None:
        self._note(f"asleep at {level}", handle.launch.replica_id)

    async def waking(self, handle: EngineHandle) -> None:
        self._note("waking", handle.launch.replica_id)

    async def before_stop(self, handle: EngineHandle) -> None:
        self._note("before stop", handle.launch.replica_id)

    async def release(self, launch: EngineLaunch) -> None:
        self._note("release", launch.replica_id)

    async def settle(self, alive: Sequence[EngineHandle]) -> Sequence[str]:
        self._note("settle", ",".join(h.launch.replica_id for h in alive))
        return ["done"]

    async def faults(self) -> Sequence[DeviceFault]:
        return ()

    async def clear(self) -> Sequence[str]:
        return ()


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def both(runner: FakeRunner, diary: Diary) -> PartitionedRunner:
    return PartitionedRunner(runner, diary)


async def test_a_life(both: PartitionedRunner, diary: Diary) -> None:
    handle = await both.start(launch("a-1", SHARE))
    await both.wait_ready(handle, 5)
    await both.stop(handle, 1)
    assert diary.asked == ["prepare a-1", "verify a-1", "before stop a-1", "release a-1"]


async def test_no_engine_without_its_partition(
    both: PartitionedRunner, runner: FakeRunner, diary: Diary
) -> None:
    diary.refuses["prepare"] = DeviceError("no room")
    with pytest.raises(DeviceError):
        await both.start(launch("a-1", SHARE))
    assert runner.launches == []


async def test_no_partition_without_its_engine(
    both: PartitionedRunner, runner: FakeRunner, diary: Diary
) -> None:
    runner.refuse_start = StartFailedError("no")
    diary.refuses["release"] = DeviceError("in use")  # it must not hide why it did not start
    with pytest.raises(StartFailedError):
        await both.start(launch("a-1", SHARE))
    assert diary.asked == ["prepare a-1", "release a-1"]


async def test_a_start_that_is_cancelled_gives_its_partition_back(runner: FakeRunner) -> None:
    class Slow(Diary):
        async def prepare(self, launch: EngineLaunch) -> EngineLaunch:
            reached.set()
            await go_on.wait()
            return await super().prepare(launch)

    reached, go_on, diary = asyncio.Event(), asyncio.Event(), Slow()
    starting = asyncio.create_task(PartitionedRunner(runner, diary).start(launch("a-1", SHARE)))
    await reached.wait()
    starting.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert diary.asked == ["prepare a-1", "release a-1"]
    assert runner.launches == []


async def test_what_a_device_keeps_holds_up_no_end(both: PartitionedRunner, diary: Diary) -> None:
    handle = await both.start(launch("a-1", SHARE))
    diary.refuses["release"] = DeviceError("in use")
    await both.stop(handle, 1)


async def test_an_engine_that_cannot_be_ended_keeps_its_partition(
    both: PartitionedRunner, runner: FakeRunner, diary: Diary
) -> None:
    handle = await both.start(launch("a-1", SHARE))
    runner.refuse_stop = EngineError("it lives on")
    with pytest.raises(EngineError):
        await both.stop(handle, 1)
    assert "release a-1" not in diary.asked


async def test_the_end_of_an_old_engine_is_not_that_of_its_successor(
    diary: Diary,
) -> None:
    class Forgetful(FakeRunner):
        async def stop(self, handle: EngineHandle, grace_seconds: float) -> EngineExit:
            return EngineExit(0, "gone")

    runner = Forgetful()
    both = PartitionedRunner(runner, diary)
    old = await both.start(launch("a-1", SHARE))
    runner.die("a-1")
    await both.start(launch("a-1", SHARE))
    await both.stop(old, 1)
    assert diary.asked == ["prepare a-1", "prepare a-1"]


async def test_devices_are_settled_once_with_what_lives(
    both: PartitionedRunner, runner: FakeRunner, diary: Diary
) -> None:
    runner.add(launch("a-1", SHARE))
    found = await both.find()
    await both.find()
    assert [h.launch.replica_id for h in found] == ["a-1"]
    assert diary.asked == ["settle a-1"]
