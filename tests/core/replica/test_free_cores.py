"""New replicas are placed beside the replicas that they replace if cores are free."""

import dataclasses

from hypothesis import given

from partitiond.core.hardware.room import overlap
from partitiond.core.plan.record import Placement, same_engine
from partitiond.core.replica.free_cores import beside_what_runs
from tests.controller.samples import cpu
from tests.core.simulated_host import CORES, placement, plans

CPU = cpu(CORES)
OTHER = dataclasses.replace(CPU, id="cpu-b")


def cores_of(placements: tuple[Placement, ...]) -> list[tuple[int, ...]]:
    return [p.partition.cores for p in placements]  # type: ignore[union-attr]


def test_a_replica_that_changes_goes_to_free_cores_or_stays() -> None:
    old, new = placement("a-1", [0, 1]), placement("a-1", [0, 1], batch=16)
    assert cores_of(beside_what_runs([new], [old], [CPU])) == [(2, 3)]
    old, new = placement("a-1", [0, 1, 2]), placement("a-1", [0, 1, 2], batch=16)
    assert beside_what_runs([new], [old], [CPU]) == (new,)
    assert beside_what_runs([old], [old], [CPU]) == (old,)
    old, new = placement("a-1", [0]), placement("b-1", [0])
    assert cores_of(beside_what_runs([new], [old], [CPU])) == [(1,)]
    device = dataclasses.replace(cpu(6), core_nodes=((0, 1, 2), (3, 4, 5)))
    old, new = placement("a-1", [0, 1]), placement("a-1", [0, 1], batch=16)
    assert cores_of(beside_what_runs([new], [old], [device])) == [(3, 4)]


@given(plans(), plans())
def test_nobody_gets_in_anybody_s_way_and_what_stays_is_left_alone(
    running: tuple[Placement, ...], wanted: tuple[Placement, ...]
) -> None:
    found = beside_what_runs(wanted, running, [CPU, OTHER])
    assert [p.replica_id for p in found] == [p.replica_id for p in wanted]
    for n, one in enumerate(found):
        assert not any(overlap(one.partition, other.partition) for other in found[n + 1 :])
    before = {p.replica_id: p for p in running}
    for asked, got in zip(wanted, found, strict=True):
        assert len(got.partition.cores) == len(asked.partition.cores)  # type: ignore[union-attr]
        if asked.replica_id in before and same_engine(before[asked.replica_id], asked):
            assert got == asked
