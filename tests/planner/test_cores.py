"""Cores go to one engine each, and those that run keep theirs."""

from partitiond.planner.cores import CoreWish, choose_cores


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
