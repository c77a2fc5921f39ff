"""Engines that outgrow their share of a device while they serve are detected."""

from collections.abc import Sequence

import pytest

from partitiond.controller.journal import Journal
from partitiond.controller.runtime.memory_watch import MemoryWatch
from partitiond.core.errors import DeviceError
from partitiond.core.hardware.partition import ShareUse
from partitiond.core.hardware.partition_checks import OUTGROWN_LOOKS, tolerance_bytes
from partitiond.core.replica.states import ReplicaState
from partitiond.core.units import GIB
from tests.controller.fakes import POLICY
from tests.controller.runtime.bench import Bench
from tests.controller.runtime.test_faults import FaultyPartitions
from tests.controller.samples import placement

BUDGET = 10 * GIB
MOST = BUDGET + tolerance_bytes(BUDGET)


class Growing(FaultyPartitions):
    """Tells what it is told that engines hold."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, int] = {}

    async def shares(self) -> Sequence[ShareUse]:
        if self.breaks_with is not None:
            raise self.breaks_with
        return [ShareUse(name, BUDGET, held) for name, held in self.held.items()]


@pytest.fixture
def growing(bench: Bench) -> Growing:
    found = Growing()
    bench.controller.memory = MemoryWatch(
        found,
        engines=lambda: bench.controller.engines,
        journal=Journal(bench.store, bench.clock),
        policy=POLICY,
        wake=bench.controller.wake,
    )
    return found


async def look(bench: Bench, times: int = OUTGROWN_LOOKS) -> None:
    for _ in range(times):
        await bench.controller.memory.look()


async def test_an_engine_that_outgrew_its_share_is_told_of_drained_and_started_again(
    bench: Bench, growing: Growing
) -> None:
    await bench.run(placement("a-1", [0]), placement("b-1", [1]))
    bench.proxy.counts = {"a-1": 1}
    growing.held = {"a-1": MOST + 1, "b-1": MOST, "another-daemons": 2 * MOST}
    await look(bench, OUTGROWN_LOOKS - 1)
    await bench.passes()
    assert set(bench.states().values()) == {ReplicaState.SERVING}, "it may give it back"
    await look(bench, 1)
    await bench.passes()
    assert bench.routed() == {"a-1": True, "b-1": False}
    assert bench.states()["a-1"] is ReplicaState.DRAINING, "a request still runs there"
    bench.proxy.counts = {}
    await bench.passes(10)
    assert bench.states() == {"a-1": ReplicaState.SERVING, "b-1": ReplicaState.SERVING}
    assert bench.runner.stopped == ["a-1"]
    assert [launch.replica_id for launch in bench.runner.launches] == ["a-1", "b-1", "a-1"]
    assert bench.kinds().count("engine-outgrew") == 1
    growing.held["a-1"] = BUDGET
    await look(bench)
    await bench.passes()
    assert bench.runner.stopped == ["a-1"], "the new process is another one"
    assert bench.controller.memory.outgrown == frozenset()


async def test_what_cannot_be_seen_ends_no_engine_and_not_the_watch(
    bench: Bench, growing: Growing
) -> None:
    await bench.run(placement("a-1"))
    growing.held = {"a-1": 2 * MOST}
    await look(bench, OUTGROWN_LOOKS - 1)
    for error in (DeviceError("the driver does not answer."), ValueError("bug")):
        growing.breaks_with = error
        await look(bench, 3 * OUTGROWN_LOOKS)
    await bench.passes()
    assert bench.states() == {"a-1": ReplicaState.SERVING}
    growing.breaks_with = None
    growing.held = {}  # of this one the driver tells nothing
    await look(bench, 3 * OUTGROWN_LOOKS)
    growing.held = {"a-1": 2 * MOST}
    await look(bench, 1)
    assert len(bench.controller.memory.outgrown) == 1


async def test_looks_at_a_former_process_do_not_count_against_the_next(
    bench: Bench, growing: Growing
) -> None:
    await bench.run(placement("a-1"))
    growing.held = {"a-1": 2 * MOST}
    await look(bench, OUTGROWN_LOOKS - 1)
    bench.runner.die("a-1")
    await bench.passes()
    bench.clock.now += 10.0
    await bench.passes(8)
    assert bench.states() == {"a-1": ReplicaState.SERVING}
    await look(bench, 1)
    assert bench.controller.memory.outgrown == frozenset()
