"""The memory of a GPU is attributed to its owners: ours, and foreign ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.device_memory import SLACK_BYTES, GpuProcess, split_memory
from partitiond.core.units import GIB

OURS, OTHER = 10, 20


SERVER = 30


@pytest.mark.parametrize(
    ("used_gib", "processes", "own", "hidden_before_gib", "held_gib"),
    [
        (12, [(OURS, 8), (OTHER, 4)], {OURS}, 0, (8, 4)),
        # Memory without a process is foreign before our engines come, and stays what it was: in a
        # container neither our engines nor the others are named.
        (6, [], set(), 0, (0, 6)),
        (20, [], {OURS}, 6, (14, 6)),
        # Under MPS the server's memory is ours when its pid is.
        (8, [(OURS, 0), (SERVER, 8)], {OURS, SERVER}, 0, (8, 0)),
        # Untold figures are the rest.
        (10, [(OURS, None), (OTHER, 2)], {OURS}, 0, (8, 2)),
        (10, [(OURS, 8), (OTHER, None)], {OURS}, 0, (8, 2)),
    ],
)
def test_memory_is_of_those_that_hold_it(
    used_gib: int,
    processes: list[tuple[int, int | None]],
    own: set[int],
    hidden_before_gib: int,
    held_gib: tuple[int, int],
) -> None:
    found = [GpuProcess(pid, None if gib is None else gib * GIB) for pid, gib in processes]
    split = split_memory(used_gib * GIB, found, own, hidden_before_gib * GIB)
    assert (split.ours_bytes / GIB, split.foreign_bytes / GIB) == held_gib


PROCESSES = st.lists(
    st.builds(GpuProcess, st.integers(1, 8), st.none() | st.integers(0, 8 * GIB)),
    max_size=6,
    unique_by=lambda p: p.pid,
)


@given(st.integers(0, 40 * GIB), PROCESSES, st.sets(st.integers(1, 8)), st.integers(0, 40 * GIB))
def test_no_byte_is_counted_twice_and_none_beyond_what_is_used(
    used: int, found: list[GpuProcess], own: set[int], hidden_before: int
) -> None:
    split = split_memory(used, found, own, hidden_before)
    assert 0 <= split.hidden_bytes <= split.foreign_bytes <= used
    assert split.ours_bytes + split.foreign_bytes <= used
    assert {p.pid for p in split.foreign} == {p.pid for p in found} - own


@given(st.integers(0, 40 * GIB), PROCESSES)
def test_without_engines_of_ours_everything_beyond_the_slack_is_foreign(
    used: int, found: list[GpuProcess]
) -> None:
    split = split_memory(used, found, set())
    assert used - split.foreign_bytes <= SLACK_BYTES
    assert found or used > SLACK_BYTES or split.foreign_bytes == 0, "an idle GPU is nobody's"
    assert split.ours_bytes == 0
