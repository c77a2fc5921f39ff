"""Engines that outgrow their share of a device while they serve are detected."""

from collections.abc import Mapping

import pytest

from partitiond.controller.journal import Journal
from partitiond.controller.runtime.memory_watch import MemoryWatch
from partitiond.core.errors import DeviceError
from partitiond.core.hardware.partition import ShareUse
from partitiond.core.hardware.partition_checks import OUTGROWN_LOOKS, tolerance_bytes
from partitiond.core.profile.record import ProfileKind
from partitiond.core.replica.states import ReplicaState
from partitiond.core.units import GIB, MIB
from tests.controller.fakes import POLICY
from tests.controller.runtime.bench import Bench
from tests.controller.samples import placement
from tests.hosts.pipes import FakePartitions

BUDGET = 10 * GIB
MOST = BUDGET + tolerance_bytes(BUDGET)


def held(sizes: Mapping[str, int]) -> list[ShareUse]:
    return [ShareUse(name, BUDGET, size) for name, size in sizes.items()]


@pytest.fixture
def growing(bench: Bench) -> FakePartitions:
    found = FakePartitions()
    bench.controller.memory = MemoryWatch(
        found,
        runner=bench.runner,
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
    bench: Bench, growing: FakePartitions
) -> None:
    await bench.run(placement("a-1", [0]), placement("b-1", [1]))
    bench.proxy.counts = {"a-1": 1}
    growing.held = held({"a-1": MOST + 1, "b-1": MOST, "another-daemons": 2 * MOST})
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
    growing.held = held({"a-1": BUDGET, "b-1": MOST})
    await look(bench)
    await bench.passes()
    assert bench.runner.stopped == ["a-1"], "the new process is another one"
    assert bench.controller.memory.outgrown == frozenset()


async def test_only_looks_in_a_row_at_one_process_count(
    bench: Bench, growing: FakePartitions
) -> None:
    await bench.run(placement("a-1"))
    growing.held = held({"a-1": 2 * MOST})
    await look(bench, OUTGROWN_LOOKS - 1)
    for error in (DeviceError("the driver does not answer."), ValueError("bug")):
        growing.breaks_with = error
        await look(bench, 3 * OUTGROWN_LOOKS)
    growing.breaks_with, growing.held = None, []  # of this one the driver tells nothing
    await look(bench, 3 * OUTGROWN_LOOKS)
    await bench.passes()
    assert bench.states() == {"a-1": ReplicaState.SERVING}
    bench.runner.die("a-1")
    await bench.passes()
    bench.clock.now += 10.0
    await bench.passes(8)
    assert bench.states() == {"a-1": ReplicaState.SERVING}
    growing.held = held({"a-1": 2 * MOST})
    await look(bench, 1)
    assert bench.controller.memory.outgrown == frozenset(), "the former process is another one"
    await look(bench, OUTGROWN_LOOKS - 1)
    assert len(bench.controller.memory.outgrown) == 1


@pytest.mark.parametrize(
    ("kind", "sizes", "outgrows"),
    [
        (ProfileKind.MEASURED, (400, 629, 629), True),
        (ProfileKind.MEASURED, (400, 628, 628), False),  # 500 MiB and the tolerance
        (ProfileKind.MEASURED, (400, 900, 628), False),  # it gave it back
        (ProfileKind.MEASURED, (700, 828, 828), False),  # so would its next process
        (ProfileKind.MEASURED, (700, 829, 829), True),
        (ProfileKind.ESTIMATED, (700, 928, 928), False),  # what it had at first, and its KV cache
        (ProfileKind.ESTIMATED, (700, 929, 929), True),
        (ProfileKind.TRANSFERRED, (100, 629, 629), True),
    ],
)
async def test_an_engine_on_a_cpu_is_judged_by_what_its_processes_hold(
    bench: Bench, kind: ProfileKind, sizes: tuple[int, int, int], outgrows: bool
) -> None:
    """Without any device that has memory shares."""
    first, peak, held = sizes
    await bench.run(placement("a-1", kind=kind))
    bench.runner.peaks["a-1"], bench.runner.held["a-1"] = first * MIB, 100 * MIB
    await look(bench)
    assert bench.controller.memory.outgrown == frozenset()
    bench.runner.peaks["a-1"], bench.runner.held["a-1"] = peak * MIB, held * MIB
    await look(bench, OUTGROWN_LOOKS - 1)
    assert bench.controller.memory.outgrown == frozenset(), "it may give it back"
    await look(bench, 1)
    assert bool(bench.controller.memory.outgrown) == outgrows
    await bench.passes(10)
    assert bench.runner.stopped == ["a-1"] * outgrows
