"""Memory of partitions is checked before and after a start."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware import partition_checks
from partitiond.core.hardware.device_memory import GpuProcess
from partitiond.core.hardware.kinds import headroom_bytes
from partitiond.core.hardware.partition_checks import GpuUse, Neighbour, outgrown, overshoot
from partitiond.core.units import GIB, MIB

TOTAL = 80 * GIB


def use(*held: int, reserved: int = GIB) -> GpuUse:
    processes = tuple(GpuProcess(pid, bytes_) for pid, bytes_ in enumerate(held, 1))
    return GpuUse(TOTAL, reserved, TOTAL - reserved - sum(held), processes)


def test_what_processes_hold_is_summed_and_unknown_where_no_one_says() -> None:
    seen = use(GIB, 2 * GIB)
    assert seen.held_by([1, 2]) == 3 * GIB
    assert seen.held_by([7]) is None
    assert GpuUse(TOTAL, 0, TOTAL, (GpuProcess(1, None),)).held_by([1]) is None


@given(
    st.lists(st.tuples(st.integers(0, 20 * GIB), st.integers(0, 20 * GIB)), max_size=5),
    st.integers(0, 20 * GIB),
)
def test_who_starts_in_the_room_there_is_takes_nothing_from_anyone(
    engines: list[tuple[int, int]], foreign: int
) -> None:
    """However the neighbours fill up to their budgets, all fit if the newcomer keeps to it."""
    seen = use(*[held for _, held in engines], foreign)
    neighbours = [Neighbour(str(n), budget, held) for n, (budget, held) in enumerate(engines)]
    room = partition_checks.room_bytes(seen, neighbours)
    full = sum(max(budget, held) for budget, held in engines)
    assert full + foreign + room == TOTAL - GIB


def test_unknown_holders_have_to_fit_by_their_budgets() -> None:
    neighbours = [Neighbour("a", 60 * GIB, None)]
    assert partition_checks.promised_bytes(neighbours) == 0
    assert partition_checks.room_bytes(use(GIB), neighbours) == TOTAL - GIB - 60 * GIB


@given(st.lists(st.integers(GIB, 20 * GIB), min_size=1, max_size=4))
def test_tolerances_of_all_are_within_the_headroom(budgets: list[int]) -> None:
    if sum(budgets) <= TOTAL - headroom_bytes(TOTAL):
        assert sum(map(partition_checks.tolerance_bytes, budgets)) <= headroom_bytes(TOTAL)


def test_an_overshoot_is_told_with_its_size_and_is_none_of_a_neighbours_memory() -> None:
    budget = 10 * GIB
    seen = use(11 * GIB)
    assert overshoot(budget, budget, seen, ()) == ""
    assert overshoot(budget, budget + 100 * MIB, seen, ()) == ""
    assert "1 GiB more than its partition (10 GiB)" in overshoot(budget, 11 * GIB, seen, ())
    budget = 10 * GIB
    seen = use(budget + MIB, GIB)
    asleep = [Neighbour("b", 69 * GIB, GIB)]
    assert "neighbours lack 1 MiB" in overshoot(budget, budget + MIB, seen, asleep)


@given(
    st.integers(1, 80 * GIB),
    st.lists(st.integers(0, 80 * GIB), max_size=8),
    st.integers(0, GIB),
    st.integers(1, 5),
)
def test_who_was_within_its_share_at_one_of_the_newest_looks_stays(
    budget: int, held: list[int], tolerance: int, looks: int
) -> None:
    beyond = [bytes_ > budget + tolerance for bytes_ in held]
    expected = len(held) >= looks and all(beyond[len(held) - looks :])
    assert outgrown(budget, held, tolerance, looks) is expected


@pytest.mark.parametrize(
    ("planned", "reported", "short"),
    [(100_000, 100_000, False), (100_000, 95_000, False), (100_000, 94_000, True),
     (0, 5, False), (100_000, 0, False), (200, 16, False)],
)  # fmt: skip
def test_a_kv_cache_may_lack_a_few_blocks(planned: int, reported: int, short: bool) -> None:
    assert bool(partition_checks.kv_shortfall(planned, reported)) is short
