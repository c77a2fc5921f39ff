"""Cores go to one engine each, and running engines keep theirs."""

import dataclasses

from partitiond.core.hardware.partition import CpuCores
from partitiond.core.plan.record import Placement
from partitiond.planner.model.cores import CoreWish, choose_cores, core_notes
from tests.planner.build import cpu, on_cores


def wish(name: str, count: int, allowed: range, **more: object) -> CoreWish:
    """A wish on a CPU device."""
    return CoreWish(name, count, tuple(allowed), exclusive=True, **more)  # type: ignore[arg-type]


def test_kept_cores_stay_and_the_lowest_free_ones_are_given() -> None:
    found = choose_cores([wish("a", 2, range(4), kept=(1, 2)), wish("b", 1, range(4))])
    assert found == {"a": (1, 2), "b": (0,)}


def test_cores_that_gpus_need_are_taken_last() -> None:
    on_gpu = CoreWish("g", 1, (0, 1), exclusive=False)
    assert choose_cores([wish("a", 2, range(4)), on_gpu]) == {"a": (2, 3)}


def test_an_engine_gives_way_where_it_has_a_choice() -> None:
    found = choose_cores([wish("a", 1, range(2)), wish("b", 1, range(1))])
    assert found == {"a": (1,), "b": (0,)}


def test_running_engines_move_only_when_nobody_else_would_fit() -> None:
    found = choose_cores([wish("a", 1, range(2), kept=(0,)), wish("b", 1, range(1))])
    assert found == {"a": (1,), "b": (0,)}


NODES = ((0, 1, 2, 3), (4, 5, 6, 7))


def test_an_engine_gets_the_cores_of_one_node() -> None:
    found = choose_cores(
        [wish("a", 3, range(8), nodes=NODES), wish("b", 3, range(8), nodes=NODES)],
    )
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


def test_what_runs_stays_though_it_spans_nodes() -> None:
    found = choose_cores([wish("a", 2, range(8), kept=(3, 4), nodes=NODES)])
    assert found == {"a": (3, 4)}


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
