"""The memory of a GPU is attributed to its owners."""

from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.hardware.device_memory import SLACK_BYTES, GpuProcess, split_memory
from partitiond.core.units import GIB

OURS, OTHER = 10, 20


def test_what_others_hold_is_foreign_and_what_we_hold_is_not() -> None:
    split = split_memory(12 * GIB, [GpuProcess(OURS, 8 * GIB), GpuProcess(OTHER, 4 * GIB)], {OURS})
    assert (split.ours_bytes, split.foreign_bytes, split.hidden_bytes) == (8 * GIB, 4 * GIB, 0)
    assert [p.pid for p in split.foreign] == [OTHER]


def test_an_idle_gpu_is_nobodys() -> None:
    split = split_memory(SLACK_BYTES, [], set())
    assert (split.ours_bytes, split.foreign_bytes, split.hidden_bytes) == (0, 0, 0)


def test_memory_without_a_process_is_foreign_before_our_engines_come() -> None:
    split = split_memory(6 * GIB, [], set())
    assert (split.foreign_bytes, split.hidden_bytes) == (6 * GIB, 6 * GIB)


def test_hidden_memory_stays_what_it_was_once_ours_are_there() -> None:
    """In a container neither our engines nor the others are named."""
    split = split_memory(20 * GIB, [], {OURS}, hidden_before=6 * GIB)
    assert (split.foreign_bytes, split.ours_bytes) == (6 * GIB, 14 * GIB)


def test_engines_do_not_shrink_their_own_gpu_where_nobody_is_named() -> None:
    assert split_memory(20 * GIB, [], {OURS}).foreign_bytes == 0


def test_under_mps_the_servers_memory_is_ours_when_its_pid_is() -> None:
    server = 30
    found = [GpuProcess(OURS, 0), GpuProcess(server, 8 * GIB)]
    assert split_memory(8 * GIB, found, {OURS, server}).foreign_bytes == 0


def test_untold_figures_of_ours_are_the_rest() -> None:
    found = [GpuProcess(OURS, None), GpuProcess(OTHER, 2 * GIB)]
    split = split_memory(10 * GIB, found, {OURS})
    assert (split.ours_bytes, split.foreign_bytes) == (8 * GIB, 2 * GIB)


def test_untold_figures_of_others_are_the_rest() -> None:
    found = [GpuProcess(OURS, 8 * GIB), GpuProcess(OTHER, None)]
    split = split_memory(10 * GIB, found, {OURS})
    assert (split.ours_bytes, split.foreign_bytes) == (8 * GIB, 2 * GIB)


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
    assert split.ours_bytes == 0
