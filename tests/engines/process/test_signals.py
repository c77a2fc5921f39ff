import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.errors import EngineError
from partitiond.engines.process import signals as process
from partitiond.engines.process.signals import REPLICA_DIR_VARIABLE, ProcessId
from partitiond.platform.process_identity import own_identity
from tests.engines.undying import undying_processes


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that carries the mark of a replica."""
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import time; print(flush=True); time.sleep(600)"],
        env={REPLICA_DIR_VARIABLE: str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.readline()
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def identity(pid: int) -> ProcessId:
    ticks = process.start_ticks(pid)
    assert ticks is not None
    return ProcessId(pid, ticks, process.boot_id())


def test_a_process_is_known_by_more_than_its_pid(sleeper: subprocess.Popen[bytes]) -> None:
    ours = identity(sleeper.pid)
    assert process.is_alive(ours)
    recycled = dataclasses.replace(ours, start_ticks=ours.start_ticks + 1)
    earlier_boot = dataclasses.replace(ours, boot_id="another")
    for other in (recycled, earlier_boot):
        assert not process.is_alive(other)
        assert not process.send_signal(other, signal.SIGKILL)
    assert sleeper.poll() is None


def test_a_zombie_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    ours = identity(sleeper.pid)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not process.is_alive(ours)


async def test_waiting_ends_when_the_process_does(sleeper: subprocess.Popen[bytes]) -> None:
    ours = identity(sleeper.pid)
    waiting = asyncio.create_task(process.wait_gone(ours))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert process.send_signal(ours, signal.SIGKILL)
    await asyncio.wait_for(waiting, 60)
    await asyncio.wait_for(process.wait_gone(ours), 60)


async def test_marked_processes_are_killed_wherever_they_are(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert process.processes_of(tmp_path, None) == [sleeper.pid]
    assert await process.kill_all(tmp_path, None) == ()
    assert process.processes_of(tmp_path, None) == []


async def test_processes_of_another_replica_are_let_alone(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    other = tmp_path.parent / (tmp_path.name + "0")
    for folder in (other, tmp_path.parent):
        assert await process.kill_all(folder, None) == ()
    assert sleeper.poll() is None


def test_the_leader_of_a_replica_leads_a_session(
    sleeper: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """And not the oldest of its processes: what started it may have its mark, too."""
    assert process.leader_of(tmp_path) is None
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import time; print(flush=True); time.sleep(600)"],
        env={REPLICA_DIR_VARIABLE: str(tmp_path)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as leader:
        assert leader.stdout is not None
        leader.stdout.readline()
        assert process.leader_of(tmp_path) == identity(leader.pid)
        leader.kill()


def test_whoever_looks_into_the_run_folder_is_not_an_engine(tmp_path: Path) -> None:
    """A shell that stands in the folder has another session."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"], cwd=tmp_path, env={}
    ) as shell:
        assert process.processes_of(tmp_path, ProcessId(999_999_999, 1, process.boot_id())) == []
        shell.kill()


@pytest.fixture
def undying(tmp_path: Path) -> Iterator[Path]:
    """Marked processes that come faster than they are killed: as good as an unkillable one."""
    with undying_processes(tmp_path):
        yield tmp_path


async def test_what_outlives_the_killing_is_told(undying: Path) -> None:
    left = await process.kill_all(undying, None, seconds=0.2)
    assert left
    with pytest.raises(EngineError, match="still alive") as caught:
        process.require_gone("sim-0", left)
    assert caught.value.code == "engine"
    assert caught.value.facts["pids"] == list(left)
    assert caught.value.hint


def test_the_identity_of_this_process() -> None:
    ours = own_identity()
    assert ours.pid == os.getpid()
    assert process.is_alive(ours)
