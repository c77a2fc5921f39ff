"""Engines on broken devices are ended and come back; other engines are left alone."""

import asyncio
from collections.abc import Sequence

import pytest

from partitiond.controller.journal import Journal
from partitiond.controller.runtime.faults import FaultWatch
from partitiond.core.errors import DeviceError
from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.partition import ShareUse
from partitiond.core.replica.engine import EngineHandle, EngineLaunch, EngineReport
from partitiond.core.replica.states import ReplicaState
from tests.controller.fakes import POLICY, until
from tests.controller.runtime.bench import Bench
from tests.controller.samples import placement


class FaultyPartitions:
    """Says what it is told to say about devices."""

    def __init__(self) -> None:
        self.found: list[DeviceFault] = []
        self.breaks_with: Exception | None = None
        self.asked = 0

    async def faults(self) -> Sequence[DeviceFault]:
        self.asked += 1
        if self.breaks_with is not None:
            raise self.breaks_with
        return self.found

    async def shares(self) -> Sequence[ShareUse]:
        return ()

    async def prepare(self, launch: EngineLaunch) -> EngineLaunch:
        return launch

    async def verify(self, handle: EngineHandle, report: EngineReport) -> None:
        return

    async def asleep(self, handle: EngineHandle, level: int) -> None:
        return

    async def waking(self, handle: EngineHandle) -> None:
        return

    async def before_stop(self, handle: EngineHandle) -> None:
        return

    async def release(self, launch: EngineLaunch) -> None:
        return

    async def settle(self, alive: Sequence[EngineHandle]) -> Sequence[str]:
        return ()

    async def clear(self) -> Sequence[str]:
        return ()


@pytest.fixture
def partitions(bench: Bench) -> FaultyPartitions:
    found = FaultyPartitions()
    bench.controller.faults = FaultWatch(
        found,
        journal=Journal(bench.store, bench.clock),
        policy=POLICY,
        wake=bench.controller.wake,
    )
    return found


async def test_all_engines_of_a_faulted_device_end_and_come_back(
    bench: Bench, partitions: FaultyPartitions
) -> None:
    await bench.run(placement("a-1", [0]), placement("b-1", [1]))
    partitions.found = [DeviceFault("gpu-7", "fell off the bus.")]
    await bench.controller.faults.look()
    await bench.passes()
    assert set(bench.states().values()) == {ReplicaState.SERVING}, "it is another device's"
    partitions.found = [DeviceFault("cpu", "the MPS server died.")]
    await bench.controller.faults.look()
    await bench.controller.one_pass()
    assert bench.routed() == {}  # in the very pass: no request goes there any more
    await bench.passes()
    assert bench.states() == {"a-1": ReplicaState.FAILED, "b-1": ReplicaState.FAILED}
    assert sorted(bench.runner.stopped) == ["a-1", "b-1"]
    assert {e.last_error for e in bench.controller.engines} == {"the MPS server died."}
    bench.clock.now += 10.0
    await bench.passes()
    assert len(bench.runner.launches) == 2  # nothing starts while the device is named
    partitions.found = []
    await bench.controller.faults.look()
    await bench.passes(8)
    assert set(bench.states().values()) == {ReplicaState.SERVING}
    assert [e.starts for e in bench.controller.engines] == [2, 2]
    assert {"device-faulted", "device-recovered"} <= set(bench.kinds())


@pytest.mark.parametrize("error", [DeviceError("the driver is silent."), ValueError("bug")])
async def test_what_cannot_be_asked_changes_nothing_and_is_told_once(
    bench: Bench, partitions: FaultyPartitions, error: Exception
) -> None:
    partitions.found = [DeviceFault("cpu", "broken.")]
    await bench.controller.faults.look()
    partitions.breaks_with = error
    for _ in range(3):
        await bench.controller.faults.look()
    assert bench.controller.faults.reasons == {"cpu": "broken."}
    assert bench.kinds().count("faults-unknown") == 1
    assert bench.kinds().count("device-faulted") == 1


async def test_the_loop_looks_in_the_background(bench: Bench, partitions: FaultyPartitions) -> None:
    running = asyncio.create_task(bench.controller.run())
    await until(lambda: partitions.asked > 0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
