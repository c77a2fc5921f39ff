"""The processes of an engine are found whatever became of their environments."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.engines.process.signals import processes_of
from partitiond.platform.process_identity import ProcessId, boot_id, start_ticks
from tests.machine import no_files_left


@pytest.fixture
def unmarked(tmp_path: Path) -> Iterator[tuple[ProcessId, int]]:
    """A session's leader and its child, in the run folder; neither environment names it."""
    leader = subprocess.Popen(
        ["sh", "-c", "sleep 1000 & echo $!; wait"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    assert leader.stdout is not None
    child = int(leader.stdout.readline())
    yield ProcessId(leader.pid, start_ticks(leader.pid) or 0, boot_id()), child
    os.killpg(leader.pid, 9)
    leader.wait()
    leader.stdout.close()


def test_a_process_without_its_mark_is_known_by_session_and_folder(
    tmp_path: Path, unmarked: tuple[ProcessId, int]
) -> None:
    leader, child = unmarked
    assert set(processes_of(tmp_path, leader)) == {leader.pid, child}
    assert processes_of(tmp_path, None) == []
    assert processes_of(tmp_path / "other", leader) == [leader.pid], "another run folder"


def test_who_can_open_nothing_does_not_say_that_no_process_is_left(
    tmp_path: Path, unmarked: tuple[ProcessId, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where the list of all processes was read before."""
    leader, _ = unmarked
    with os.scandir("/proc") as listing:
        entries = list(listing)
    with no_files_left(), pytest.raises(OSError, match="Too many open files"):
        processes_of(tmp_path, leader)
    monkeypatch.setattr(os, "scandir", lambda _: entries)
    with no_files_left(), pytest.raises(OSError, match="Too many open files"):
        processes_of(tmp_path, leader)
