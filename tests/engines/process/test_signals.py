import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from partitiond.engines.process import signals as process
from partitiond.engines.process.signals import REPLICA_DIR_VARIABLE, ProcessId
from partitiond.platform.process_identity import own_identity

WAITS = [sys.executable, "-I", "-S", "-c", "import time; print(flush=True); time.sleep(600)"]


@contextlib.contextmanager
def waiting(env: dict[str, str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(WAITS, env=env, stdout=subprocess.PIPE, **options) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that carries the mark of a replica."""
    with waiting({REPLICA_DIR_VARIABLE: str(tmp_path)}) as child:
        yield child


def identity(pid: int) -> ProcessId:
    ticks = process.start_ticks(pid)
    assert ticks is not None
    return ProcessId(pid, ticks, process.boot_id())


async def test_a_process_is_known_by_more_than_its_pid_and_is_waited_for(
    sleeper: subprocess.Popen[bytes],
) -> None:
    ours = identity(sleeper.pid)
    assert process.is_alive(ours)
    assert process.is_alive(own_identity())
    assert own_identity().pid == os.getpid()
    recycled = dataclasses.replace(ours, start_ticks=ours.start_ticks + 1)
    earlier_boot = dataclasses.replace(ours, boot_id="another")
    for other in (recycled, earlier_boot):
        assert not process.is_alive(other)
        assert not process.send_signal(other, signal.SIGKILL)
    assert sleeper.poll() is None
    waiting = asyncio.create_task(process.wait_gone(ours))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert process.send_signal(ours, signal.SIGKILL)
    await asyncio.wait_for(waiting, 60)
    await asyncio.wait_for(process.wait_gone(ours), 60)


def test_a_zombie_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    ours = identity(sleeper.pid)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not process.is_alive(ours)


async def test_marked_processes_are_killed_wherever_they_are(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """And not those of another replica, nor a shell that stands in the run folder."""
    with waiting({}, cwd=tmp_path) as shell:
        for other in (tmp_path.parent / (tmp_path.name + "0"), tmp_path.parent):
            assert await process.kill_all(other, None) == ()
        assert process.processes_of(tmp_path, None) == [sleeper.pid]
        nobody = ProcessId(999_999_999, 1, process.boot_id())
        assert process.processes_of(tmp_path, nobody) == [sleeper.pid]
        assert await process.kill_all(tmp_path, None) == ()
        assert process.processes_of(tmp_path, None) == []
        assert shell.poll() is None


@pytest.mark.usefixtures("sleeper")
def test_the_leader_of_a_replica_leads_a_session(tmp_path: Path) -> None:
    """And not the oldest of its processes: what started it may have its mark, too."""
    assert process.leader_of(tmp_path) is None
    mark = {REPLICA_DIR_VARIABLE: str(tmp_path)}
    with waiting(mark, start_new_session=True) as leader:
        assert process.leader_of(tmp_path) == identity(leader.pid)
