"""Partitions of engines are made before, checked when ready, and given back after."""

import asyncio
from collections.abc import Sequence

import pytest

from partitiond.core.errors import DeviceError, EngineError, StartFailedError
from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.partition import MpsShare, ShareUse
from partitiond.core.replica.engine import EngineExit, EngineHandle, EngineLaunch, EngineReport
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


class Engines:
    """A runner of engines, what it asks of partitions, and both together."""

    def __init__(self, runner: FakeRunner | None = None, diary: Diary | None = None) -> None:
        self.runner, self.diary = runner or FakeRunner(), diary or Diary()
        self.both = PartitionedRunner(self.runner, self.diary)


async def test_a_life() -> None:
    made = Engines()
    handle = await made.both.start(launch("a-1", SHARE))
    await made.both.wait_ready(handle, 5)
    made.runner.refuse_stop = EngineError("it lives on")
    with pytest.raises(EngineError):
        await made.both.stop(handle, 1)
    made.runner.refuse_stop = None  # until then it keeps its partition
    made.diary.refuses["release"] = DeviceError("in use")  # which holds up no end
    await made.both.stop(handle, 1)
    life = ["prepare a-1", "verify a-1", "before stop a-1", "before stop a-1", "release a-1"]
    assert made.diary.asked == life
    made.diary.refuses.clear()
    await made.both.stop(await made.both.start(launch("a-1", SHARE)), 1)
    assert made.diary.asked == [*life, "prepare a-1", "before stop a-1", "release a-1"]


async def test_that_an_engine_is_awake_again_is_told() -> None:
    made = Engines()
    await made.both.wake(await made.both.start(launch("a-1", SHARE)))
    assert made.diary.asked == ["prepare a-1", "waking a-1", "asleep at 0 a-1"]


async def test_no_engine_without_its_partition_and_no_partition_without_its_engine() -> None:
    made = Engines()
    made.diary.refuses["prepare"] = DeviceError("no room")
    with pytest.raises(DeviceError):
        await made.both.start(launch("a-1", SHARE))
    assert made.runner.launches == []
    made = Engines()
    made.runner.refuse_start = StartFailedError("no")
    made.diary.refuses["release"] = DeviceError("in use")  # it must not hide why it did not start
    with pytest.raises(StartFailedError):
        await made.both.start(launch("a-1", SHARE))
    assert made.diary.asked == ["prepare a-1", "release a-1"]


async def test_a_start_that_is_cancelled_gives_its_partition_back() -> None:
    class Slow(Diary):
        async def prepare(self, launch: EngineLaunch) -> EngineLaunch:
            reached.set()
            await go_on.wait()
            return await super().prepare(launch)

    reached, go_on, made = asyncio.Event(), asyncio.Event(), Engines(diary=Slow())
    starting = asyncio.create_task(made.both.start(launch("a-1", SHARE)))
    await reached.wait()
    starting.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert made.diary.asked == ["prepare a-1", "release a-1"]
    assert made.runner.launches == []


async def test_the_end_of_an_old_engine_is_not_that_of_its_successor() -> None:
    class Forgetful(FakeRunner):
        async def stop(self, handle: EngineHandle, grace_seconds: float) -> EngineExit:
            return EngineExit(0, "gone")

    made = Engines(Forgetful())
    old = await made.both.start(launch("a-1", SHARE))
    made.runner.die("a-1")
    await made.both.start(launch("a-1", SHARE))
    await made.both.stop(old, 1)
    assert made.diary.asked == ["prepare a-1", "prepare a-1"]


async def test_devices_are_settled_once_with_what_lives() -> None:
    made = Engines()
    made.runner.add(launch("a-1", SHARE))
    found = await made.both.find()
    await made.both.find()
    assert [h.launch.replica_id for h in found] == ["a-1"]
    assert made.diary.asked == ["settle a-1"]


async def test_devices_that_could_not_be_settled_are_settled_by_the_next_search() -> None:
    made = Engines()
    made.runner.add(launch("a-1", SHARE))
    made.diary.refuses["settle"] = DeviceError("the disk is full")
    for _ in range(2):
        with pytest.raises(DeviceError):
            await made.both.find()
    made.diary.refuses.clear()
    await made.both.find()
    await made.both.find()
    assert made.diary.asked == ["settle a-1"] * 3
