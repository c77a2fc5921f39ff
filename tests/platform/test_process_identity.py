"""What this process cannot look at is not taken for gone."""

import asyncio
import subprocess
from collections.abc import Iterator

import pytest

from partitiond.platform import process_exit
from partitiond.platform.process_exit import wait_gone
from partitiond.platform.process_identity import ProcessId, boot_id, is_alive, start_ticks
from tests.machine import no_files_left


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def identity(process: "subprocess.Popen[bytes]") -> ProcessId:
    ticks = start_ticks(process.pid)
    assert ticks is not None
    return ProcessId(process.pid, ticks, boot_id())


def test_who_can_open_nothing_takes_no_living_process_for_gone(
    child: "subprocess.Popen[bytes]",
) -> None:
    here = identity(child)
    with no_files_left():
        assert is_alive(here)
        with pytest.raises(OSError, match="Too many open files"):
            start_ticks(child.pid)
    child.kill()
    child.wait()
    with no_files_left():
        assert not is_alive(here)
    assert start_ticks(child.pid) is None


async def test_the_end_of_a_process_is_waited_for_once_it_can_be(
    child: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_exit, "AGAIN_SECONDS", 0.0)
    gone = asyncio.ensure_future(wait_gone(identity(child)))
    with no_files_left():
        for _ in range(5):
            await asyncio.sleep(0)
        assert not gone.done()
    child.kill()
    await gone
