"""Cores go to one engine each, and running engines keep theirs."""

import dataclasses

import pytest

from partitiond.core.hardware.partition import CpuCores
from partitiond.core.plan.record import Placement
from partitiond.planner.model.cores import CoreWish, choose_cores, core_notes
from tests.planner.build import cpu, on_cores


def wish(name: str, count: int, allowed: range, **more: object) -> CoreWish:
    """A wish on a CPU device."""
    return CoreWish(name, count, tuple(allowed), exclusive=True, **more)  # type: ignore[arg-type]


NODES = ((0, 1, 2, 3), (4, 5, 6, 7))


ON_GPU = CoreWish("g", 1, (0, 1), exclusive=False)


@pytest.mark.parametrize(
    ("wishes", "found"),
    [
        # Kept cores stay, also of two nodes, and the lowest free ones are given.
        (
            [wish("a", 2, range(4), kept=(1, 2)), wish("b", 1, range(4))],
            {"a": (1, 2), "b": (0,)},
        ),
        ([wish("a", 2, range(8), kept=(3, 4), nodes=NODES)], {"a": (3, 4)}),
        # Cores that GPUs need are taken last.
        ([wish("a", 2, range(4)), ON_GPU], {"a": (2, 3)}),
        # An engine gives way where it has a choice, also one that runs if another would not fit.
        ([wish("a", 1, range(2)), wish("b", 1, range(1))], {"a": (1,), "b": (0,)}),
        ([wish("a", 1, range(2), kept=(0,)), wish("b", 1, range(1))], {"a": (1,), "b": (0,)}),
    ],
)
def test_cores_go_to_one_engine_each(
    wishes: list[CoreWish], found: dict[str, tuple[int, ...]]
) -> None:
    assert choose_cores(wishes) == found


def test_an_engine_gets_the_cores_of_one_node() -> None:
    found = choose_cores([wish(name, 3, range(8), nodes=NODES) for name in "ab"])
    assert [{core // 4 for core in cores} for cores in found.values()] in ([{0}, {1}], [{1}, {0}])


def test_small_engines_leave_room_for_large_ones() -> None:
    small = [wish(f"s{n}", 1, range(8), nodes=NODES) for n in range(4)]
    found = choose_cores([*small, wish("large", 4, range(8), nodes=NODES)])
    assert len({core // 4 for core in found["large"]}) == 1
    assert sorted(core for cores in found.values() for core in cores) == list(range(8))


def test_an_engine_spans_nodes_only_where_none_has_enough() -> None:
    found = choose_cores(
        [wish(name, 3, range(8), nodes=NODES) for name in "ab"]
        + [wish("c", 2, range(8), nodes=NODES)]
    )
    assert len(found["c"]) == 2
    assert {core // 4 for core in found["c"]} == {0, 1}
    assert all(len({core // 4 for core in found[name]}) == 1 for name in "ab")


def on_cpu(replica: str, cores: tuple[int, ...]) -> Placement:
    """A replica on cores of the CPU device."""
    candidate = on_cores("m", 1, len(cores))
    return Placement(replica, "m", "cpu", CpuCores("cpu", candidate.memory_bytes, cores), candidate)


def test_a_plan_says_who_spans_nodes_and_where_nobody_knows() -> None:
    known = dataclasses.replace(cpu(8), core_nodes=NODES)
    placed = [on_cpu("m-1", (2, 3)), on_cpu("m-2", (1, 5))]
    assert [note.split()[0] for note in core_notes([known], placed)] == ["m-2"]
    (note,) = core_notes([cpu(8)], placed)
    assert "not known" in note
    assert not list(core_notes([cpu(8)], [on_cpu("m-3", (7,))]))
