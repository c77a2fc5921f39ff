"""Helper processes end with their run in every case."""

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from partitiond.models.process import run


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_gone(pid: int, seconds: float) -> bool:
    """Wait until the process is gone or only its exit status is left."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{pid}/stat")
        if not alive(pid) or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False


async def test_lines_come_as_they_are_printed_and_the_last_ones_are_kept() -> None:
    lines: list[str] = []
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
    finished = await run(python(code), timeout_seconds=30, on_line=lines.append)
    assert sorted(lines) == ["one", "two"]
    assert finished.code == 3
    assert not finished.timed_out
    assert finished.last_line in {"one", "two"}


async def test_a_deadline_ends_it_and_its_children() -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    finished = await run(python(code), timeout_seconds=2)
    assert finished.timed_out
    assert wait_gone(int(finished.tail[0]), seconds=10)


async def test_silence_has_a_deadline_of_its_own() -> None:
    code = "import time; time.sleep(60)"
    finished = await run(python(code), timeout_seconds=60, first_line_seconds=0.5)
    assert finished.timed_out


async def test_cancelling_ends_it() -> None:
    started = asyncio.Event()
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.append(int(line))
        started.set()

    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    task = asyncio.create_task(run(python(code), timeout_seconds=60, on_line=on_line))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(pids[0])


async def test_a_program_that_is_not_there_raises() -> None:
    with pytest.raises(OSError, match="no-such-program"):
        await run(["/no-such-program"], timeout_seconds=1)
