"""CPU telemetry gives the time of sessions."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.devices.telemetry import HostTelemetry
from partitiond.devices.telemetry.cpu_time import cpu_seconds
from tests.devices.fake import fake_cpu

CHILDREN = """
import os, sys, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
for own_session in (False, False, True):
    done, writes = os.pipe()
    if os.fork() == 0:
        if own_session:
            os.setsid()
        burn(0.1)
        os.write(writes, b"1")
        os.read(0, 1) if own_session else None
        os._exit(0)
    os.read(done, 1)
    own_session or os.wait()
print("done", flush=True)
sys.stdin.read()
"""
"""Two children that have ended, and one with a session of its own."""

BURN = """
import sys, time
print(1, flush=True)
sys.stdin.readline()
begun = time.process_time()
while time.process_time() - begun < 0.4:
    pass
print(time.process_time() - begun, flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def leader(script: str) -> Iterator[subprocess.Popen[str]]:
    """Of a session, once it has said its first line."""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as found:  # fmt: skip
        assert found.stdout is not None
        found.stdout.readline()
        yield found
        found.communicate("\n")


def test_children_that_ended_count_and_those_with_a_session_of_their_own() -> None:
    with leader(CHILDREN) as found:
        assert cpu_seconds([found.pid]) >= 0.28
        own = Path(f"/proc/{found.pid}/task/{found.pid}/children").read_text().split()
        assert len(own) == 1
        os.kill(int(own[0]), 9)
    assert cpu_seconds([]) == 0.0


async def test_cores_used_is_cpu_time_by_wall_time() -> None:
    """Against the process's own account of itself, and a clock that the test sets."""
    now = 0.0
    with leader(BURN) as found:
        assert found.stdin is not None
        assert found.stdout is not None
        window = await HostTelemetry(clock=lambda: now).open(fake_cpu(), (found.pid,))
        found.stdin.write("\n")
        found.stdin.flush()
        burned = float(await asyncio.to_thread(found.stdout.readline))
        now = 10.0
        told = await window.close()
    assert told is not None
    assert told.cores_used == pytest.approx(burned / 10, rel=0.35)


async def test_a_cpu_exposes_the_cores_that_are_used_alone() -> None:
    exposure = await HostTelemetry().exposure(fake_cpu())
    assert (exposure.exposes, exposure.missing) == (("cores_used",), {})
