"""Helper processes end with their run in every case."""

import asyncio
import os
import sys

import psutil
import pytest

from partitiond.models.process import run
from tests.machine import until

LIMIT = 0.5
"""Seconds after which a program is ended, at whatever it is then."""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


async def test_lines_come_as_they_are_printed_and_the_last_ones_are_kept() -> None:
    lines: list[str] = []
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
    finished = await run(python(code), timeout_seconds=30, on_line=lines.append)
    assert sorted(lines) == ["one", "two"]
    assert finished.code == 3
    assert not finished.timed_out
    assert finished.last_line in {"one", "two"}


async def test_a_deadline_ends_it_and_its_children() -> None:
    seconds = f"{os.getpid()}.25"  # names both of its processes
    finished = await run(["sh", "-c", f"sleep {seconds} & sleep {seconds}"], timeout_seconds=LIMIT)
    assert finished.timed_out
    await until(lambda: not [p for p in psutil.process_iter(["cmdline"])
                             if seconds in (p.info["cmdline"] or ())])  # fmt: skip


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
    assert not psutil.pid_exists(pids[0])


async def test_a_program_that_is_not_there_raises() -> None:
    with pytest.raises(OSError, match="no-such-program"):
        await run(["/no-such-program"], timeout_seconds=60)
