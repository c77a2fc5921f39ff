"""Engines on broken devices are ended and come back; other engines are left alone."""

import asyncio

import pytest

from partitiond.controller.journal import Journal
from partitiond.controller.runtime.faults import FaultWatch
from partitiond.core.errors import DeviceError
from partitiond.core.hardware.health import DeviceFault
from partitiond.core.replica.states import ReplicaState
from tests.controller.fakes import POLICY
from tests.controller.runtime.bench import Bench
from tests.controller.samples import placement
from tests.hosts.pipes import FakePartitions
from tests.machine import until


@pytest.fixture
def partitions(bench: Bench) -> FakePartitions:
    found = FakePartitions()
    journal, wake = Journal(bench.store, bench.clock), bench.controller.wake
    bench.controller.faults = FaultWatch(found, journal=journal, policy=POLICY, wake=wake)
    return found


async def test_all_engines_of_a_faulted_device_end_and_come_back(
    bench: Bench, partitions: FakePartitions
) -> None:
    await bench.run(placement("a-1", [0]), placement("b-1", [1]))
    partitions.broken = [DeviceFault("gpu-7", "fell off the bus.")]
    await bench.controller.faults.look()
    await bench.passes()
    assert set(bench.states().values()) == {ReplicaState.SERVING}, "it is another device's"
    partitions.broken = [DeviceFault("cpu", "the MPS server died.")]
    await bench.controller.faults.look()
    await bench.controller.one_pass()
    assert bench.routed() == {}  # in the very pass: no request goes there any more
    await bench.passes()
    assert bench.states() == {"a-1": ReplicaState.FAILED, "b-1": ReplicaState.FAILED}
    assert {e.last_error for e in bench.controller.engines} == {"the MPS server died."}
    silent = DeviceError("the driver is silent.")
    for error in (silent, silent, ValueError("bug")):
        partitions.breaks_with = error  # what cannot be asked changes nothing, and is told once
        await bench.controller.faults.look()
    assert bench.controller.faults.reasons == {"cpu": "the MPS server died."}
    bench.clock.now += 10.0
    await bench.passes()
    assert len(bench.runner.launches) == 2  # nothing starts while the device is named
    partitions.broken, partitions.breaks_with = [], None
    await bench.controller.faults.look()
    await bench.passes(8)
    assert set(bench.states().values()) == {ReplicaState.SERVING}
    assert [e.starts for e in bench.controller.engines] == [2, 2]
    kinds = ("device-faulted", "faults-unknown", "device-recovered")
    assert [bench.kinds().count(kind) for kind in kinds] == [2, 2, 2]


async def test_the_loop_looks_in_the_background(bench: Bench, partitions: FakePartitions) -> None:
    partitions.broken = [DeviceFault("cpu", "the MPS server died.")]
    running = asyncio.create_task(bench.controller.run())
    await until(lambda: bench.controller.faults.reasons)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
