"""Only one daemon uses a state folder, whatever process dies."""

import itertools
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from partitiond.core.errors import ConflictError, StoreError
from partitiond.store import StateFolderBusyError, StateLock, lock
from partitiond.store.lock import lock_holder
from tests.store.holder import running

HOLD = """
import pathlib, sys
from partitiond.store import StateLock
lock = StateLock.acquire(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_daemon_is_told_who_is_there(tmp_path: Path) -> None:
    path = tmp_path / "state" / "daemon.lock"
    with running(HOLD, path) as other:
        with pytest.raises(StateFolderBusyError, match=f"process {other.pid}") as caught:
            StateLock.acquire(path)
        assert isinstance(caught.value, ConflictError)
        holder = lock_holder(path)
        assert holder is not None
        assert holder.pid == other.pid
        other.kill()
        other.wait()
        with StateLock.acquire(path):  # the kernel released it
            pass


def test_the_same_process_cannot_take_it_twice(tmp_path: Path) -> None:
    path = tmp_path / "daemon.lock"
    own = StateLock.acquire(path)
    with pytest.raises(StateFolderBusyError, match=str(os.getpid())):
        StateLock.acquire(path)
    own.release()
    own.release()
    assert lock_holder(path) is None
    StateLock.acquire(path).release()


def test_children_do_not_inherit_it(tmp_path: Path) -> None:
    path = tmp_path / "daemon.lock"
    own = StateLock.acquire(path)
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; print('runs', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        close_fds=False,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"runs\n"
        own.release()
        StateLock.acquire(path).release()


KILLED_WHILE_IT_FORKS = """
import os, pathlib, sys
from partitiond.store import StateLock
lock = StateLock.acquire(pathlib.Path(sys.argv[1]))
if os.fork() == 0:
    print("held", flush=True)
    sys.stdin.read()
os._exit(0)
"""
KILLED_WITH_THREADS_LEFT = """
import ctypes, os, pathlib, sys, threading, time
from partitiond.store import StateLock
lock = StateLock.acquire(pathlib.Path(sys.argv[1]))
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start()
print("held", flush=True)
ctypes.CDLL(None).syscall(60, 0)  # exit of this thread alone: a zombie that leads a living one
"""


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[IO[bytes]]]:
    """Input of a program, which ends once a living one would be named: after so many looks."""
    inputs: list[IO[bytes]] = []
    seen = itertools.count(1)
    pause = time.sleep

    def look(_: float) -> None:
        if next(seen) > lock.LOOKS + 1:
            inputs[0].close()
        pause(0.001)

    monkeypatch.setattr("partitiond.store.lock.time.sleep", look)
    yield inputs
    assert inputs[0].closed


def test_a_killed_holder_may_leave_a_child_that_has_not_reached_its_exec(
    tmp_path: Path, looks: list[IO[bytes]]
) -> None:
    path = tmp_path / "daemon.lock"
    with running(KILLED_WHILE_IT_FORKS, path) as other:
        assert other.stdin is not None
        other.wait()
        assert lock_holder(path) is not None, "the child holds it still"
        looks.append(other.stdin)
        StateLock.acquire(path).release()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of the call is x86-64's")
def test_a_killed_holder_may_have_threads_that_still_end(
    tmp_path: Path, looks: list[IO[bytes]]
) -> None:
    path = tmp_path / "daemon.lock"
    with running(KILLED_WITH_THREADS_LEFT, path) as other:
        assert other.stdin is not None
        looks.append(other.stdin)
        StateLock.acquire(path).release()
        assert other.wait() == 0


def test_no_lock_has_no_holder_and_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    assert lock_holder(tmp_path / "none") is None
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="lock"):
        StateLock.acquire(tmp_path / "file" / "daemon.lock")
